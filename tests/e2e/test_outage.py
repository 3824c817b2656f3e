"""Those who come back: HDFS and ZooKeeper after an outage, and processes that were stopped for so long that others took
their place. OSYNC_OUTAGE_S: how long an outage lasts (20 s; 3600 for an hour)."""

import os
import pathlib
import re
import shutil
import signal
import time

import pytest

from system import Daemon, System, wait_for
from zookeeper import ZooKeeper, free_port

OUTAGE_S = int(os.environ.get("OSYNC_OUTAGE_S", "20"))
SETTLED_S = 5  # after which a daemon that waits takes no more memory
GROWTH = 16 << 20  # bytes: less than what comes in during an outage
CONF = {"syncd": {"roll.interval": "200ms", "sync_task.check_period": "500ms"}}


def memory(daemon):
    """Resident memory now, bytes."""
    status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024


def sit_out(s, until, look):
    """Waits for the end of the outage; `look` is to be true all the time. Returns by how much each daemon grew."""
    time.sleep(SETTLED_S)
    before = [memory(d) for d in (s.collectors[0], s.syncd)]
    most = list(before)
    while time.monotonic() < until:
        look()
        most = [max(m, memory(d)) for m, d in zip(most, (s.collectors[0], s.syncd))]
        time.sleep(0.2)
    return [m - b for m, b in zip(most, before)]


def test_hdfs_is_away(build, tmp_path, zookeeper, hdfs, numbers):
    """Rows come in while there is no HDFS: both daemons wait, say for what, and take no more memory;
    then everything comes, once."""
    with System(build, tmp_path, zookeeper, hdfs, CONF) as s:
        s.make_table(1, "t", partitions=4)
        s.fill(1, 4000)
        s.start()
        s.create("t", 2)
        s.wait_rows("t", 4000)
        total = 4000 + OUTAGE_S * 2000
        s.hdfs.kill_datanode()
        s.hdfs.kill_namenode()
        end = time.monotonic() + OUTAGE_S
        s.tablet.generate(1, total - 4000, first_id=4000, payload_bytes=1000, rate_per_s=4000)
        wait_for("a reason", lambda: "reason=" in str(s.rpc("TaskStatus")["readableInfo"]))
        grown = sit_out(s, end, lambda: None)
        states, reasons = set(s.states().values()), str(s.rpc("TaskStatus")["readableInfo"])
        assert "FAILED" not in states and "reason=" in reasons, (states, reasons)
        s.hdfs.restart_namenode(wait=False)  # it is in safe mode until the DataNode is there
        s.hdfs.restart_datanode()
        s.tablet.wait_generated(1)
        s.wait_rows("t", total, 180)
        lost, twice = s.audit("t", range(total))
        wait_for("no more reasons", lambda: set(s.states().values()) == {"RUNNING"})
        print(f"\nHDFS was away for {OUTAGE_S} s: grown by {grown[0] >> 10} and {grown[1] >> 10} KiB meanwhile")
        assert max(grown) < GROWTH
        numbers.add("outages")
        numbers.audited(total, lost, twice)


def test_zookeeper_is_away(build, tmp_path, hdfs, numbers):
    """Running tasks don't need it. A partition that must be handed out anew waits for it, and says so."""
    own = ZooKeeper(tmp_path / "own-zookeeper").start()
    try:
        with System(build, tmp_path, own, hdfs, CONF) as s:
            s.make_table(1, "t", partitions=2)
            s.fill(1, 2000)
            s.start()
            s.create("t", 2)
            s.wait_rows("t", 2000)
            own.kill()
            end = time.monotonic() + OUTAGE_S
            rows = OUTAGE_S * 200
            s.tablet.generate(1, rows, first_id=2000, rate_per_s=400)
            grown = sit_out(s, end, lambda: None)
            s.tablet.wait_generated(1)
            s.wait_rows("t", 2000 + rows)
            s.collectors[0].process.send_signal(signal.SIGSTOP)
            try:  # silent for too long: another place is needed, and only ZooKeeper knows one
                wait_for(
                    "what is waited for", lambda: "waits for ZooKeeper" in str(s.rpc("TaskStatus")["readableInfo"])
                )
                assert "FAILED" not in s.states().values()
            finally:
                s.collectors[0].process.send_signal(signal.SIGCONT)
            own.start()
            s.tablet.generate(1, 1000, first_id=2000 + rows)
            s.wait_rows("t", 3000 + rows)
            lost, twice = s.audit("t", range(3000 + rows))
            wait_for("no more reasons", lambda: set(s.states().values()) == {"RUNNING"})
            print(
                f"\nZooKeeper was away for {OUTAGE_S} s: grown by {grown[0] >> 10} and {grown[1] >> 10} KiB meanwhile"
            )
            assert max(grown) < GROWTH
            numbers.add("outages")
            numbers.audited(3000 + rows, lost, twice)
    finally:
        own.stop()


def test_a_collector_that_was_stopped(build, tmp_path, zookeeper, numbers):
    """It sleeps for longer than every time-out, in the middle of its work; another on its machine takes over; then it
    wakes up and goes on with what it had: refused."""
    with System(build, tmp_path, zookeeper, conf=CONF) as s:
        s.make_table(1, "t", partitions=3)
        s.fill(1, 9000)
        s.add_collector(max_pack_size="4K")
        s.start_syncd()
        s.wait_registered()
        s.create("t", 2)
        s.add_collector(max_pack_size="4K")
        s.wait_registered()
        total = 9000
        for n in range(4):
            active, other = s.collectors[n % 2], s.collectors[1 - n % 2]
            wait_for("rows of it", lambda: sum(s.ids("t").values()) > 0)
            active.process.send_signal(signal.SIGSTOP)
            s.tablet.generate(1, 2000, first_id=total)
            total += 2000
            wait_for(
                "the other one to have everything",
                lambda o=other: {t.get("dataCollector") for t in s.tasks().values()} == {o.endpoint},
            )
            s.wait_rows("t", total)
            before = active.text().count("deleted by the scheduler")
            active.process.send_signal(signal.SIGCONT)
            wait_for(
                "it to be refused", lambda a=active, b=before: a.text().count("deleted by the scheduler") >= b + 3
            )
        lost, twice = s.audit("t", range(total))
        assert set(s.states().values()) == {"RUNNING"}
        numbers.add("stopped processes", 4)
        numbers.audited(total, lost, twice)


@pytest.mark.parametrize("where", ["hdfs", "file"])
def test_a_scheduler_that_was_replaced(where, request, build, tmp_path, zookeeper, numbers):
    """It is stopped in the middle of its work, given up, and its tasks are recovered by another one with a state folder
    of its own; consumers take files away; then it wakes up with all that it had: nothing of that is published."""
    hdfs = request.getfixturevalue("hdfs") if where == "hdfs" else None
    with System(build, tmp_path, zookeeper, hdfs, CONF) as s:
        s.make_table(1, "t", partitions=3)
        s.fill(1, 9000)
        s.start()
        s.create("t", 2)
        s.tablet.generate(1, 6000, first_id=9000, rate_per_s=3000)
        s.wait_rows("t", 9500)
        zombie, properties = s.syncd, s.folder / "synctool.properties"
        zombie.process.send_signal(signal.SIGSTOP)
        text = properties.read_text()
        s.syncd_port = free_port()
        properties.write_text(
            re.sub(r"server.port=\d+", f"server.port={s.syncd_port}", text).replace(
                str(s.folder / "state"), str(s.folder / "state-2")
            )
        )
        s.syncd = Daemon(zombie.program, zombie.arguments, s.folder / "syncd-2.log").start()
        try:
            s.wait_listening()
            wait_for(
                "recover", lambda: s.rpc("RecoverSyncTask", db="db", name="t", dest=s.dest("t")).get("code", 0) == 0
            )
            s.tablet.wait_generated(1)
            s.wait_rows("t", 15_000)
            zombie.process.send_signal(signal.SIGCONT)
            wait_for("it to notice", lambda: "recovered by another scheduler" in zombie.text())
            s.tablet.generate(1, 1000, first_id=15_000)
            s.wait_rows("t", 16_000)
            lost, twice = s.audit("t", range(16_000))
            assert set(s.states().values()) == {"RUNNING"}
        finally:
            zombie.end(signal.SIGKILL)
        s.helper("verify", "-t", "db.t", "-d", s.dest("t"))
        shutil.rmtree(s.folder / "state")
        numbers.add("stopped processes")
        numbers.audited(16_000, lost, twice)
