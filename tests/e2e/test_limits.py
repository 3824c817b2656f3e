"""What a collector may use: bytes in flight, snapshots at a time, bytes read a second, CPU time. Each limit is run
into, and nothing is lost by it."""

import contextlib
import json
import pathlib
import signal
import time
import urllib.request

import pytest

from system import System, wait_for

MIB = 1 << 20


@contextlib.contextmanager
def table(build, tmp_path, zookeeper, partitions, rows, payload, syncd=None, **collector):
    """A system with one table; its ids beside it."""
    conf = {"collector": collector, "syncd": syncd or {}}
    with System(build, tmp_path, zookeeper, conf=conf) as s:
        s.start()
        s.make_table(1, "t1", partitions=partitions)
        yield s, s.fill(1, rows, payload_bytes=payload)


def status(s):
    url = f"http://{s.collectors[0].endpoint}/status?format=json"
    with urllib.request.urlopen(url, timeout=20) as r:
        return json.load(r)


def sync(s):
    """A full sync to its end: how long it took, and what the collector's page said meanwhile."""
    pages = []
    start = time.monotonic()
    s.create("t1", 0)

    def ended():
        pages.append(status(s))
        return set(s.states().values()) <= {"SUCCESS"}

    wait_for("the sync to end", ended)
    return time.monotonic() - start, pages


def test_snapshots_at_a_time_and_bytes_a_second(build, tmp_path, zookeeper):
    limits = {"max_traverses": 2, "max_read_rate": 2 * MIB}
    with table(build, tmp_path, zookeeper, 8, 4000, 1000, **limits) as (s, ids):
        took, pages = sync(s)
        assert {p["traverses"] for p in pages} >= {1, 2}
        assert max(p["traverses"] for p in pages) == 2
        waiting = [t for p in pages for t in p["tasks"] if t["state"] == "waiting"]
        assert any("max_traverses" in t["reason"] for t in waiting)
        assert all(t["reason"] for t in waiting)
        assert took > 1  # more than half of the rows are read from the log, where nothing is compressed
        s.audit("t1", ids)


@pytest.mark.parametrize("path", ["proxy", "auto"])
def test_bytes_in_flight(build, tmp_path, zookeeper, path):
    limit, pack, partitions = MIB // 4, MIB // 16, 8
    limits = {"max_bytes_in_flight": limit, "max_pack_size": pack}
    syncd = {"data_path": path, "roll.size": "64K"}
    with table(build, tmp_path, zookeeper, partitions, 8000, 1000, syncd, **limits) as (s, ids):
        s.create("t1", 0)
        wait_for("rows", lambda: sum(t["rows_sent"] for t in status(s)["tasks"]) > 0)
        s.syncd.process.send_signal(signal.SIGSTOP)
        try:
            wait_for("rows to pile up", lambda: status(s)["bytes_in_flight"] >= limit - pack)
            until = time.monotonic() + 1
            pages = [status(s)]
            while time.monotonic() < until:
                pages.append(status(s))
        finally:
            s.syncd.process.send_signal(signal.SIGCONT)
        # One pack may be beyond it, and CSV is larger than the rows that it is made of; each partition would hold two
        # packs, and as many again where it writes the files itself.
        assert max(p["bytes_in_flight"] for p in pages) <= (limit + pack) * (1 if path == "proxy" else 2.5)
        s.wait_gone()
        s.audit("t1", ids)


def worker_seconds(process):
    """CPU time of all threads but the loop's."""
    threads = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((t / "schedstat").read_text().split()[0]) for t in threads if t.name != str(process.pid)) / 1e9


def test_cpu_time(build, tmp_path, zookeeper):
    percent = 20
    with table(build, tmp_path, zookeeper, 2, 60_000, 100, max_cpu_percent=percent) as (s, ids):
        before = worker_seconds(s.collectors[0].process)
        took, _ = sync(s)
        used = worker_seconds(s.collectors[0].process) - before
        assert used > 0.05
        assert used / took < 2 * percent / 100, f"{used} s of CPU in {took} s"
        s.audit("t1", ids)
