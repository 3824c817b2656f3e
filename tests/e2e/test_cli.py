"""The command `osync` (bindings/python/osync/cli.py) as a person or a program runs it, against a real osync-syncd; and
examples/sync_and_read.py."""

import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios

import pytest

from system import System
from test_golden import dump

TOP = pathlib.Path(__file__).parents[2]
PACKAGE = TOP / "bindings/python"
ROWS = 400


def environment(build, **more):
    path = f"{PACKAGE}:{more.pop('PYTHONPATH', '')}"
    return {**os.environ, "OSYNC_LIBRARY": str(build / "libosync/libosync.so.1"), "PYTHONPATH": path, **more}


def osync(build, *arguments, status=0, **more):
    """The finished process. Without the scheduler's address `more` names it: OSYNC_SCHEDULER."""
    run = subprocess.run(
        [sys.executable, "-m", "osync.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(build, **more),
    )
    assert run.returncode == status, f"{arguments}: status {run.returncode}\n{run.stdout}{run.stderr}"
    assert "Traceback" not in run.stderr
    return run


@pytest.fixture(scope="module")
def system(build, tmp_path_factory, zookeeper):
    conf = {"syncd": {"roll.interval": "100ms"}}
    with System(build, tmp_path_factory.mktemp("cli"), zookeeper, conf=conf) as s:
        s.start()
        yield s


@pytest.fixture
def ask(build, system):
    def run(*arguments, status=0):
        return osync(build, *arguments, status=status, OSYNC_SCHEDULER=f"127.0.0.1:{system.syncd_port}")

    return run


@pytest.fixture(scope="module")
def following(build, system):
    """A table with a task that stays."""
    system.make_table(1, "stays")
    system.fill(1, ROWS)
    scheduler = f"127.0.0.1:{system.syncd_port}"
    run = osync(build, "create", "db.stays", system.dest("stays"), "-m", "continuous", "-s", scheduler)
    assert run.stdout == "db.stays: the task is created\n"
    system.wait_rows("stays", ROWS)
    return "db.stays"


# ---- tasks ----


def test_create_and_wait(system, ask):
    """A full sync from beginning to end, then again beside the rows that are there: with a warning."""
    system.make_table(2, "whole")
    system.fill(2, ROWS)
    run = ask("create", "db.whole", system.dest("whole"), "--wait")
    assert run.stdout == "db.whole: the task is created\n"
    assert run.stderr.splitlines()[-1] == "db.whole: done"
    system.audit("whole", range(ROWS))
    again = ask("create", "db.whole", system.dest("whole"), "--mode", "full")
    assert again.stdout.splitlines()[0] == "db.whole: the task is created"
    assert "holds" in again.stdout, again.stdout
    assert json.loads(ask("wait", "db.whole", "--json").stdout)["done"] is True
    assert ask("wait", "db.whole").stdout.startswith("db.whole has no sync task")
    assert set(system.ids("whole").values()) == {2}
    ask("create", "db.whole", system.dest("whole"), "--restart", "--wait")
    system.audit("whole", range(ROWS))


def test_verify(system, ask, following):
    run = ask("verify", following, system.dest("stays"))
    assert f"{ROWS} rows" in run.stdout
    answer = json.loads(ask("verify", following, system.dest("stays"), "--json").stdout)
    assert answer["response"]["code"] == 0 and int(answer["rows"]) == ROWS
    copy = system.folder / "out" / "damaged"
    shutil.copytree(system.folder / "out" / "stays", copy)
    damaged = next(p for p in sorted(copy.iterdir()) if p.suffix == ".csv")
    damaged.write_bytes(damaged.read_bytes()[:-5])
    run = ask("verify", following, f"file://{copy}", status=1)
    assert damaged.name in run.stdout


def test_status(system, ask, following):
    lines = ask("status").stdout.splitlines()
    assert lines[0].split() == "TABLE MODE STATUS DOING ROWS FILES DESTINATION".split()
    row = next(line for line in lines if line.startswith("db.stays "))
    assert re.search(rf"^db\.stays +continuous +2 RUNNING .* {ROWS} .*{system.dest('stays')}$", row), row
    lines = ask("status", following).stdout.splitlines()
    assert lines[0] == f"db.stays: continuous, active, to {system.dest('stays')}"
    assert [line.split()[:2] for line in lines[3:5]] == [["0", "RUNNING"], ["1", "RUNNING"]]
    page = json.loads(ask("status", "--json").stdout)
    assert [t["table"] for t in page["tasks"]] == [t["table"] for t in system.page()["tasks"]]
    assert "db.stays" in ask("status", "--names").stdout.splitlines()


def test_points_delete_and_go_on(system, ask, following, tmp_path):
    system.make_table(3, "moves")
    system.fill(3, ROWS)
    ask("create", "db.moves", system.dest("moves"), "--mode", "2")
    system.wait_rows("moves", ROWS)
    (tmp_path / "points").write_text(ask("points", "db.moves").stdout)
    assert [p["pid"] for p in json.loads((tmp_path / "points").read_text())] == [0, 1]
    assert ask("delete", "db.moves").stdout.startswith("db.moves: the task is deleted")
    system.tablet.generate(3, 10, first_id=ROWS)
    ask("create", "db.moves", system.dest("moved"), "--mode", "continuous", "--points", tmp_path / "points")
    system.wait_rows("moved", 10)
    system.audit("moved", range(ROWS, ROWS + 10))
    assert json.loads(ask("delete", "db.moves", "--json").stdout) == {"code": 0}
    (tmp_path / "points").write_text("no points")
    run = ask("create", "db.moves", system.dest("moved"), "--points", tmp_path / "points", status=1)
    assert "osync points" in run.stderr


def test_recover_and_retry(system, ask, following):
    run = ask("recover", following, system.dest("stays"), status=1)
    assert run.stderr.startswith("osync: ") and run.stderr.count("\n") == 1
    assert ask("retry", following).stdout == "no partition is FAILED\n"


def test_collectors(system, ask, following):
    lines = ask("collectors").stdout.splitlines()
    assert lines[0].split()[0] == "COLLECTOR"
    assert re.match(rf"{system.collectors[0].endpoint} +osync +yes +\d+ s ago +1-0 1-1", lines[1]), lines
    answer = json.loads(ask("collectors", "--json").stdout)
    assert [c["endpoint"] for c in answer["collectors"]] == [system.collectors[0].endpoint]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["create", "db.nothing", "file:///tmp/x"], "nothing"),
        (["delete", "db.nothing"], "nothing"),
        (["status", "db.nothing"], "db.nothing has no sync task"),
        (["points", "db.nothing"], "nothing"),
        (["retry", "db.nothing"], "nothing"),
        (["delete", "nothing"], "DB.TABLE"),
        (["create", "db.t", "file:///tmp/x", "--start-ts", "5"], "--start-ts needs"),
        (["create", "db.t", "file:///tmp/x", "--task", "5"], "--task needs"),
        (["create", "db.t", "file:///tmp/x", "-m", "2", "--wait"], "--wait needs"),
        (["create", "db.t", "file:///tmp/x", "--points", "/nonexistent"], "/nonexistent"),
        (["tool-status", "-f", "/nonexistent"], "/nonexistent"),
        (["dump", "/nonexistent"], "/nonexistent"),
    ],
)
def test_a_refusal_is_one_sentence(ask, arguments, words):
    run = ask(*arguments, status=1)
    assert run.stdout == ""
    assert run.stderr.startswith("osync: ") and run.stderr.count("\n") == 1 and words in run.stderr, run.stderr


def test_a_refusal_as_json(ask):
    run = ask("delete", "db.nothing", "--json", status=1)
    assert json.loads(run.stdout)["code"] != 0


def test_nobody_listens(build):
    run = osync(build, "-s", "127.0.0.1:1", "status", status=1)
    assert run.stderr.startswith("osync: ") and "127.0.0.1:1" in run.stderr
    assert osync(build, "-s", "nowhere", "status", status=1).stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["status", "--nonsense"],
        ["create"],
        ["create", "a.b", "c", "-m", "3"],
        ["dump", "x", "--from=-1"],
    ],
)
def test_a_wrong_command_line(build, arguments):
    assert "usage: osync" in osync(build, *arguments, status=2).stderr


# ---- on a terminal ----


def on_terminal(build, columns, *arguments):
    """What it prints on a terminal that is so wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = environment(build)
    env.pop("COLUMNS", None)
    with subprocess.Popen(
        [sys.executable, "-m", "osync.cli", *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave, env=env
    ) as process:
        os.close(slave)
        data = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # the other end is closed
                part = b""
            if not part:
                break
            data += part
    os.close(master)
    assert process.returncode == 0, data
    return data.decode()


def test_tables_fit_the_terminal(build, system, following):
    scheduler = f"127.0.0.1:{system.syncd_port}"
    for columns in (72, 80, 90):
        lines = on_terminal(build, columns, "status", "-s", scheduler).split("\r\n")
        assert max(map(len, lines)) <= columns and lines[1].endswith("~"), lines
        lines = on_terminal(build, columns, "collectors", "-s", scheduler).split("\r\n")
        assert max(map(len, lines)) <= columns, lines
    lines = on_terminal(build, 80, "status", following, "-s", scheduler).split("\r\n")
    assert max(map(len, lines[2:])) <= 80, lines
    assert system.dest("stays") in on_terminal(build, 400, "status", "-s", scheduler)


def test_progress(build, system):
    system.make_table(4, "slow")
    system.fill(4, ROWS)
    text = on_terminal(
        build, 80, "create", "db.slow", system.dest("slow"), "--wait", "-s", f"127.0.0.1:{system.syncd_port}"
    )
    assert "\r" in text.replace("\r\n", "") and text.rstrip().endswith("db.slow: done"), text


# ---- rows, files ----


def test_dump(build, golden):
    case = golden / "case1_simple"
    meta, folder = case / "table_meta.pb", case / "db/1_0"
    got = osync(build, "dump", folder, "--meta", meta)
    assert got.stdout.encode() == dump(build, meta, folder, "--timezone", "UTC").stdout
    objects = [json.loads(line) for line in osync(build, "dump", folder, "--json").stdout.splitlines()]
    assert len(objects) == got.stdout.count("\n")
    assert objects[0]["c_date"] == "2000-01-01" and objects[0]["ts"].startswith("2023-11-14T22:13:20")


def test_dump_into_a_pipe_that_closes(build, golden):
    folder = golden / "case1_simple/db/1_0"  # more than a pipe holds
    with subprocess.Popen(
        [sys.executable, "-m", "osync.cli", "dump", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(build),
    ) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_ctrl_c_ends_a_dump(build, golden, tmp_path):
    """It stands still, since nobody reads what it prints; then it ends without a word, and leaves nothing behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "osync.cli", "dump", golden / "case1_simple/db/1_0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(build, TMPDIR=str(tmp_path)),
    ) as process:
        process.stdout.read(10)
        assert os.listdir(tmp_path)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""
    assert os.listdir(tmp_path) == []


def test_tool_status(build, tmp_path):
    (tmp_path / "state/sub").mkdir(parents=True)
    (tmp_path / "state/sub/1.progress").touch()
    conf = tmp_path / "synctool.properties"
    conf.write_text(f"server.host=h\nserver.port=1\n# c\nsync_task.progress_path={tmp_path}/state\nodd=%(x)s\n")
    lines = osync(build, "tool-status", "-f", conf).stdout.splitlines()
    assert "server.host              h" in lines and f"  {tmp_path}/state/sub/1.progress" in lines
    answer = json.loads(osync(build, "tool-status", "-f", conf, "--json").stdout)
    assert answer["conf"]["server.port"] == "1" and answer["files"] == [f"{tmp_path}/state/sub/1.progress"]
    conf.write_text("server.host=h\n")
    assert "server.port is missing" in osync(build, "tool-status", "-f", conf, status=1).stderr


# ---- completion ----


@pytest.fixture(scope="module")
def command(build, tmp_path_factory):
    """A folder with the command in it, for PATH."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "osync").write_text(f'#!/bin/sh\nexec {sys.executable} -m osync.cli "$@"\n')
    (folder / "osync").chmod(0o755)
    return folder


def complete(shell, build, command, scheduler, line):
    """What a shell offers for the last word of a line."""
    script = osync(build, "completion", shell).stdout
    if shell == "bash":
        words = line.split(" ")
        program = f"""{script}
            compopt() {{ :; }}
            COMP_WORDS=({' '.join(w or "''" for w in words)}); COMP_CWORD={len(words) - 1}
            _osync; printf '%s\\n' "${{COMPREPLY[@]}}" """
    elif shell == "fish":
        (command / "osync.fish").write_text(script)
        program = f"source {command}/osync.fish; complete -C '{line}'"
    env = environment(build, OSYNC_SCHEDULER=scheduler, PATH=f"{command}:{os.environ['PATH']}", HOME=str(command))
    run = subprocess.run([shell, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=env)
    return {offer.split("\t")[0] for offer in run.stdout.splitlines()} - {""}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion(build, command, system, following, golden, shell):
    def offered(line):
        return complete(shell, build, command, f"127.0.0.1:{system.syncd_port}", line)

    assert offered("osync c") == {"create", "collectors", "completion"}
    assert offered("osync create --mode ") == {"full", "incremental", "continuous"}
    assert offered("osync create --po") == {"--points"}
    assert offered("osync dump --phase b") == {"binlog"}
    assert offered("osync completion ") == {"bash", "zsh", "fish"}
    assert "db.stays" in offered("osync delete ")
    found = offered(f"osync dump --meta {golden}/case1_simple/table_meta")
    assert found == {f"{golden}/case1_simple/table_meta.pb"}
    if shell == "bash":
        assert offered("osync -s host : 1 cr") == {"create"}  # the words of host:1, as bash has them


ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
read_until() {{
  local part all
  while zpty -r z part; do all+=$part; [[ $all == *$1* ]] && break; done
  print -r -- $all
}}
zpty -w z 'PS1= PS2= TERM=dumb; fpath=({folder} $fpath); autoload -U compinit'
zpty -w z 'compinit -u -d {folder}/dump; print REA""DY'
read_until READY
zpty -w -n z $'{line}\\t'
read_until '{last}'
zpty -d z
"""


@pytest.mark.parametrize(
    "line, words",
    [
        ("osync c", ["create", "collectors", "completion"]),
        ("osync create --mode ", ["continuous", "full", "incremental"]),
        ("osync dump --phase ", ["all", "binlog", "snapshot"]),
    ],
)
def test_completion_in_zsh(build, command, line, words):
    (command / "_osync").write_text(osync(build, "completion", "zsh").stdout)
    program = ZSH.format(folder=command, line=line, last=sorted(words)[-1])
    env = environment(build, PATH=f"{command}:{os.environ['PATH']}", HOME=str(command))
    run = subprocess.run(["zsh", "-fc", program], capture_output=True, text=True, check=True, timeout=60, env=env)
    assert all(w in run.stdout for w in words), run.stdout


# ---- the example ----


def test_sync_and_read(build, system):
    """It copies a table, and counts what each column holds."""
    system.make_table(5, "trades")
    system.fill(5, ROWS)
    run = subprocess.run(
        [
            sys.executable,
            TOP / "examples/sync_and_read.py",
            "db.trades",
            system.dest("trades"),
            system.tablet.root / "5_0/table_meta.pb",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(build, OSYNC_SCHEDULER=f"127.0.0.1:{system.syncd_port}"),
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert f"{ROWS} rows" in lines
    assert ["id", "bigint", str(ROWS), str(ROWS)] in [line.split() for line in lines]
    assert ["ts", "timestamp", str(ROWS)] in [line.split()[:3] for line in lines]


def test_the_man_page_has_every_command_and_option(build):
    page = (TOP / "docs/man/osync.1.in").read_text().replace("\\-", "-")
    script = osync(build, "completion", "fish").stdout  # it names them all
    commands = re.findall(r"^complete -c osync -n __fish_use_subcommand -a ([a-z-]+) ", script, re.M)
    options = re.findall(r"^complete -c osync .* -l ([a-z-]+) ", script, re.M)
    assert len(commands) == 12 and len(options) > 50
    for command in commands:
        assert re.search(rf"^\.B[IR]? {command}\b", page, re.M), command
    for option in options:
        assert f"--{option}" in page, option
