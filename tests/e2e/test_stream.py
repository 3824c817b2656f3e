"""A stream of one's own (osync/stream.h), by the program examples/put.c: lines of a file to a real HDFS and to a local
folder, each exactly once, whatever is killed and when. And examples/custom.c, with a sink and a checkpoint of its own.
"""

import concurrent.futures
import os
import random
import re
import signal
import subprocess
import time

import pytest

from faults import Points, unique
from system import wait_for

SEED = int(os.environ.get("OSYNC_SEED", 0)) or random.SystemRandom().randrange(1 << 32)
WORKERS = int(os.environ.get("OSYNC_FAULT_WORKERS", 3))


def lines(first, n):
    return "".join(f"line {i} {'x' * (i % 50)}\n" for i in range(first, first + n)).encode()


class Local:
    """A folder as a destination."""

    def __init__(self, folder):
        self.folder = folder
        self.url = f"file://{folder}"
        self.env = {}

    def entries(self):
        return [p.name for p in self.folder.iterdir()] if self.folder.exists() else []

    def read(self, name):
        return (self.folder / name).read_bytes()


class OnHdfs:
    def __init__(self, hdfs, name):
        self.hdfs, self.path = hdfs, f"/streams/{name}"
        self.url = f"hdfs://{hdfs.rpc_address}{self.path}"
        self.env = {"HADOOP_CONF_DIR": str(hdfs.conf_dir)}

    def entries(self):
        return list(self.hdfs.entries(self.path)) if self.hdfs.exists(self.path) else []

    def read(self, name):
        return self.hdfs.read(f"{self.path}/{name}")


class Put:
    """One stream: an input, a destination, a state, and the program that is started again and again."""

    def __init__(self, build, folder, dest, content=b""):
        self.program, self.folder, self.dest = build / "examples/put", folder, dest
        folder.mkdir(parents=True, exist_ok=True)
        self.input, self.content = folder / "input", b""
        self.grow(content)

    def grow(self, content):
        self.content += content
        with open(self.input, "ab") as f:
            f.write(content)

    def start(self, *options, env=None, **more):
        args = [self.program, "-n", "lines", "-s", self.folder / "state.db", *options]
        if "stdin" not in more:
            args.append(self.input)
        else:
            args.append("-")
        return subprocess.Popen(
            [*args, self.dest.url],
            env={**os.environ, **self.dest.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **more,
        )

    def run(self, *options, env=None):
        """To its end: the exit status, what it said."""
        child = self.start(*options, env=env)
        try:
            out, _ = child.communicate(timeout=60)
        finally:
            child.kill()
            child.wait()
        return child.returncode, out

    def lose_state(self):
        for file in self.folder.glob("state.db*"):
            file.unlink()

    def files(self):
        """The names that a reader takes for data, in order: they are the stream's, and none is missing."""
        names = sorted(n for n in self.dest.entries() if n[0] not in "._")
        assert names == [f"lines-{i:010}.txt" for i in range(len(names))]
        return names

    def check(self, numbers):
        there = b"".join(self.dest.read(n) for n in self.files()).split(b"\n")
        put = self.content.split(b"\n")
        if there != put:
            lost, twice = len(set(put) - set(there)), len(there) - len(set(there))
            numbers.audited(len(put) - 1, lost, twice)
            pytest.fail(f"{lost} lines are lost, {twice} are there twice, of {len(put) - 1}")
        numbers.audited(len(put) - 1)


def test_put_to_hdfs_killed_at_random(build, hdfs, tmp_path, numbers):
    print("seed", SEED)
    chance = random.Random(SEED)
    put = Put(build, tmp_path, OnHdfs(hdfs, unique("r")), lines(0, 500))
    n, went_on = 500, set()
    for kill in range(25):
        child = put.start("-f", "-b", "4000", "-i", "1")
        time.sleep(chance.uniform(0, 0.15))
        put.grow(lines(n, 300))
        n += 300
        time.sleep(chance.uniform(0, 0.35))
        child.kill()
        out, _ = child.communicate()
        assert child.returncode == -signal.SIGKILL, out
        went_on |= {int(at) for at in re.findall(r"goes on at byte (\d+)", out)}
        if chance.random() < 0.2:
            put.lose_state()
        numbers.add("streams killed")
    assert len(went_on) > 5, went_on  # most runs committed something before they were killed
    status, out = put.run("-b", "4000")
    assert status == 0, out
    put.check(numbers)


# What is left when a run begins: where the ones before it were killed, and whether the state is lost then.
WAYS = {
    "fresh": [],
    "staged": [("stage_write", "after", 2, False)],
    "prepared": [("publish_rename", "before", 2, False)],
    "published": [("publish_rename", "after", 2, False)],
    "fenced": [("publish_rename", "after", 2, False), ("tomb_remove", "before", 1, False)],
    "cleaned": [("publish_rename", "after", 2, False), ("commit_cas", "after", 1, False)],
    "lost": [("publish_rename", "after", 2, True)],
    "lost twice": [("publish_rename", "before", 2, True), ("claim_finish", "after", 1, True)],
}
ROLL = ("-b", "300")


def begin(build, folder, dest, way):
    """A stream that stands where the way leads, and the points of the next run."""
    put = Put(build, folder, dest, lines(0, 40))
    for i, (name, side, nth, lose) in enumerate(WAYS[way]):
        points = Points(folder / f"hits-{i}")
        points.arm(name, side, nth)
        status, out = put.run(*ROLL, env={"OSYNC_FAILPOINT_HITS": str(points.path)})
        assert status == -signal.SIGKILL, (way, name, out)
        if lose:
            put.lose_state()
    return put, Points(folder / "hits")


def try_place(build, folder, dest, way, place, numbers):
    put, points = begin(build, folder, dest, way)
    if place:
        points.arm(*place)
    status, out = put.run(*ROLL, env={"OSYNC_FAILPOINT_HITS": str(points.path)})
    assert status == (-signal.SIGKILL if place else 0), (way, place, out)
    put.files()
    if place:
        numbers.add("streams killed at a step")
        status, out = put.run(*ROLL)
        assert status == 0, (way, place, out)
        assert "40 lines" in out
    put.check(numbers)
    return points.reached()


def every_place(build, folder, new_dest, numbers, wanted):
    """Kills at each place that is wanted, in the first way that comes there. Returns the names of the places."""
    seen, jobs = set(), []
    for i, way in enumerate(WAYS):
        reached = try_place(build, folder / f"{i}", new_dest(f"{i}"), way, None, numbers)
        new = sorted(p for p in reached if p not in seen and wanted(p[0]))
        seen.update(new)
        jobs += [(way, place) for place in new]
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        runs = [
            pool.submit(try_place, build, folder / f"k{i}", new_dest(f"k{i}"), way, place, numbers)
            for i, (way, place) in enumerate(jobs)
        ]
        for run in runs:
            run.result()
    return {name for name, _ in seen}


def test_put_to_a_folder_killed_at_every_step(fault_build, tmp_path, numbers):
    names = every_place(fault_build, tmp_path, lambda n: Local(tmp_path / n / "out"), numbers, lambda name: True)
    print(len(names), "steps:", *sorted(names))
    assert names >= {
        *("take_cas", "take_mkdirs", "stage_create", "stage_write", "stage_finish", "label", "prepare_cas"),
        *("publish_rename", "commit_cas", "fence_rename", "fence_barrier", "block_create", "block_finish"),
        *("forget_cas", "settle_barrier", "settle_cas", "tomb_remove", "blocker_remove", "others_cas"),
        *("probe_create", "probe_finish", "probe_label", "probe_rename", "probe_remove"),
        *("claim_create", "claim_finish", "rebuilt_barrier", "rebuilt_cas"),
        *("local_mkdir", "local_open", "local_write", "local_fsync", "local_setxattr", "local_rename"),
        *("local_remove", "local_dirsync", "sqlite_open", "sqlite_schema", "sqlite_commit", "sqlite_close"),
    }


def test_put_to_hdfs_killed_at_every_request(fault_build, hdfs, tmp_path, numbers):
    run = unique("s")
    names = every_place(
        fault_build, tmp_path, lambda n: OnHdfs(hdfs, f"{run}-{n}"), numbers, lambda name: name.startswith("web_")
    )
    assert names == {
        *("web_mkdirs", "web_create", "web_write", "web_finish", "web_setxattr", "web_rename", "web_delete"),
        "web_barrier",
    }


def test_put_goes_on_when_a_datanode_comes_back(build, hdfs, tmp_path, numbers):
    """The transfer breaks in the middle; the program isn't ended by SIGPIPE, and takes the lines again."""
    put = Put(build, tmp_path, OnHdfs(hdfs, unique("d")), lines(0, 2000))
    child = put.start("-f", "-b", "100000", "-i", "1")
    try:
        wait_for("a first file", put.files)
        hdfs.kill_datanode()
        put.grow(lines(2000, 100000))
        assert "goes on" in child.stdout.readline()
        assert "waiting:" in child.stdout.readline()
        hdfs.restart_datanode()
        wait_for("its going on", lambda: "goes on" in child.stdout.readline())
        put.grow(lines(102000, 10))
        wait_for("the last line", lambda: put.dest.read(put.files()[-1]).endswith(put.content[-100:]))
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=30)
        assert child.returncode == 0, out
    finally:
        child.kill()
        child.wait()
        hdfs.restart_datanode()
    put.check(numbers)


def test_a_pipe_is_taken_up_again(fault_build, tmp_path, numbers):
    put = Put(fault_build, tmp_path, Local(tmp_path / "out"), lines(0, 5000))
    points = Points(tmp_path / "hits")
    points.arm("commit_cas", "after", 3)
    for env, expected in (({"OSYNC_FAILPOINT_HITS": str(points.path)}, -signal.SIGKILL), ({}, 0)):
        feed = subprocess.Popen(["cat", put.input], stdout=subprocess.PIPE)
        child = put.start("-b", "10000", stdin=feed.stdout, env=env)
        feed.stdout.close()
        out, _ = child.communicate(timeout=60)
        assert child.returncode == expected, out
        feed.wait(timeout=60)
    assert "5000 lines" in out
    put.check(numbers)


def test_the_first_of_two_stops(build, tmp_path, numbers):
    dest = Local(tmp_path / "out")
    first, second = (Put(build, tmp_path / n, dest, lines(0, 100)) for n in ("a", "b"))
    child = first.start("-f", "-i", "0")
    try:
        wait_for("a first file", first.files)
        status, out = second.run()
        assert status == 0, out
        assert "goes on at byte 0\n" not in out
        first.grow(lines(100, 10))
        out, _ = child.communicate(timeout=30)
        assert child.returncode == 1, out
        assert "opened with another checkpoint" in out
    finally:
        child.kill()
        child.wait()
    second.check(numbers)


def test_a_sink_and_a_checkpoint_of_ones_own(fault_build, tmp_path):
    done = subprocess.run(
        [fault_build / "examples/custom", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout == "custom: 40 records, each once\n"
