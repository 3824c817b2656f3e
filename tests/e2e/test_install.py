"""What `meson install` gives: a library that a program outside the tree can be built against, and no more than is
meant."""

import os
import re
import subprocess

import pytest

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


@pytest.fixture(scope="module")
def installed(build, tmp_path_factory):
    dest = tmp_path_factory.mktemp("installed")
    env = {**os.environ, "DESTDIR": str(dest)}
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--quiet"], check=True, env=env)
    return dest


def pkg_config(installed, *arguments):
    folder = next(installed.rglob("libosync.pc")).parent
    env = {**os.environ, "PKG_CONFIG_PATH": str(folder), "PKG_CONFIG_SYSROOT_DIR": str(installed)}
    done = subprocess.run(["pkg-config", *arguments, "libosync"], check=True, capture_output=True, text=True, env=env)
    return done.stdout.split()


def headers(installed):
    return sorted(next(installed.rglob("osync/error.h")).parent.glob("*.h"))


def test_tree(installed):
    names = {p.name for p in installed.rglob("*") if p.is_file()}
    assert {"osync-collectord", "osync-syncd", "osync-dump", "synctool_helper.py", "libosync.a", "libosync.pc"} <= names
    assert {"data_collector.flags", "synctool.properties"} <= names
    assert len(headers(installed)) >= 11


@pytest.mark.parametrize("compiler", [["gcc", "-std=c11", "-D_GNU_SOURCE", "-xc"], ["g++", "-std=c++17", "-xc++"]])
def test_each_header_alone(installed, tmp_path, compiler):
    """uv.h itself needs _GNU_SOURCE with a strict -std."""
    for header in headers(installed):
        source = tmp_path / "one"
        source.write_text(f"#include <osync/{header.name}>\nextern int something;\n")
        subprocess.run(
            [*compiler, "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", source]
            + pkg_config(installed, "--cflags"),
            check=True,
        )


def test_program_outside_the_tree(installed, tmp_path):
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    program = tmp_path / "program"
    flags = pkg_config(installed, "--cflags", "--libs")
    subprocess.run(["gcc", "-Wall", "-Werror", source, "-o", program, *flags], check=True)
    folder = str(next(installed.rglob("libosync.so")).parent)
    subprocess.run([program], check=True, env={**os.environ, "LD_LIBRARY_PATH": folder})


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
