"""Where a task begins and how it is taken up again: recover after the checkpoint was lost, retry, create into a
destination that holds rows already, points, mode 1 with rows that come late. On a real HDFS and on file://."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal

import pytest

from system import System, wait_for

CONF = {"syncd": {"roll.interval": "100ms", "roll.size": "512K"}}
DONE = '{\n  "code": 0\n}\n'


@pytest.fixture(params=["hdfs", "file"])
def system(request, fault_build, tmp_path, zookeeper):
    hdfs = request.getfixturevalue("hdfs") if request.param == "hdfs" else None
    with System(fault_build, tmp_path, zookeeper, hdfs, CONF) as s:
        yield s


@pytest.fixture
def local(fault_build, tmp_path, zookeeper):
    with System(fault_build, tmp_path, zookeeper, conf=CONF) as s:
        yield s


def start_again(s):
    before = s.syncd.text().count("zookeeper: connected")
    s.syncd.start()
    s.wait_listening()
    wait_for("syncd's connection to ZooKeeper", lambda: s.syncd.text().count("zookeeper: connected") > before)


def lose_state(s, env=None):
    """syncd's whole state folder is gone."""
    s.syncd.kill()
    shutil.rmtree(s.folder / "state")
    s.syncd.env = env
    start_again(s)
    assert s.tasks() == {}


def table(s, name="t"):
    return ["-t", f"db.{name}", "-d", s.dest(name)]


def message(answer):
    return json.loads(answer).get("msg", "")


def task_ids(s, dest="t"):
    return {re.search(r"part-(.{36})-\d{5}-", name).group(1) for name in s.files(dest)}


def of_partition(s, pid, dest="t"):
    """A partition's files, oldest first."""
    return sorted(n for n in s.files(dest) if re.search(rf"-{pid:05}-\d{{10}}\.csv$", n))


def remove(s, name):
    if s.hdfs:
        assert s.hdfs.delete(name)
    else:
        os.unlink(name)


def write(s, name, data):
    if s.hdfs:
        s.hdfs.write(name, data)
    else:
        pathlib.Path(name).write_bytes(data)


def wait_each_partition(s, n):
    """Until each of them has a file."""
    wait_for("each partition to have a file", lambda: all(of_partition(s, pid) for pid in range(n)))


def sync_and_die(s, rows):
    """Begins a full sync of so many rows; the scheduler ends when some of the files are committed, of each partition
    at least one."""
    s.env["syncd"]["OSYNC_FAILPOINT"] = "commit_cas:after:10"
    s.add_collector(max_pack_size="4K")
    s.start_syncd()
    s.wait_registered()
    s.create("t", 0)
    assert s.syncd.process.wait(60) == -signal.SIGKILL
    assert 0 < sum(s.ids("t").values()) < rows


# ---- recover ----


def test_recover_mode2(system, numbers):
    """Everything that syncd knew is lost, several times; the rows come once each."""
    s = system
    s.make_table(1, "t", partitions=3)
    s.fill(1, 3000)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 3000)
    (task,) = task_ids(s)
    total = 3000
    for n in range(3):
        s.tablet.generate(1, 1000, first_id=total, rate_per_s=5000)
        total += 1000
        lose_state(s)
        assert s.helper("status") == "no task\n"
        answer = s.helper("recover", *table(s))
        assert f"task {task} goes on, mode 2" in message(answer)
        s.tablet.wait_generated(1)
        wait_for("all rows", lambda n=total: sum(s.ids("t").values()) >= n)
        assert task_ids(s) == {task}
        assert set(s.states().values()) <= {"RUNNING", "INIT"}
        s.wait_rows("t", total)  # the labels' totals go on
        lost, twice = s.audit("t", range(total))
    assert s.helper("verify", *table(s))
    assert s.helper("delete", "-t", "db.t") == DONE
    assert not s.hidden("t")
    numbers.add("lost states", 3)
    numbers.audited(total, lost, twice)


@pytest.mark.parametrize("phase", ["traverse", "log"])
def test_recover_mode0(system, phase, numbers):
    """In the middle of a full sync."""
    s = system
    rows = 200_000
    s.make_table(1, "t", partitions=2)
    if phase == "traverse":
        s.tablet.generate(1, rows)
        s.seam(1)
        s.tablet.snapshot(1)
    else:
        s.tablet.generate(1, rows)
    sync_and_die(s, rows)
    lose_state(s)
    assert "goes on, mode 0" in message(s.helper("recover", *table(s)))
    s.wait_gone()
    lost, twice = s.audit("t", range(rows))
    assert not s.hidden("t")
    numbers.add("lost states")
    numbers.audited(rows, lost, twice)


def test_recover_mode1(system, numbers):
    """The mode and -ts come from the labels, and -ts counts for rows only: one that comes late, with a ts far behind
    what was committed, isn't lost."""
    s = system
    base = 1_700_000_000_000
    rows = [{"id": i, "k": f"k{i % 50}", "ts": base + i * 1000, "v": 0.5, "payload": "x"} for i in range(2000)]
    late = [{**rows[0], "id": 5000 + i, "k": f"late{i}", "ts": base + 401_000 + i} for i in range(100)]
    early = [{**rows[0], "id": 6000 + i, "k": f"early{i}", "ts": base + i} for i in range(100)]
    s.make_table(1, "t")
    s.tablet.put(1, rows[:1000])
    s.tablet.snapshot(1)
    s.tablet.put(1, rows[1000:])
    s.start()
    s.create("t", 1, ts=base + 400_000)
    s.wait_rows("t", 1600)
    s.syncd.kill()
    s.collectors[0].kill()
    s.tablet.put(1, [*late[:50], *early[:50]])
    s.syncd.start()
    s.collectors[0].start()
    s.wait_listening()
    s.wait_rows("t", 1650)
    s.audit("t", [*range(400, 2000), *range(5000, 5050)])
    lose_state(s)
    s.tablet.put(1, [*late[50:], *early[50:]])
    assert "goes on, mode 1" in message(s.helper("recover", *table(s)))
    s.wait_rows("t", 1700)
    lost, twice = s.audit("t", [*range(400, 2000), *range(5000, 5100)])
    numbers.add("lost states")
    numbers.audited(1700, lost, twice)


def test_recover_with_another_collector(local):
    """Neither syncd nor the collector has anything left, in the middle of the traverse."""
    s = local
    rows = 200_000
    s.make_table(1, "t", partitions=2)
    s.tablet.generate(1, rows)
    s.seam(1)
    s.tablet.snapshot(1)
    sync_and_die(s, rows)
    s.collectors[0].kill()
    lose_state(s)
    shutil.rmtree(s.folder / "collector-0")
    s.tablet.generate(1, 1000, first_id=rows)
    s.tablet.snapshot(1)
    s.helper("recover", *table(s))  # there may be no collector
    s.add_collector()
    s.wait_gone()
    s.audit("t", range(rows + 1000))


def test_recover_says_why_not(system):
    s = system
    s.make_table(1, "t")
    s.fill(1, 2000)
    s.start()
    assert "there is nothing to go on from" in message(s.helper("recover", *table(s), status=1))
    s.create("t", 2)
    s.wait_rows("t", 2000)
    assert "already exists" in message(s.helper("recover", *table(s), status=1))
    for n in range(2):
        s.tablet.generate(1, 500, first_id=2000 + 500 * n)
        s.wait_rows("t", 2500 + 500 * n)
    kept = {n: d for n, d in s.files("t").items() if n not in of_partition(s, 1)}
    wait_each_partition(s, 2)
    # A consumer has moved the older files away, and the newest tells where to go on.
    moved = sum(s.files("t")[n].count(b"\n") for n in of_partition(s, 0)[:-1])
    for name in of_partition(s, 0)[:-1]:
        remove(s, name)
    lose_state(s)
    s.helper("recover", *table(s))
    s.tablet.generate(1, 500, first_id=3000)
    s.wait_rows("t", 3500)
    assert sum(s.ids("t").values()) == 3500 - moved and max(s.ids("t").values()) == 1
    # All of a partition's: nothing tells (A11).
    gone = sum(s.files("t")[n].count(b"\n") for n in of_partition(s, 1))
    for name in of_partition(s, 1):
        remove(s, name)
    lose_state(s)
    answer = message(s.helper("recover", *table(s), status=1))
    assert "there is no file of partition 1 of task" in answer and "--start-over" in answer
    assert s.tasks() == {}
    s.helper("recover", *table(s), "--start-over")
    wait_for("the partition's rows to come again", lambda: sum(s.ids("t").values()) == 3500 - moved)
    assert gone > 0 and max(s.ids("t").values()) == 1
    assert kept


def test_recover_one_of_several(local):
    s = local
    s.make_table(1, "t", partitions=1)
    s.fill(1, 500)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 500)
    (first,) = task_ids(s)
    s.helper("delete", "-t", "db.t")
    s.tablet.generate(1, 500, first_id=500)
    s.helper("create", *table(s), "-m", "2", "--append")
    s.wait_rows("t", 1000)
    (second,) = task_ids(s) - {first}
    lose_state(s)
    answer = message(s.helper("recover", *table(s), status=1))
    assert first in answer and second in answer and "--task" in answer
    s.helper("recover", *table(s), "--task", second)
    s.tablet.generate(1, 100, first_id=1000)
    s.wait_rows("t", 1100)
    ids = s.ids("t")
    assert all(ids[i] == 2 for i in range(500)) and all(ids[i] == 1 for i in range(500, 1100))


# Steps of a recovery; a name and on which side of it the process dies.
STEPS = [
    (name, side)
    for name in ("record_put", "take_cas", "take_mkdirs", "rebuilt_cas", "add_task", "create_answer")
    for side in ("before", "after")
]


def test_recover_is_killed(local, numbers):
    """SIGKILL within the recovery: it goes on by itself once the task is stored, else it is asked for again."""
    s = local
    s.make_table(1, "t", partitions=2)
    s.fill(1, 1000)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    wait_each_partition(s, 2)
    total = 1000
    for name, side in STEPS:
        lose_state(s, {"OSYNC_FAILPOINT": f"{name}:{side}:1"})
        s.tablet.generate(1, 100, first_id=total)
        total += 100
        with contextlib.suppress(OSError):  # the answer may be out
            s.rpc("RecoverSyncTask", db="db", name="t", dest=s.dest("t"))
        assert s.syncd.process.wait(60) == -9, f"{name}:{side} was not reached"
        s.syncd.env = None
        start_again(s)
        if not s.tasks():
            s.helper("recover", *table(s))
        s.wait_rows("t", total)
        s.audit("t", range(total))
    numbers.add("kills", len(STEPS))
    numbers.add("lost states", len(STEPS))
    numbers.audited(total)


# ---- retry ----


def test_retry_after_a_foreign_file_has_gone(system):
    """What waiting doesn't mend is FAILED; when the operator has mended it, retry goes on from the committed point."""
    s = system
    s.make_table(1, "t", partitions=1)
    s.fill(1, 1000)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    assert "no partition is FAILED" in message(s.helper("retry", "-t", "db.t"))
    assert "has no sync task" in message(s.helper("retry", "-t", "db.nosuch", status=1))
    newest = of_partition(s, 0)[-1]
    n = int(re.search(r"(\d{10})\.csv$", newest).group(1)) + 1
    foreign = f"{newest[:-14]}{n:010}.csv"
    write(s, foreign, b"not ours\n")
    s.tablet.generate(1, 1000, first_id=1000)
    wait_for("FAILED", lambda: set(s.states().values()) == {"FAILED"})
    overview = s.helper("status")
    assert "tasks contains failed part: {1}" in overview and "failed part: {" in overview
    assert foreign.rsplit("/", 1)[1] in str(s.rpc("TaskStatus")["readableInfo"])
    assert "starts again: partition 0" in message(s.helper("retry", "-t", "db.t"))
    wait_for("FAILED again", lambda: set(s.states().values()) == {"FAILED"})
    remove(s, foreign)
    s.helper("retry", "-t", "db.t")
    s.wait_rows("t", 2000)
    s.audit("t", range(2000))
    s.wait_running()


def test_retry_after_the_log_is_back(local):
    """The log was purged before it was linked: FAILED, with the missing entries; put back, retry goes on."""
    s = local
    s.make_table(1, "t", partitions=1)
    s.fill(1, 1000)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.collectors[0].kill()
    shutil.rmtree(s.folder / "collector-0")
    s.tablet.generate(1, 1000, first_id=1000)
    s.tablet.roll(1)
    s.tablet.generate(1, 1000, first_id=2000)
    s.tablet.roll(1)
    s.tablet.generate(1, 100, first_id=3000)
    folder = next(s.tablet.root.glob("1_*")) / "binlog"
    aside = s.folder / "aside"
    shutil.copytree(folder, aside)
    for file in sorted(folder.glob("*.log"))[:-1]:
        file.unlink()
    s.collectors[0].start()
    wait_for("FAILED", lambda: set(s.states().values()) == {"FAILED"})
    for file in aside.glob("*.log"):
        if not (folder / file.name).exists():
            shutil.copy2(file, folder / file.name)
    s.helper("retry", "-t", "db.t")
    s.wait_rows("t", 3100)
    s.audit("t", range(3100))


# ---- create into a destination that holds rows ----


def test_create_warns_append_restart_continue(system):
    s = system
    s.make_table(1, "t")
    s.make_table(2, "u")
    s.fill(1, 2000)
    s.fill(2, 300, 50_000)
    s.start()
    assert s.create("t", 2) == DONE
    s.wait_rows("t", 2000)
    (first,) = task_ids(s)
    s.helper("delete", "-t", "db.t")
    # Goes on: rows that were put meanwhile, none twice.
    s.tablet.generate(1, 500, first_id=2000)
    wait_each_partition(s, 2)
    assert s.helper("create", *table(s), "-m", "2", "--continue") == DONE
    s.wait_rows("t", 2500)
    assert task_ids(s) == {first}
    s.audit("t", range(2500))
    s.helper("delete", "-t", "db.t")
    # Another table in the same folder says nothing.
    assert s.create("u", 2, dest="t") == DONE
    wait_for("its rows", lambda: sum(s.ids("t").values()) == 2800)
    # Warned, and written all the same.
    answer = message(s.create("t", 2))
    assert "warning: " in answer and first in answer and "holds" in answer and "--restart" in answer
    s.wait_rows("t", 2500)
    assert s.ids("t")[7] == 2
    s.helper("delete", "-t", "db.t")
    assert s.helper("create", *table(s), "-m", "2", "--append") == DONE
    wait_for("three of each", lambda: s.ids("t")[7] == 3)
    s.wait_rows("t", 2500)
    s.helper("delete", "-t", "db.t")
    # Removed, and written again; the other table's and other files stay.
    write(s, f"{os.path.dirname(of_partition(s, 0)[0])}/notes.txt", b"mine")
    assert s.helper("create", *table(s), "-m", "0", "--restart") == DONE
    wait_for("the end", lambda: not [k for k in s.tasks() if k[0] == 1])
    files = s.files("t")
    (notes,) = (n for n in files if n.endswith("notes.txt"))
    remove(s, notes)
    s.audit("t", [*range(2500), *range(50_000, 50_300)])
    assert len(task_ids(s)) == 2 and first not in task_ids(s)


def test_create_at_points(system):
    """The points of a task at rest begin another one, with keys of any bytes."""
    s = system
    s.make_table(1, "t", partitions=2)
    s.fill(1, 1000)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.syncd.restart()
    s.wait_listening()
    wait_for("points", lambda: all("syncPoint" in t["progress"] for t in s.tasks().values()))
    file = s.folder / "points.json"
    file.write_text(s.helper("points", "-t", "db.t"))
    points = json.loads(file.read_text())
    assert [p["pid"] for p in points] == [0, 1] and all(p["point"]["type"] == "kBINLOG" for p in points)
    s.helper("delete", "-t", "db.t")
    s.tablet.generate(1, 1000, first_id=1000)
    file.write_text(json.dumps(points[:1]))
    assert "there is none for 1" in message(s.helper("create", *table(s), "-m", "2", "--points", str(file), status=1))
    assert s.tasks() == {}
    file.write_text(json.dumps(points))
    assert s.helper("create", *table(s), "-m", "2", "--points", str(file)) == DONE
    s.wait_rows("t", 1000)  # of the new task
    s.audit("t", range(2000))
    assert len(task_ids(s)) == 2
    run = s.helper("points", "-t", "db.nosuch", status=1)
    assert run == ""


def test_points_in_the_traverse(local):
    """With everything that a point holds: the window of its snapshot too, and a key that is no text."""
    s = local
    rows = 300_000
    s.make_table(1, "t", partitions=1, indexes=[{"index_name": "i", "col_name": ["id"]}])
    s.tablet.generate(1, rows)
    s.seam(1)
    s.tablet.snapshot(1)
    s.add_collector(max_pack_size="4K")
    s.start_syncd()
    s.wait_registered()
    s.create("t", 2)
    wait_for("some rows", lambda: all(int(t["count"]) > 0 for t in s.tasks().values()))
    s.collectors[0].kill()
    before = None

    def at_rest():
        nonlocal before
        # In this order: what is staged may be committed between the two questions.
        staged = s.page()["tasks"][0]["partitions"][0]["staged_rows"]
        now, then = s.helper("points", "-t", "db.t"), before
        before = now
        return now == then and staged == 0

    wait_for("the committed point to rest", at_rest)
    (point,) = json.loads(before)
    assert point["point"]["type"] == "kSNAPSHOT" and len(point["exact"]) > 20
    committed = sum(s.ids("t").values())
    assert committed < rows
    s.helper("delete", "-t", "db.t")
    file = s.folder / "points.json"
    file.write_text(before)
    s.tablet.generate(1, 1000, first_id=rows)
    s.collectors[0].start()
    create = dict(db="db", name="t", mode=2, dest=s.dest("t"), start="kStartAtPoints", points=json.loads(before))
    wait_for("the collector to take it", lambda: s.rpc("CreateSyncTask", **create).get("code") == 0)
    s.wait_rows("t", rows + 1000 - committed)
    s.audit("t", range(rows + 1000))
