"""A partition's leader moves to another machine: the rows go on from that machine's copy of the log and its own
snapshots, once each, or the partition is FAILED and says why. Each machine has a TabletServer and a collector.

A copy is asynchronous, so a leader that dies may take rows with it that were delivered already. They stay in the files;
what its successor puts instead must come too."""

import collections
import shutil

import pytest

from system import System, fast_clock, wait_for

BASE_TS = 1_700_000_000_000
HOSTS = ("127.0.0.1", "127.0.0.2")
HOLD = {"sync_task.hold_period": "500ms"}  # who leads is looked at as often, too


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    """A snapshot's name says when it was made without its zone."""
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def often(build, tmp_path, zookeeper):
    """Two machines. Commits every few packs, so that a test can act in the middle of a snapshot or window."""
    conf = {"syncd": {"roll.size": "2K", **HOLD}, "collector": {"max_pack_size": "1K"}}
    with System(build, tmp_path, zookeeper, conf=conf, hosts=HOSTS, clock=fast_clock()) as s:
        yield s


@pytest.fixture
def local(build, tmp_path, zookeeper):
    """Two machines."""
    with System(build, tmp_path, zookeeper, conf={"syncd": HOLD}, hosts=HOSTS, clock=fast_clock()) as s:
        yield s


def rows_of(ids, k=lambda i: f"k{i % 50}", ts=lambda i: BASE_TS + i):
    return [{"id": i, "k": k(i), "ts": ts(i), "v": 0.5, "payload": "x"} for i in ids]


def put(s, ids, **more):
    s.replicas.put(1, rows_of(ids, **more), "k")
    return ids


def point(s, pid=0):
    return s.tasks()[(1, pid)]["progress"].get("syncPoint", {})


def wait_mid_snapshot(s):
    """Until a point in the middle of the snapshot is committed."""
    wait_for(
        "a commit in the middle of the snapshot", lambda: point(s).get("type") == "kSNAPSHOT" and "pk" in point(s)
    )


def wait_in_log(s, beyond):
    def there():
        return point(s).get("type") == "kBINLOG" and int(point(s).get("offset", 0)) > beyond

    wait_for(f"a commit of log entry {beyond}", there)


def machine_dies(s, n, pid=None):
    """TabletServer and collector of one machine are gone; the other one leads."""
    s.tablets[n].kill()
    s.collectors[n].kill()
    return s.replicas.move(1, s.tablets[1 - n], pid, dead=[s.tablets[n]])


def machine_returns(s, n):
    s.tablets[n].start()
    s.collectors[n].start()
    s.replicas.back(1, s.tablets[n])


def reasons(s):
    return "\n".join(s.rpc("TaskStatus").get("readableInfo", []))


def wait_failed(s):
    wait_for("FAILED", lambda: set(s.states().values()) == {"FAILED"})
    return reasons(s)


def wait_collector(s, n, pid=0):
    wait_for(
        f"the collector of machine {n} to have the task",
        lambda: s.tasks()[(1, pid)].get("dataCollector") == s.collectors[n].endpoint
        and s.states()[(1, pid)] == "RUNNING",
    )


def wait_ids(s, ids):
    """Until all are committed, unless a partition fails before."""

    def there():
        assert "FAILED" not in s.states().values(), reasons(s)
        return set(ids) <= set(s.ids("t"))

    wait_for("all rows", there, 120)


@pytest.mark.parametrize("snapshot", ["older", "newer", "none"])
def test_leader_moves_in_the_traverse(often, snapshot):
    """The traverse goes on in the other machine's snapshot, which was made at another time."""
    s = often
    s.make_copied_table(1, "t")
    a, b = s.tablets
    ids = [*put(s, range(2000))]
    s.replicas.wait_copied(1)
    if snapshot == "older":
        s.snapshot(b, 1)
    ids += put(s, range(2000, 4000), k=lambda i: f"k{i % 70}")
    s.replicas.put(1, rows_of(range(100)), "k")  # the same again
    s.replicas.wait_copied(1)
    s.snapshot(a, 1)
    ids += put(s, range(4000, 4100), k=lambda i: f"!{i}")
    s.replicas.wait_copied(1)
    if snapshot == "newer":
        s.snapshot(b, 1)
    s.start()
    s.create("t", 2)
    wait_mid_snapshot(s)
    machine_dies(s, 0)
    ids += put(s, range(20_000, 20_100), k=lambda i: f"~{i}")
    wait_ids(s, ids)
    s.wait_running()
    s.audit("t", ids)
    wait_collector(s, 1)


def test_leader_moves_in_the_window(often):
    """The log phase is still where it has to know what the snapshot gave."""
    s = often
    s.make_copied_table(1, "t")
    a, b = s.tablets
    put(s, range(1000))
    s.snapshot(a, 1)
    put(s, range(1000, 3000))  # the window
    s.replicas.put(1, rows_of(range(500)), "k")  # the same again
    s.replicas.wait_copied(1)
    s.start()
    s.create("t", 2)
    wait_in_log(s, 1500)
    machine_dies(s, 0)
    put(s, range(3000, 3100))
    wait_ids(s, range(3100))
    s.audit("t", range(3100))
    wait_collector(s, 1)


def test_leader_moves_to_and_fro_in_the_log(local):
    s = local
    s.make_copied_table(1, "t", partitions=2)
    put(s, range(1000))
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    first, last = 0, 1000
    for n in range(4):
        dead = n % 2
        s.replicas.wait_copied(1)
        machine_dies(s, dead)
        put(s, range(last, last + 500))
        last += 500
        s.wait_rows("t", last)
        assert not [t for t in s.tasks().values() if t["dataCollector"] == s.collectors[dead].endpoint]
        machine_returns(s, dead)
    s.audit("t", range(last))
    s.wait_running()


def test_leader_moves_while_both_machines_live(local):
    """Only the TabletServer of one machine dies. Its collector lives, and says so, but gets nothing new."""
    s = local
    s.make_copied_table(1, "t", partitions=2)
    put(s, range(1000))
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.replicas.wait_copied(1)
    s.tablet.kill()
    s.replicas.move(1, s.tablets[1], dead=[s.tablet])
    put(s, range(1000, 1500))
    s.wait_rows("t", 1500)
    s.tablet.start()
    s.replicas.back(1, s.tablet)
    put(s, range(1500, 2000))
    s.wait_rows("t", 2000)
    # And a planned move, with nobody dead.
    s.replicas.wait_copied(1)
    s.replicas.move(1, s.tablet)
    put(s, range(2000, 2500))
    s.wait_rows("t", 2500)
    s.audit("t", range(2500))
    s.wait_running()


def test_rows_of_a_dead_leader_are_said(local):
    """The log phase goes on where both logs agree: what only the dead leader had stays in the files, and what its
    successor put instead comes too."""
    s = local
    s.make_copied_table(1, "t")
    a, b = s.tablets
    put(s, range(1000))
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.replicas.wait_copied(1)
    b.follow(1, paused=True)
    tail = put(s, range(5000, 5100))
    s.wait_rows("t", 1100)
    kept = machine_dies(s, 0)
    assert kept == {0: 1000}
    put(s, range(1000, 1300))
    wait_ids(s, range(1300))
    s.audit("t", [*range(1300), *tail])
    wait_collector(s, 1)
    assert "1001" in s.collectors[1].text() and "1100" in s.collectors[1].text(), "the lost entries are named"
    machine_returns(s, 0)
    s.replicas.wait_copied(1)
    put(s, range(1300, 1400))
    s.wait_rows("t", 1500)
    s.audit("t", [*range(1400), *tail])


def test_a_shorter_log_is_waited_for(local):
    """The successor has less than what was read: nothing can be said before it puts something itself."""
    s = local
    s.make_copied_table(1, "t")
    put(s, range(1000))
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.replicas.wait_copied(1)
    s.tablets[1].follow(1, paused=True)
    tail = put(s, range(5000, 5100))
    s.wait_rows("t", 1100)
    machine_dies(s, 0)
    wait_for("what is waited for in the status", lambda: "1100" in reasons(s))
    assert set(s.states().values()) != {"FAILED"}, reasons(s)
    put(s, [1000])
    wait_for("the new leader's row", lambda: 1000 in s.ids("t"), 120)
    s.audit("t", [*range(1001), *tail])


def test_a_window_that_a_dead_leader_took_along(often):
    """A row that the traverse left out, since the window had a newer one, which is lost: only a new start gives it."""
    s = often
    s.make_copied_table(1, "t")
    a, b = s.tablets
    put(s, range(3000))
    s.snapshot(a, 1)
    s.replicas.put(1, rows_of([3000]), "k")
    s.replicas.wait_copied(1)
    s.snapshot(b, 1)
    s.replicas.put(1, rows_of([3001]), "k")
    s.replicas.wait_copied(1)
    b.follow(1, paused=True)
    s.tablet.put(1, [{**row, "id": row["id"] + 100_000} for row in rows_of(range(2990, 3000))])  # the same keys
    s.start()
    s.create("t", 2)
    wait_mid_snapshot(s)
    machine_dies(s, 0)
    put(s, range(4000, 4100))
    text = wait_failed(s)
    assert "diverged" in text and "create --restart" in text and "3012" in text.replace(",", "")
    # Not by itself, and not by a retry.
    s.helper("retry", "-t", "db.t")
    assert "diverged" in wait_failed(s)
    s.helper("delete", "-t", "db.t")
    s.helper("create", "--restart", "-t", "db.t", "-m", "2", "-d", s.dest("t"))
    ids = [*range(3002), *range(4000, 4100)]
    wait_ids(s, ids)
    s.audit("t", ids)


def wait_held(s, n):
    """Until a collector keeps links of all that its follower has."""
    last = {(1, pid): end for pid, (end, _) in s.tablets[n].last_entries(1).items()}

    def held():
        return {(h["tid"], h["pid"]): h["last_entry"] for h in s.collector_page(n).get("holds", [])} == last

    wait_for("the follower's log to be held", held)


def test_a_followers_log_is_held(often):
    """The follower purges what a fail-over needs: its collector has links of it."""
    s = often
    s.make_copied_table(1, "t")
    a, b = s.tablets
    ids = [*put(s, range(5000))]
    s.snapshot(a, 1)
    ids += put(s, range(5000, 5100))
    s.replicas.wait_copied(1)
    s.start()
    s.create("t", 2)
    wait_mid_snapshot(s)
    wait_held(s, 1)
    for n in range(3):
        ids += put(s, range(6000 + n * 2000, 8000 + n * 2000))
        s.replicas.wait_copied(1)
        s.snapshot(b, 1)
        wait_held(s, 1)
        b.purge(1)
    assert not (b.partition(1) / "binlog/00000000.log").exists()
    machine_dies(s, 0)
    ids += put(s, range(20_000, 20_100))
    wait_ids(s, ids)
    s.audit("t", ids)
    wait_for("the hold to have become the task", lambda: not s.collector_page(1).get("holds"))


def test_a_followers_log_that_nobody_held(local):
    """Without a hold it is gone: the missing entries are named, once and for all, and a re-sync from scratch works."""
    s = local
    s.make_copied_table(1, "t")
    a, b = s.tablets
    put(s, range(1000))
    s.add_collector(a.host)
    s.start_syncd()
    s.wait_registered()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.replicas.wait_copied(1)
    s.collectors[0].kill()
    put(s, range(1000, 1500))
    s.replicas.wait_copied(1)
    for n in range(3):
        s.snapshot(b, 1)
        put(s, range(1500 + n * 100, 1600 + n * 100))
        s.replicas.wait_copied(1)
    b.purge(1)
    s.add_collector(b.host)
    a.kill()
    s.replicas.move(1, b, dead=[a])
    text = wait_failed(s)
    assert "1001" in text and "create --restart" in text and "retry" in text, text
    attempts = s.collectors[1].text().count("failed:")
    s.helper("retry", "-t", "db.t")
    wait_for("another attempt", lambda: s.collectors[1].text().count("failed:") > attempts)
    assert "1001" in wait_failed(s)
    s.audit("t", range(1000))
    s.helper("delete", "-t", "db.t")
    s.helper("create", "--restart", "-t", "db.t", "-m", "2", "-d", s.dest("t"))
    put(s, range(1800, 1900))
    wait_ids(s, range(1900))
    s.audit("t", range(1900))
    s.wait_running()


@pytest.mark.parametrize("where", ["traverse", "log"])
def test_data_folder_lost(often, where):
    """The collector's folder is deleted; a newer snapshot has taken the place of the one that was read."""
    s = often
    s.make_copied_table(1, "t")
    a = s.tablet
    ids = [*put(s, range(5000))]
    s.snapshot(a, 1)
    ids += put(s, range(5000, 5200))
    s.start()
    s.create("t", 2)
    if where == "traverse":
        wait_mid_snapshot(s)
    else:
        wait_in_log(s, 5100)
    s.collectors[0].kill()
    ids += put(s, range(6000, 6500), k=lambda i: f"!{i}")
    s.snapshot(a, 1)
    ids += put(s, range(6500, 7000), k=lambda i: f"~{i}")
    shutil.rmtree(s.folder / "collector-0")
    s.collectors[0].start()
    wait_ids(s, ids)
    s.audit("t", ids)


def test_a_dead_leader_comes_back_as_a_copy(local):
    """Its partition was made anew: other files under the same names. Its collector, which has links of the former ones,
    takes the partition again when it leads again."""
    s = local
    s.make_copied_table(1, "t")
    a, b = s.tablets
    put(s, range(1000))
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.replicas.wait_copied(1)
    b.follow(1, paused=True)
    tail = put(s, range(5000, 5010))
    s.wait_rows("t", 1010)
    machine_dies(s, 0)
    put(s, range(1000, 2000))
    s.wait_rows("t", 2010)
    machine_returns(s, 0)
    s.replicas.wait_copied(1)
    assert a.stats(1)["partitions"][0]["copies"] == 1
    put(s, range(2000, 2500))
    s.wait_rows("t", 2510)
    s.replicas.wait_copied(1)
    machine_dies(s, 1)
    put(s, range(2500, 3000))
    s.wait_rows("t", 3010)
    wait_collector(s, 0)
    s.audit("t", [*range(3000), *tail])
    assert collections.Counter(s.states().values()) == {"RUNNING": 1}, reasons(s)
