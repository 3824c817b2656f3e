"""HDFS or ZooKeeper is away for long: nothing grows but the links, the status says what is waited for, and it goes on
by itself. OSYNC_OUTAGE_SECONDS: how long (default 30)."""

import os
import threading
import time
import traceback

from faults import FaultySystem, rss
from hdfs import Hdfs
from zookeeper import ZooKeeper

SECONDS = int(os.environ.get("OSYNC_OUTAGE_SECONDS", 30))
CONF = {
    "syncd": {"roll.interval": "100ms", "sync_task.check_period": "300ms", "zookeeper.session_timeout": "1s"},
    "collector": {"zk_session_timeout": 1000},
}
RATE = 300  # rows a second, all the time
GROWTH = 24 << 20  # bytes that a daemon may take more at the end than at first


class Outage:
    """A job in mode 2 whose rows go on coming, on servers of its own."""

    def __init__(self, build, folder, name):
        self.build, self.folder, self.name = build, folder / name, name
        self.folder.mkdir()
        self.rows = 0
        self.memory = {"syncd": [], "collector": []}
        self.reasons = set()

    def put(self, s, n):
        s.tablet.generate(1, n, first_id=self.rows, rate_per_s=RATE)
        self.rows += n

    def watch(self, s, seconds):
        """Rows, snapshots and purges go on meanwhile."""
        until, n = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            self.put(s, RATE)
            s.tablet.wait_generated(1)
            if n % 5 == 2:
                s.seam(1)
            if n % 5 == 4:
                s.tablet.snapshot(1)
                s.tablet.purge(1)
            n += 1
            self.memory["syncd"].append(rss(s.syncd.process))
            self.memory["collector"].append(rss(s.collectors[0].process))
            self.reasons |= {p["reason"] for p in s.subtasks("t") if p["reason"]}

    def grown(self, who):
        samples = self.memory[who]
        tenth = max(1, len(samples) // 10)
        return max(samples[-tenth:]) - max(samples[tenth : 2 * tenth] or samples[:1])

    def run(self, numbers):
        zookeeper = ZooKeeper(self.folder / "zookeeper").start()
        try:
            with Hdfs(self.folder / "hdfs") as hdfs, FaultySystem(
                self.build, self.folder, zookeeper, hdfs, CONF
            ) as s:
                s.make_table(1, "t")
                s.fill(1, 500)
                self.rows = 500
                s.start()
                pids = [s.syncd.process.pid, s.collectors[0].process.pid]
                s.create_patiently("t", 2, "t")
                s.wait_all_rows("t", self.rows)
                self.watch(s, 3)  # so that all memory that work needs is there
                self.memory = {who: [] for who in self.memory}
                self.reasons.clear()
                if self.name == "hdfs":
                    hdfs.kill_namenode()
                    hdfs.kill_datanode()
                else:
                    zookeeper.kill()
                self.watch(s, SECONDS)
                if self.name == "hdfs":
                    assert any("destination" in r and "connect" in r for r in self.reasons), self.reasons
                    hdfs.restart_namenode(wait=False)
                    hdfs.restart_datanode()
                else:
                    zookeeper.start()
                s.wait_all_rows("t", self.rows, 180)
                assert pids == [s.syncd.process.pid, s.collectors[0].process.pid], "a daemon has ended"
                growth = {who: self.grown(who) for who in self.memory}
                assert max(growth.values()) < GROWTH, {
                    who: [m >> 20 for m in samples] for who, samples in self.memory.items()
                }
                self.works_again(s)
                numbers.audited(self.rows, *s.audit("t", range(self.rows)))
                numbers.add("outages")
                print(f"{self.name} away for {SECONDS} s: {growth} bytes more, {self.reasons}")
        finally:
            zookeeper.stop()

    @staticmethod
    def works_again(s):
        """Also what needs ZooKeeper."""
        assert {p["status"] for p in s.subtasks("t")} == {"RUNNING"}
        s.patiently("another table", lambda: made(s))
        s.fill(2, 200)
        s.create_patiently("u", 0, "u")
        s.wait_no_task("u")
        s.audit("u", range(200))


def made(s):
    try:
        s.make_table(2, "u")
    except Exception as e:
        return True if "exists" in str(e) else None
    return True


def test_long_outages(build, tmp_path, numbers):
    """Both at the same time, each on a system of its own."""
    errors = []

    def run(name):
        try:
            Outage(build, tmp_path, name).run(numbers)
        except BaseException:
            errors.append(f"{name}: {traceback.format_exc()}")

    threads = [threading.Thread(target=run, args=(name,)) for name in ("hdfs", "zookeeper")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, "\n".join(errors)
