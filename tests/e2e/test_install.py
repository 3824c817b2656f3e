"""What `meson install` gives: a library that a program outside the tree can be built against, and no more than is
meant."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
INCLUDE = TOP / "include/osync"
ABI = TOP / "tests/abi"

PROGRAM = r"""
#include <osync/error.h>
#include <osync/sink.h>
#include <osync/version.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    uv_loop_t loop;
    osync_sink_t *sink;
    osync_error_t err;
    uv_loop_init(&loop);
    if (osync_file_sink_new(&sink, &loop, 1, &err)) return 1;
    sink->ops->close(sink, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    puts(osync_version());
    return strcmp(osync_version(), OSYNC_VERSION) || uv_loop_close(&loop);
}
"""


def pkg_config(installed, *arguments):
    folder = next(installed.rglob("libosync.pc")).parent
    env = {**os.environ, "PKG_CONFIG_PATH": str(folder), "PKG_CONFIG_SYSROOT_DIR": str(installed)}
    done = subprocess.run(["pkg-config", *arguments, "libosync"], check=True, capture_output=True, text=True, env=env)
    return done.stdout.split()


def headers(installed):
    return sorted(next(installed.rglob("osync/error.h")).parent.glob("*.h"))


def test_tree(installed):
    names = {p.name for p in installed.rglob("*") if p.is_file()}
    assert {
        "osync-collectord",
        "osync-syncd",
        "osync-dump",
        "synctool_helper.py",
        "libosync.a",
        "libosync.pc",
    } <= names
    assert {"data_collector.flags", "synctool.properties"} <= names
    assert {p.name for p in headers(installed)} == {p.name.removesuffix(".in") for p in INCLUDE.glob("*.h*")}


WARNINGS = ["-Wall", "-Wextra", "-pedantic", "-Werror"]


@pytest.mark.parametrize(
    "compiler",
    ["gcc -std=c11", "gcc -std=c17", "clang -std=c11", "clang -std=c17", "g++ -std=c++17", "clang++ -std=c++17"],
)
def test_each_header_alone(installed, tmp_path, compiler):
    """Also twice. uv.h itself needs _GNU_SOURCE with a strict -std."""
    suffix = ".cc" if "++" in compiler else ".c"
    sources = []
    for header in headers(installed):
        sources.append(tmp_path / f"{header.stem}{suffix}")
        sources[-1].write_text(f"#include <osync/{header.name}>\n" * 2 + "extern int something;\n")
    subprocess.run(
        [
            *compiler.split(),
            *WARNINGS,
            "-D_GNU_SOURCE",
            "-fsyntax-only",
            *sources,
            *pkg_config(installed, "--cflags"),
        ],
        check=True,
    )


def compile_outside(installed, folder, output, *sources):
    """Copies them to an empty folder, where nothing but the installed headers and library can be found, and gives a
    function that runs the program."""
    folder.mkdir()
    for source in sources:
        shutil.copy(source, folder)
    program = folder / output
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    subprocess.run(
        ["gcc", *flags, *(s.name for s in sources if s.suffix == ".c"), "-o", program]
        + pkg_config(installed, "--cflags", "--libs"),
        check=True,
        cwd=folder,
    )
    env = {**os.environ, "LD_LIBRARY_PATH": str(next(installed.rglob("libosync.so")).parent)}

    def run(*arguments):
        return subprocess.run([program, *arguments], check=True, capture_output=True, text=True, env=env, cwd=folder)

    return run


def test_program_outside_the_tree(installed, tmp_path):
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", compile_outside(installed, tmp_path / "out", "program", source)().stdout)


@pytest.mark.parametrize("name", ["collectord", "syncd"])
def test_daemons_need_nothing_but_the_library(build, installed, tmp_path, name):
    daemons = TOP / "daemons"
    mains = {"collectord.c", "syncd.c"} - {f"{name}.c"}
    sources = [p for p in sorted(daemons.glob("*.[ch]")) if p.name not in mains]
    run = compile_outside(installed, tmp_path / "out", f"osync-{name}", *sources)
    for option in ["--version", "--help"]:
        built = subprocess.run([build / f"daemons/osync-{name}", option], check=True, capture_output=True, text=True)
        assert built.stdout and run(option).stdout == built.stdout


@pytest.mark.parametrize("example", sorted((TOP / "examples").glob("*.c")), ids=lambda p: p.stem)
def test_examples_need_nothing_but_the_library(installed, tmp_path, example):
    run = compile_outside(installed, tmp_path / "out", example.stem, example)
    if '"--help"' in example.read_text() or '"help"' in example.read_text():
        assert example.stem in run("--help").stdout


def test_sink_example_from_the_installed_tree(installed, tmp_path, hdfs):
    """Puts a file on HDFS; started again, it puts only what was added."""
    run = compile_outside(installed, tmp_path / "out", "put", TOP / "examples/put.c")
    lines = tmp_path / "lines"
    for text in ["one\ntwo\n", "one\ntwo\nthree\n"]:
        lines.write_text(text)
        run(lines, f"webhdfs://{hdfs.http_address}/installed/put")
        files = sorted(p for p in hdfs.list("/installed/put") if "/_osync/" not in p)
        assert b"".join(hdfs.read(p) for p in files).decode() == text
    assert len(files) == 2
    hdfs.delete("/installed")


def test_exports(installed):
    library = next(p for p in installed.rglob("libosync.so.*") if not p.is_symlink())
    table = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    exported = {line.split()[-1] for line in table.splitlines()}
    declared = set()
    for header in headers(installed):
        declared |= set(re.findall(r"OSYNC_API\s[^;(]*?\b(osync_\w+)\(", header.read_text()))
    assert exported == declared
    dynamic = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    assert re.search(r"SONAME.*libosync\.so\.\d+\]", dynamic)


def test_abi(installed):
    """Programs that were built against the release run with this build (test_exports: it exports what the headers
    say). A change is for a new soversion, or is undone; tests/abi/update.sh is for a release."""
    subprocess.run([ABI / "abi.py", "compare", ABI / "libosync.abi", headers(installed)[0].parent], check=True)


@pytest.mark.parametrize(
    "header, old, new, breaks",
    [
        ("csv.h", "} osync_csv_config_t;", "    int more;\n} osync_csv_config_t;", False),
        ("sink.h", "} osync_sink_ops_t;", "    void (*more)(void);\n} osync_sink_ops_t;", False),
        ("csv.h", "    const char *timezone;", "    int more;\n    const char *timezone;", True),
        ("csv.h", "    const char *timezone;", "    long timezone;", True),
        ("row.h", "} osync_cell_t;", "    int more;\n} osync_cell_t;", True),
        ("row.h", "int64_t i64;", "uint64_t i64;", True),
        ("sink.h", "} osync_sink_stat_t;", "    int more;\n} osync_sink_stat_t;", True),
        (
            "sink.h",
            "(void *arg, int status, const osync_error_t",
            "(void *arg, long status, const osync_error_t",
            True,
        ),
        ("row.h", "OSYNC_API uint32_t osync_table_tid(const osync_table_t *table);", "", True),
        ("row.h", "OSYNC_API uint32_t", "OSYNC_API int osync_new(void);\nOSYNC_API uint32_t", False),
        ("error.h", "X(ENOENT, -4,", "X(ENOENT, -44,", True),
        ("error.h", 'X(ECLOSED, -23, "closed", false)', 'X(ECLOSED, -23, "", false) X(ENEW, -24, "", false)', False),
        ("stream.h", "OSYNC_POSITION_MAX = 64 << 10", "OSYNC_POSITION_MAX = 65 << 10", True),
    ],
)
def test_abi_notices(tmp_path, header, old, new, breaks):
    """The comparison itself: what it lets pass, and what it doesn't."""
    changed = tmp_path / "osync"
    shutil.copytree(INCLUDE, changed)
    text = (INCLUDE / header).read_text()
    assert old in text
    (changed / header).write_text(text.replace(old, new, 1))
    subprocess.run([ABI / "abi.py", "describe", INCLUDE, tmp_path / "old.abi"], check=True)
    done = subprocess.run([ABI / "abi.py", "compare", tmp_path / "old.abi", changed], capture_output=True, text=True)
    assert (done.returncode, bool(done.stderr)) == ((1, True) if breaks else (0, False)), done.stderr
