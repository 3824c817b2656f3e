"""The documentation: what it names is there, what it links to is there, and what is code in it works. Its programs are
built against an installed tree and run, on a real HDFS and with real tables where they are about these."""

import importlib.util
import itertools
import os
import pathlib
import random
import re
import shlex
import subprocess
import sys

import pytest

from openmldb import fields
from prpc import call, one, pack
from system import Daemon, System
from zookeeper import free_port

ROOT = pathlib.Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EMBEDDING = ROOT / "docs/embedding.md"
PACKAGE = ROOT / "bindings/python/README.md"
TEXTS += [ROOT / "CHANGELOG.md", PACKAGE]

# Fenced blocks that aren't run as they stand, each with the reason.
SPECIAL = {
    "docs/api.md": "made from the headers, which are compiled themselves",
    "bindings/python/README.md": "run with other addresses and paths: test_package_readme",
}


def name(path):
    return str(path.relative_to(ROOT))


def fenced(path):
    """(language, line number, text) of every fenced block."""
    text = path.read_text()
    return [
        (m[1], text.count("\n", 0, m.start()) + 1, m[2])
        for m in re.finditer(r"^```([\w.+-]*)\n(.*?)^```$", text, re.M | re.S)
    ]


def unfenced(path):
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)


def prose(path):
    """The text without its code, fenced or indented."""
    return re.sub(r"^ {4}.*$", "", unfenced(path), flags=re.M)


def programs():
    """file name -> text, of the programs of docs/embedding.md: their first comment begins with their name."""
    found = {}
    for language, line, text in fenced(EMBEDDING):
        if language in ("c", "python"):
            head = re.match(r"(?:/\*|#) (\w+\.(?:c|py)): ", text)
            assert head, f"docs/embedding.md:{line}: the program doesn't begin with its name"
            found[head[1]] = text
    return found


def slug(title):
    """The anchor of a heading, as Markdown's renderers make it."""
    title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def anchors(path):
    return {slug(title) for title in re.findall(r"^#+ (.*)$", unfenced(path), re.M)}


# ---- what the texts name ----


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(there), f"{target}: there is no such heading"


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_files_that_are_named(path):
    """A path from the top, a source below libosync/, or a source's name alone."""
    sources = {p.name for folder in ("libosync", "daemons", "examples", "tests") for p in (ROOT / folder).rglob("*")}
    for token in re.findall(r"`([^`\n]+)`", prose(path)):
        if re.fullmatch(r"(include|libosync|daemons|bindings|examples|tests|docs|debian)/[\w./-]*", token):
            assert (ROOT / token).exists(), f"{token} isn't there"
        elif re.fullmatch(r"[\w-]+/[\w-]+\.[ch]", token):
            assert any((ROOT / top / token).exists() for top in ("include", "libosync")), f"{token} isn't there"
        elif re.fullmatch(r"[\w-]+\.[ch]", token):
            assert token in sources or token in programs() or (ROOT / "include/osync" / token).exists(), token


def test_every_folder_is_in_the_architecture():
    text = (ROOT / "docs/architecture.md").read_text()
    for folder in (ROOT / "libosync").iterdir():
        if folder.is_dir():
            assert f"| `{folder.name}/` |" in text, f"docs/architecture.md doesn't have libosync/{folder.name}/"
    order = re.findall(r"^subdir\('(\w+)'\)", (ROOT / "libosync/meson.build").read_text(), re.M)
    listed = [f for f in re.findall(r"^\| `(\w+)/` \|", text, re.M) if f in order]
    assert listed == order


# ---- the reference ----


def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reference()


def test_reference_is_up_to_date():
    assert (ROOT / "docs/api.md").read_text() == reference(), "run docs/reference.py"


def test_reference_has_everything(installed):
    """Every symbol of the library and every name that a header defines stands in a block of code."""
    code = "\n".join(text for _, _, text in fenced(ROOT / "docs/api.md"))
    library = next(p for p in installed.rglob("libosync.so.*") if not p.is_symlink())
    table = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[-1] for line in table.splitlines()}
    assert len(symbols) > 50
    for symbol in symbols:
        assert re.search(rf"\b{symbol}\(", code), f"docs/api.md doesn't have {symbol}"
    for header in next(installed.rglob("osync/error.h")).parent.glob("*.h"):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
        types = set(re.findall(r"\b(osync_\w+(?:_t|_cb|_fn))\b", text)) | set(re.findall(r"\b(OSYNC_\w+)\b", text))
        for word in types:
            known = re.search(rf"\b{word}\b", code) or f"`{word}`" in (ROOT / "docs/api.md").read_text()
            assert known or re.fullmatch(r"OSYNC_(\w+_H|ERROR_(MAP|ENUM))", word), f"docs/api.md doesn't have {word}"


# ---- code ----


@pytest.fixture(scope="module")
def environment(installed):
    """Of what is built against the installed tree, and of what runs there."""
    pc = next(installed.rglob("libosync.pc")).parent
    library = next(installed.rglob("libosync.so.*")).parent
    package = next(installed.rglob("osync/__init__.py")).parents[1]
    return {
        **os.environ,
        "PKG_CONFIG_PATH": str(pc),
        "PKG_CONFIG_SYSROOT_DIR": str(installed),
        "LD_LIBRARY_PATH": str(library),
        "PYTHONPATH": str(package),
        "TZ": "UTC",
    }


class Programs:
    """The programs of docs/embedding.md in a folder, each built as it says there when it is first used."""

    def __init__(self, folder, environment):
        self.folder, self.environment, self.ready = folder, environment, set()
        self.line = next(text for kind, _, text in fenced(EMBEDDING) if kind == "sh" and text.startswith("cc "))

    def command(self, program):
        """What runs one: C by its name, Python by its file name."""
        file = program if "." in program else f"{program}.c"
        path = self.folder / file
        if program not in self.ready:
            path.write_text(programs()[file])
            if file.endswith(".c"):
                line = re.sub(r"\bcount\b", program, self.line).replace("cc ", "cc -Werror ", 1)
                subprocess.run(["sh", "-ec", line], check=True, cwd=self.folder, env=self.environment)
            self.ready.add(program)
        return [sys.executable, str(path)] if file.endswith(".py") else [str(self.folder / program)]


@pytest.fixture(scope="module")
def built(environment, tmp_path_factory):
    return Programs(tmp_path_factory.mktemp("programs"), environment)


@pytest.fixture
def run(built, environment, tmp_path):
    """Runs one of the programs in an empty folder."""

    def go(program, *arguments):
        done = subprocess.run(
            [*built.command(program), *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return go


RUN = {"rows.c", "rows.py", "count.c", "count.py", "catalog.c", "folder.c", "tables.c", "daemon.c", "admin.c"}
RUN |= {"admin.py", "watch.py"}


def test_every_block_is_tested():
    """Nothing that says it is code stands in the documentation untested. (What is indented is a line to type, or a
    picture.)"""
    assert set(programs()) == RUN, "a program of docs/embedding.md has no test, or a test has no program"
    for path in TEXTS:
        for _, line, text in fenced(path):
            tested = path == EMBEDDING or name(path) in SPECIAL
            assert tested, f"{name(path)}:{line} is not tested: {text.splitlines()[0]}"


@pytest.mark.parametrize("file", sorted(f for f in programs() if f.endswith(".c")))
def test_form(file):
    style = f"--style=file:{ROOT}/.clang-format"
    formed = subprocess.run(
        ["clang-format", style], input=programs()[file], capture_output=True, text=True, check=True
    )
    assert formed.stdout == programs()[file]


def test_rows(run, golden, build, tmp_path):
    """Both give the rows that osync-dump gives, in its order: by their first column."""
    case = golden / "case1_simple"
    folder = next((case / "db").iterdir())
    meta = case / "table_meta.pb"
    csv = subprocess.run(
        [build / "examples/osync-dump", "--meta", meta, "--partition", folder, "--base", "oldest"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ids = re.findall(r'^"(id\d+)",', csv, re.M)
    assert len(ids) >= 20
    assert re.findall(r"^id='(id\d+)' ", run("rows", meta, folder, tmp_path / "scratch"), re.M) == ids
    assert re.findall(r"^Row\(id='(id\d+)', ", run("rows.py", folder), re.M) == ids


@pytest.mark.parametrize("program, last", [("count", 300_000), ("count.py", 600_000)])
def test_count(built, environment, hdfs, tmp_path, numbers, program, last):
    """To a real HDFS, killed at random moments; then every number stands there once."""
    dest = f"/docs/{program}-{free_port()}"
    environment = {**environment, "HADOOP_CONF_DIR": hdfs.conf_dir}
    line = [*built.command(program), dest, str(tmp_path / "state.db"), str(last)]
    kills = 0
    for seed in range(4):
        process = subprocess.Popen(line, env=environment, cwd=tmp_path, stderr=subprocess.PIPE)
        try:
            process.wait(random.Random(seed).uniform(0.1, 1))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
    done = subprocess.run(
        line, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert kills
    names = [p for p in hdfs.list(dest) if not re.search(r"/[._]", p[len(dest) :])]
    got = sorted(int(n) for p in names for n in hdfs.read(p).split())
    assert got == list(range(1, last + 1))
    numbers.add("streams of the docs' programs killed", kills)
    numbers.audited(last)


def test_catalog(run, tmp_path):
    """Once published is once told, and what is told is there."""
    told = run("catalog", tmp_path / "out", tmp_path / "state.db").splitlines()
    assert len(told) == 1 and told[0].startswith("published ")
    assert pathlib.Path(told[0].split(" ", 1)[1]).read_text() == "hello\n"
    assert run("catalog", tmp_path / "out", tmp_path / "state.db") == ""


def test_folder(run, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "out").mkdir()
    dest = f"file://{tmp_path}/out"
    for n in range(1, 4):
        assert run("folder", dest, tmp_path / "state") == f"run {n}\n"
    files = [p for p in (tmp_path / "out").iterdir() if p.name[0] not in "._"]
    assert [p.read_text() for p in files] == ["run\n"] * 3


ROWS = 2000


class Embedded(System):
    """A system whose collector and scheduler are the documentation's programs."""

    def __init__(self, build, folder, zookeeper, built, environment):
        super().__init__(build, folder, zookeeper)
        self.built, self.environment = built, environment

    def start(self, tid, name):
        self.make_table(tid, name, partitions=2)
        meta = self.folder / "table_meta.pb"
        meta.write_bytes(self.table_meta(tid))
        endpoint = f"127.0.0.1:{free_port()}"
        arguments = [endpoint, self.zookeeper.address, self.root, self.folder / "collector", self.tablet.root, meta]
        tables = Daemon(
            *self.built.command("tables"), list(map(str, arguments)), self.folder / "tables.log", self.environment
        )
        tables.endpoint = endpoint
        self.collectors.append(tables.start())
        conf = self.folder / "synctool.properties"
        conf.write_text(
            f"server.host=127.0.0.1\nserver.port={self.syncd_port}\n"
            f"zookeeper.cluster={self.zookeeper.address}\nzookeeper.root_path={self.root}\n"
            "sync_task.check_period=500ms\n"
        )
        state = ["sync_task.progress_path", str(self.folder / "state"), "roll.interval", "300ms"]
        self.syncd = Daemon(
            *self.built.command("daemon"), [str(conf), *state], self.folder / "syncd.log", self.environment
        ).start()
        self.wait_listening()
        self.wait_registered()
        return self

    def table_meta(self, tid):
        """The api::TableMeta of GetTableSchema's answer."""
        asked = pack((1, tid), (2, 0))
        return one(fields(call(self.tablet.endpoint, "openmldb.api.TabletServer", "GetTableSchema", asked)), 3)


@pytest.fixture(scope="module")
def embedded(build, built, environment, zookeeper, tmp_path_factory):
    with Embedded(build, tmp_path_factory.mktemp("embedded"), zookeeper, built, environment) as system:
        system.start(7, "t").tablet.generate(7, ROWS, first_id=0)
        yield system


def test_collector_and_scheduler(run, embedded):
    """A task that admin.c creates goes through both."""
    out = run("admin", f"127.0.0.1:{embedded.syncd_port}", "db", "t", embedded.dest("c"))
    assert '"tasks"' in out
    embedded.wait_gone()
    embedded.audit("c", range(ROWS))


@pytest.mark.parametrize("program", ["admin.py", "watch.py"])
def test_python_client(run, embedded, program):
    """It ends when everything is there."""
    run(program, f"127.0.0.1:{embedded.syncd_port}", "db.t", embedded.dest(program))
    embedded.audit(program, range(ROWS))


def test_package_readme(embedded, environment, tmp_path):
    """The package's own text shows the three things it has; here in a folder, of this system's table."""
    (language, _, text), *more = fenced(PACKAGE)
    assert language == "python" and not more
    for there, here in {
        "127.0.0.1:8848": f"127.0.0.1:{embedded.syncd_port}",
        "hdfs:///warehouse/t1": embedded.dest("readme"),
        "hdfs:///warehouse/clicks": f"file://{tmp_path}/clicks",
        "db.t1": "db.t",
        "/data/openmldb/db/1_0": str(embedded.tablet.partition(7)),
    }.items():
        assert there in text
        text = text.replace(there, here)
    lines = "".join(f'{{"n": {n}}}\n' for n in range(100))
    (tmp_path / "clicks.jsonl").write_text(lines)
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = [p for p in (tmp_path / "clicks").glob("*.jsonl") if p.name[0] not in "._"]
    assert [p.read_text() for p in written] == [lines]
    rows = len(re.findall(r"^Row\(id=", done.stdout, re.M))
    assert 0 < rows < ROWS, "those of one of two partitions"
    embedded.audit("readme", range(ROWS))


# ---- what is indented: lines to type, and files ----


def indented(path):
    """Every run of indented lines, as a list of lines without the indentation."""
    runs = re.findall(r"(?:^ {4}.*\n)+", unfenced(path), re.M)
    return [[line.strip() for line in run.splitlines()] for run in runs]


def typed(path, program):
    """The arguments of every indented line that calls a program; what is optional is given, comments are not."""
    found = []
    for line in itertools.chain.from_iterable(indented(path)):
        if re.match(rf"(?:[\w.]*/[\w./]*)?{re.escape(program)}( |$)", line):
            found.append(shlex.split(re.sub(r"[][]", "", re.split(r"\s[#>|]\s", line)[0]))[1:])
    return found


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_lines_to_type(path, environment, tmp_path):
    """Each is understood by the program it is for: with nobody listening it ends by saying so, not by its usage."""
    (tmp_path / "FILE").write_text("[]")
    for program, command in {
        "synctool_helper.py": [ROOT / "bindings/python/synctool_helper.py"],
        "osync": ["-m", "osync.cli"],
    }.items():
        for arguments in typed(path, program):
            done = subprocess.run(
                [sys.executable, *command, *arguments, "-s", f"127.0.0.1:{free_port()}"],
                capture_output=True,
                text=True,
                env=environment,
                timeout=60,
                cwd=tmp_path,
                check=False,
            )
            assert done.returncode != 2 and "usage" not in done.stderr, f"{program} {arguments}: {done.stderr}"
    for line in itertools.chain.from_iterable(indented(path)):
        here = re.match(r"(?:\w+=\S+ )*((?:tests|examples|docs)/[\w./-]+)", line)
        assert not here or (ROOT / here[1]).exists(), f"{here[1]} isn't there"


READ_CONFIG = """
import ctypes, sys
lib = ctypes.CDLL("libosync.so.1")
err = ctypes.create_string_buffer(4096)
config = ctypes.c_void_p()
assert lib.osync_config_new(ctypes.byref(config), int(sys.argv[1]), err) == 0
rc = lib.osync_config_read(config, sys.argv[2].encode(), err) or lib.osync_config_check(config, err)
sys.exit(err.raw[4:].split(b"\\0")[0].decode() if rc else 0)
"""


def test_configurations(environment, tmp_path):
    """Every configuration file that a text shows is taken, and is enough to start with."""
    kinds = {0: r"#.*|--\w+=.*", 1: r"#.*|[a-z][\w.]+=[^;]*"}
    found = []
    for path in TEXTS:
        for run in indented(path):
            for kind, form in kinds.items():
                if all(re.fullmatch(form, line) for line in run) and len(run) > 3:
                    found.append(kind)
                    file = tmp_path / "file"
                    file.write_text("\n".join(run) + "\n")
                    done = subprocess.run(
                        [sys.executable, "-c", READ_CONFIG, str(kind), file],
                        capture_output=True,
                        text=True,
                        env=environment,
                        check=False,
                    )
                    assert done.returncode == 0, f"{name(path)}: {run[0]}: {done.stderr}"
    assert sorted(set(found)) == [0, 1], "no configuration was found: is it shown in another form?"
