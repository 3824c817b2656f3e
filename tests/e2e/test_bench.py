"""tests/bench works and says what it promises; its figures are for people."""

import json
import os
import pathlib
import subprocess

RUN = pathlib.Path(__file__).parents[1] / "bench/run.py"


def test_every_figure_has_a_line(build, tmp_path):
    file = tmp_path / "figures.json"
    done = subprocess.run(
        ["/usr/bin/python3", RUN, "--rows", "2000", "--only", "scan,binlog,encode,follow", "--json", file],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OSYNC_BUILD": str(build), "PYTHONPATH": str(pathlib.Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["bench"] for line in lines} == {"scan", "binlog", "encode", "follow"}
    for line in lines:
        assert line["ours"] > 0 and line["reference"] > 0 and line["ratio"] > 0 and line["unit"] and line["case"]
    assert len(done.stdout.splitlines()) == len(lines) + 1
