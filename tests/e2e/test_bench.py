"""tests/bench works and says what it promises; its figures are for people."""

import json
import os
import pathlib
import signal
import subprocess

from system import wait_for

RUN = pathlib.Path(__file__).parents[1] / "bench/run.py"


def start(build, tmp_path, *arguments):
    return subprocess.Popen(
        ["/usr/bin/python3", RUN, "--quick", "--rows", "2000", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OSYNC_BUILD": str(build),
            "PYTHONPATH": str(pathlib.Path(__file__).parent),
            "TMPDIR": str(tmp_path),
        },
    )


def processes_in(folder):
    found = []
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        if str(folder) in command:
            found.append(command)
    return found


def test_every_figure_has_a_line(build, tmp_path):
    file, work = tmp_path / "figures.json", tmp_path / "work"
    work.mkdir()
    benches = {"scan", "binlog", "encode", "follow"}
    run = start(build, work, "--only", ",".join(benches), "--json", file)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["bench"] for line in lines} == benches
    for line in lines:
        assert line["ours"] > 0 and line["reference"] > 0 and line["ratio"] > 0 and line["unit"] and line["case"]
        assert line["bench"] == "encode" or line["met"] in (True, False)
    shown = out.splitlines()
    assert all(any(line["case"] in s and s.startswith(line["bench"]) for s in shown) for line in lines)
    assert not processes_in(work) and not list(work.iterdir())


def test_it_can_be_ended_at_any_time(build, tmp_path):
    run = start(build, tmp_path, "--only", "idle")
    wait_for("a daemon to run", lambda: any("osync-syncd" in c for c in processes_in(tmp_path)))
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM, out + err
    assert not processes_in(tmp_path) and not list(tmp_path.iterdir())
