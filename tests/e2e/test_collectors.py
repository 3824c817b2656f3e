"""Several collectors on one machine: one has a partition, the others stand by and keep its log. If the active one is
killed, or stopped until ZooKeeper has given it up, another goes on where the committed rows end. The former one comes
back as a standby, and lets go of what it had linked."""

import json
import re
import signal
import urllib.request

import pytest

from system import System, wait_for

ROWS = 12_000


@pytest.fixture
def two(build, tmp_path, zookeeper):
    """A collector that will get every partition; a second one comes later. Commits every few packs."""
    conf = {"syncd": {"roll.size": "8K", "sync_task.hold_period": "300ms"}, "collector": {"max_pack_size": "2K"}}
    with System(build, tmp_path, zookeeper, conf=conf) as s:
        try:
            yield s
        finally:
            for c in s.collectors:
                if c.process.poll() is None:
                    c.process.send_signal(signal.SIGCONT)


def listed(s):
    """endpoint -> what the list says of that collector."""
    answer = s.rpc("Collectors")
    assert answer["response"]["code"] == 0, answer
    return {c["endpoint"]: c for c in answer.get("collectors", [])}


def wait_standby(s, n):
    """Until collector n has no partition, and keeps the log of each."""
    partitions = sorted(f"{tid}-{pid}" for tid, pid in s.tasks())

    def stands_by():
        c = listed(s).get(s.collectors[n].endpoint, {})
        return c.get("registered") and "tasks" not in c and sorted(c.get("holds", [])) == partitions

    wait_for(f"collector {n} to stand by", stands_by)


def wait_active(s, n):
    endpoint = s.collectors[n].endpoint

    def active():
        tasks = s.tasks().values()
        return all(t.get("dataCollector") == endpoint and t["status"] == "RUNNING" for t in tasks)

    wait_for(f"collector {n} to have every partition", active)


def linked_tasks(s, n):
    """Folders that a task keeps, not a hold."""
    folder = s.folder / f"collector-{n}"
    return [*folder.glob("*/task.progress"), *folder.glob("*/snapshot")]


def wait_unregistered(s, n):
    wait_for(f"the session of collector {n} to expire", lambda: not listed(s)[s.collectors[n].endpoint]["registered"])


def goes(s, n, how):
    """The collector works no more."""
    if how == "kill":
        s.collectors[n].kill()
    else:
        s.collectors[n].process.send_signal(signal.SIGSTOP)


def comes_back(s, n, how):
    if how == "kill":
        s.collectors[n].start()
    else:
        s.collectors[n].process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("mode", [1, 2])
def test_standby_takes_over(mode, how, two, numbers):
    """To and fro while rows come in, the TabletServer makes new snapshots, and removes the log that they cover."""
    s = two
    s.make_table(1, "t", partitions=2)
    s.fill(1, ROWS // 3)
    s.start()
    s.create("t", mode, ts=1 if mode == 1 else None)
    s.add_collector()
    s.wait_registered()
    s.tablet.generate(1, ROWS - ROWS // 3, first_id=ROWS // 3, rate_per_s=1200)
    s.wait_rows("t", 1)
    for n in (0, 1):
        assert s.tablet.stats(1)["generating"], "rows are to come in meanwhile"
        goes(s, n, how)
        wait_active(s, 1 - n)
        if how == "stop":
            wait_unregistered(s, n)
        assert linked_tasks(s, n), "it was in the middle of it"
        s.tablet.roll(1)
        s.tablet.snapshot(1)
        s.tablet.purge(1)
        comes_back(s, n, how)
        wait_standby(s, n)
        assert not linked_tasks(s, n)
    s.tablet.wait_generated(1)
    s.wait_rows("t", ROWS)
    lost, twice = s.audit("t", range(ROWS))
    s.wait_running()
    numbers.add("kills" if how == "kill" else "stops", 2)
    numbers.audited(ROWS, lost, twice)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_standby_ends_a_full_sync(how, two, numbers):
    """The former one comes back while the other works (kill), or when the task is over (stop)."""
    s = two
    rows = 20_000
    s.conf["syncd"]["roll.size"] = "1K"  # slower
    s.conf["collector"]["max_pack_size"] = "1K"
    s.make_table(1, "t", partitions=2)
    s.fill(1, rows)
    s.start()
    s.create("t", 0)
    s.add_collector()
    s.wait_registered()
    s.wait_rows("t", 1000)
    goes(s, 0, how)
    done = sum(int(t["count"]) for t in s.tasks().values())
    print(f"\n{how} after {done} of {rows} rows")
    assert 0 < done < rows * 9 // 20, f"{done} rows: it was not in the snapshot any more"
    wait_active(s, 1)
    if how == "kill":
        comes_back(s, 0, how)
    s.wait_gone()
    if how == "stop":
        assert linked_tasks(s, 0)
        comes_back(s, 0, how)
    for n in (0, 1):
        folder = s.folder / f"collector-{n}"
        wait_for(f"all links of collector {n} to go", lambda f=folder: not [p for p in f.iterdir() if p.is_dir()])
    lost, twice = s.audit("t", range(rows))
    numbers.add("kills" if how == "kill" else "stops")
    numbers.audited(rows, lost, twice)


def test_standby_has_the_log_that_was_purged(two):
    """Between the end of the active collector and the hand-out the TabletServer removes its log: the standby's links
    are all that is left of the rows."""
    s = two
    s.make_table(1, "t", partitions=1)
    s.tablet.generate(1, 1000, first_id=0)
    s.start()
    s.add_collector()
    s.wait_registered()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    active = next(n for n in (0, 1) if s.tasks()[(1, 0)]["dataCollector"] == s.collectors[n].endpoint)
    wait_standby(s, 1 - active)
    s.syncd.kill()
    s.collectors[active].kill()
    for n in range(1, 4):
        s.tablet.generate(1, 1000, first_id=n * 1000)
        s.tablet.roll(1)
        last = s.tablet.last_entries(1)[0][0]
        wait_for(
            "the log to be held", lambda last=last: s.collector_page(1 - active)["holds"][0]["last_entry"] == last
        )
        s.tablet.snapshot(1)
        s.tablet.purge(1)
    first = s.tablet.partition(1) / "binlog/00000000.log"
    assert not first.exists()
    wait_for(
        "what two collectors keep to be counted", lambda: s.collector_page(1 - active)["holds"][0]["pinned_bytes"] > 0
    )
    s.start_syncd()
    s.wait_rows("t", 4000)
    s.audit("t", range(4000))
    s.wait_running()
    wait_active(s, 1 - active)


def test_list(two):
    s = two
    s.make_table(7, "t", partitions=2)
    s.tablet.generate(7, 100, first_id=0)
    s.start()
    s.add_collector()
    s.wait_registered()
    out = s.helper("collectors").splitlines()
    assert out[0] == "2 collectors"
    for line, endpoint in zip(out[1:], sorted(c.endpoint for c in s.collectors), strict=True):
        assert re.fullmatch(
            rf"\{{'endpoint': '{endpoint}', 'host': '127\.0\.0\.1', 'registered': True, 'kind': 'osync', "
            r"'lastSeen': '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?', 'tasks': \[\], 'holds': \[\]\}",
            line,
        ), line
    s.create("t", 2)
    found = listed(s)
    assert sorted(found[c.endpoint]["tasks"][0] for c in s.collectors) == ["7-0", "7-1"], "they share the work"

    def each_holds_the_others():
        now = listed(s)
        return all(sorted(c["tasks"] + c.get("holds", [])) == ["7-0", "7-1"] for c in now.values())

    wait_for("each to hold the log that the other one reads", each_holds_the_others)
    gone = s.collectors[0].endpoint
    goes(s, 0, "stop")
    wait_unregistered(s, 0)
    seen = int(listed(s)[gone]["lastSeen"])
    wait_active(s, 1)
    with urllib.request.urlopen(
        f"http://127.0.0.1:{s.syncd_port}/openmldb.datasync.SyncTool/Collectors", timeout=60
    ) as answer:
        other = {c["endpoint"]: c for c in json.load(answer)["collectors"]}[s.collectors[1].endpoint]
    assert other["registered"] and other["tasks"] == ["7-0", "7-1"] and int(other["lastSeen"]) > seen
    comes_back(s, 0, "stop")
    wait_standby(s, 0)
    assert int(listed(s)[gone]["lastSeen"]) > seen
