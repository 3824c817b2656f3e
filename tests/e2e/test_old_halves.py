"""One half ours, the other as OpenMLDB's (original.py): all modes, either one killed between its steps, and the state
of each half handed to the other and back. docs/migration.md says what is promised for each pair."""

import collections
import itertools
import pathlib
import subprocess
import time

import pytest

import prpc
from original import BINLOG, CONTINUOUS, FULL, Collector, SyncTool, Task, send_data, with_length, without_length
from prpc import fields, one
from system import System, wait_for

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
CONF = {"syncd": {"default.fs": "file:///", "roll.interval": "100ms"}}


@pytest.fixture
def system(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper, conf=CONF) as s:
        s.sync_tool = None
        s.out = tmp_path / "out" / "t"
        yield s


@pytest.fixture
def old_collector(system):
    with Collector(system) as c:
        yield c


@pytest.fixture
def old_sync_tool(system):
    with SyncTool(system) as t:
        yield t


def ids(folder):
    """id -> how often, in what either scheduler has written."""
    out = collections.Counter()
    for file in folder.glob("*.csv"):
        if file.name[0] not in "._":
            out.update(int(line.split(",")[0]) for line in file.read_text().splitlines())
    return out


def wait_ids(folder, expected, sync_tool=None):
    """A SyncTool that has found a collector dead never tries again, but after a restart."""
    wanted = set(expected)

    def all_there():
        if sync_tool and any(status.startswith("FAILED") for status in sync_tool.status().values()):
            sync_tool.kill()
            sync_tool.start()
        return wanted <= set(ids(folder))

    try:
        wait_for("all rows", all_there)
    except TimeoutError as e:
        raise AssertionError(f"{len(wanted - set(ids(folder)))} rows are missing in {folder}") from e


def audit(folder, expected, twice=0, numbers=None):
    """Each once, but at most `twice` of them twice."""
    got = ids(folder)
    assert set(got) == set(expected)
    again = sum(n - 1 for n in got.values())
    assert again <= twice, f"{again} rows come again"
    if numbers:
        numbers.audited(len(got), 0, 0)


def folders(path):
    return sorted(p.name for p in path.iterdir() if p.is_dir())


def token(system, tid=1, pid=0):
    return system.tasks()[tid, pid]["progress"]["token"]


def start_ours(system, scheduler=True, collector=True):
    if collector:
        system.add_collector(zk_session_timeout=1000)
    if scheduler:
        system.start_syncd()
    system.wait_registered()


# ---- that the old halves speak as the captured ones did ----


@pytest.mark.parametrize("name", ["snapshot", "binlog", "empty"])
def test_frames_of_the_originals_collector(name):
    captured = (FIXTURES / f"wire/SendData.{name}.req.bin").read_bytes()
    meta_size = int.from_bytes(captured[8:12], "big")
    meta, rest = fields(captured[12 : 12 + meta_size]), captured[12 + meta_size :]
    cut = len(rest) - one(meta, 5, 0)
    r = fields(rest[:cut])
    body = send_data(one(r, 1), one(r, 2), one(r, 3), one(r, 4), one(r, 5).decode(), one(r, 6), one(r, 7))
    made = prpc.request("openmldb.datasync.SyncTool", "SendData", body, rest[cut:], one(meta, 4))
    assert made == captured


@pytest.mark.parametrize("file", sorted(p.name for p in (FIXTURES / "synctool").glob("*progress*")))
def test_progress_files_of_the_originals_sync_tool(file):
    captured = (FIXTURES / "synctool" / file).read_bytes()
    assert with_length(Task(without_length(captured)).pack()) == captured


# ---- the original's collector, our scheduler ----


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_original_collector(system, old_collector, mode, numbers):
    start_ours(system, collector=False)
    system.make_table(1, "t", partitions=2)
    rows = system.fill(1, 300)
    system.create("t", mode, ts=0 if mode == 1 else None)
    if mode == FULL:
        system.wait_gone()
        wait_for("the collector to forget it", lambda: not folders(old_collector.folder))
    else:
        wait_ids(system.folder / "out/t", rows)
        tokens = token(system, 1, 0), token(system, 1, 1)
        system.tablet.roll(1)
        system.tablet.generate(1, 100, first_id=300)
        rows = range(400)
        wait_ids(system.folder / "out/t", rows)
        time.sleep(1.5)  # longer than a silent collector is waited for: its empty packs are signs of life
        assert (token(system, 1, 0), token(system, 1, 1)) == tokens
        system.wait_running()
        system.helper("delete", "-t", "db.t")
        wait_for("delete_task to be obeyed", lambda: not folders(old_collector.folder))
    audit(system.folder / "out/t", rows, numbers=numbers)


def test_original_collector_repeats_and_restarts(system, old_collector, numbers):
    """Its process ends between any two steps, also after an answer that it never used: it sends the same again."""
    start_ours(system, collector=False)
    system.make_table(1, "t", partitions=1)
    system.fill(1, 200)
    old_collector.arm("sent", 2)
    system.create("t", CONTINUOUS)
    rows = 200
    for step in ("sent", "saved", "before sending", "before a heartbeat", "heartbeat sent", "sent"):
        wait_for(f"its end at {step}", old_collector.dead.is_set)
        before = token(system)
        old_collector.kill()
        old_collector.start()
        numbers.add("kills")
        assert token(system) == before
        old_collector.arm(step, 1 if "heartbeat" in step else 2)
        system.tablet.generate(1, 60, first_id=rows)
        rows += 60
    old_collector.armed = None
    if old_collector.dead.is_set():
        old_collector.kill()
        old_collector.start()
    wait_ids(system.folder / "out/t", range(rows))
    audit(system.folder / "out/t", range(rows), numbers=numbers)


def test_our_scheduler_is_killed_beside_an_original_collector(system, old_collector, numbers):
    start_ours(system, collector=False)
    system.make_table(1, "t", partitions=2)
    system.fill(1, 200)
    system.create("t", CONTINUOUS)
    rows = 200
    for n in range(6):
        system.tablet.generate(1, 100, first_id=rows)
        rows += 100
        sent = sum(old_collector.sent.values())
        wait_for("packs", lambda sent=sent, n=n: sum(old_collector.sent.values()) > sent + n % 3)
        system.syncd.restart()
        system.wait_listening()
        numbers.add("kills")
    wait_ids(system.folder / "out/t", range(rows))
    audit(system.folder / "out/t", range(rows), numbers=numbers)


# ---- our collector, the original's SyncTool ----


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_original_sync_tool(system, old_sync_tool, mode, numbers):
    start_ours(system, scheduler=False)
    system.make_table(1, "t", partitions=2)
    rows = system.fill(1, 300)
    old_sync_tool.create(1, mode, system.out, 0 if mode == 1 else None)
    if mode == FULL:
        wait_for("the task to end", lambda: not old_sync_tool.tables)
        wait_for("the collector to forget it", lambda: not folders(system.folder / "collector-0"))
    else:
        wait_ids(system.out, rows)
        tokens = [s.task.token for s in old_sync_tool.tables[1].values()]
        system.seam(1)
        system.tablet.generate(1, 100, first_id=300)
        rows = range(400)
        wait_ids(system.out, rows)
        time.sleep(1.5)  # longer than two check periods
        assert [s.task.token for s in old_sync_tool.tables[1].values()] == tokens
        # Code 0 is all that SyncTool says: then links may go.
        folder = system.folder / "collector-0"
        wait_for("links to be released", lambda: not list(folder.glob("*/binlog/00000000.log")))
        assert not list(folder.glob("*/snapshot"))
        old_sync_tool.delete(1)
        wait_for("delete_task to be obeyed", lambda: not folders(folder))
    assert not set(old_sync_tool.refused) - {"can't find sync task"}
    audit(system.out, rows, numbers=numbers)


def test_original_sync_tool_is_killed(system, old_sync_tool, numbers):
    """Between any two of its steps; only if that is between a file and its progress the file's rows come again, which
    is the original's own guarantee."""
    system.conf["collector"]["max_pack_size"] = 1500
    start_ours(system, scheduler=False)
    system.make_table(1, "t", partitions=1)
    system.fill(1, 200)
    old_sync_tool.create(1, CONTINUOUS, system.out)
    rows, again, steps = 200, 0, ["before writing", "written", "saved", "before answering", "before saving"]
    for step in itertools.chain(steps, steps):
        old_sync_tool.arm(step)
        system.tablet.generate(1, 60, first_id=rows)
        rows += 60
        wait_for(f"its end at {step}", old_sync_tool.dead.is_set)
        again += step in ("written", "before saving")
        old_sync_tool.kill()
        old_sync_tool.start()
        numbers.add("kills")
    wait_ids(system.out, range(rows))
    audit(system.out, range(rows), twice=again * 60)
    got = ids(system.out)
    assert any(n == 2 for n in got.values()), "the kill between file and progress should have been seen"
    assert max(got.values()) <= 1 + again


def test_our_collector_is_killed_beside_an_original_sync_tool(system, old_sync_tool, numbers):
    system.conf["collector"]["max_pack_size"] = 1500
    start_ours(system, scheduler=False)
    system.make_table(1, "t", partitions=2)
    system.fill(1, 400)
    old_sync_tool.create(1, CONTINUOUS, system.out)
    rows = 400
    for n in range(8):
        system.tablet.generate(1, 60, first_id=rows)
        rows += 60
        time.sleep(0.05 * n)
        system.collectors[0].restart()
        numbers.add("kills")
    wait_ids(system.out, range(rows), old_sync_tool)
    audit(system.out, range(rows), numbers=numbers)


def test_reassigned_by_an_original_sync_tool(system, old_sync_tool, numbers):
    """A second collector takes over what a dead one had, from the point that SyncTool knows, with a new token."""
    start_ours(system, scheduler=False)
    system.make_table(1, "t", partitions=1)
    system.fill(1, 200)
    old_sync_tool.create(1, CONTINUOUS, system.out)
    wait_ids(system.out, range(200))
    first = old_sync_tool.tables[1][0].task.token
    system.collectors[0].kill()
    system.add_collector(zk_session_timeout=1000)
    system.tablet.generate(1, 50, first_id=200)

    wait_ids(system.out, range(250), old_sync_tool)
    assert old_sync_tool.tables[1][0].task.token != first
    audit(system.out, range(250), numbers=numbers)


# ---- state of the original's collector ----


def scheduler_of(system, kind):
    """Something to begin and end a task with: our scheduler, or the original's."""
    if kind == "ours":
        system.start_syncd()
        return lambda: system.helper("create", "-t", "db.t", "-m", "2", "-d", str(system.out))
    system.sync_tool = SyncTool(system, period=5).start()
    return lambda: system.sync_tool.create(1, CONTINUOUS, system.out)


@pytest.mark.parametrize("where", ["in the snapshot", "in the log"])
@pytest.mark.parametrize("scheduler", ["ours", "original"])
def test_folder_of_the_originals_collector(system, scheduler, where, numbers):
    """Ours goes on where that one stood, with its links: what the TabletServer has replaced or purged meanwhile isn't
    needed. And back."""
    folder = system.folder / "collector-0"
    begin = scheduler_of(system, scheduler)
    try:
        with Collector(system, folder=folder, short=0.1) as old:
            system.make_table(1, "t", partitions=1)
            system.fill(1, 300)
            begin()
            if where == "in the snapshot":
                wait_for("some packs", lambda: old.sent["1-0"] >= 2)
            else:
                wait_ids(system.out, range(300))
                time.sleep(0.3)
            old.kill()
            stored = Task((folder / "1-0/task.progress").read_bytes())
            inside = one(fields(stored.point), 1) != BINLOG
            assert inside == (where == "in the snapshot")
            endpoint = old.endpoint
        system.tablet.generate(1, 100, first_id=300)  # also of keys that the traverse has passed
        system.seam(1)
        system.tablet.generate(1, 50, first_id=400)
        system.tablet.snapshot(1)
        system.tablet.purge(1)
        collector = system.add_collector(endpoint=endpoint, zk_session_timeout=1000)
        system.wait_registered()
        assert "stored task 1-0 is taken up" in collector.text()
        wait_ids(system.out, range(450))
        if scheduler == "ours":
            assert token(system) == stored.token
        else:
            assert system.sync_tool.tables[1][0].task.token == stored.token
        wait_for("the log", lambda: system.collector_page()["tasks"][0]["state"] == "following")
        wait_for("the stored point", lambda: stored_offset(folder) > 450)
        collector.end()
        with Collector(system, folder=folder) as old:
            system.tablet.generate(1, 50, first_id=450)
            wait_ids(system.out, range(500))
            wait_for("its packs", lambda: old.sent["1-0"] > 0)
            audit(system.out, range(500), numbers=numbers)
    finally:
        if system.sync_tool:
            system.sync_tool.kill()


def stored_offset(folder):
    point = fields(Task((folder / "1-0/task.progress").read_bytes()).point)
    return one(point, 4, 0) if one(point, 1) == BINLOG else 0


def test_traverse_of_the_original_without_its_links(system, old_collector):
    """Nothing says which rows of another snapshot were sent: it fails, and says so, instead of leaving rows out."""
    system.start_syncd()
    system.make_table(1, "t", partitions=1)
    system.fill(1, 300)
    old_collector.short = 0.2
    system.create("t", CONTINUOUS)
    wait_for("some packs", lambda: old_collector.sent["1-0"] >= 2)
    old_collector.kill()
    assert one(fields(Task((old_collector.folder / "1-0/task.progress").read_bytes()).point), 1) != BINLOG
    start_ours(system, scheduler=False)
    wait_for("FAILED", lambda: system.states()[1, 0] == "FAILED")
    assert "only the links in its own folder are of that snapshot" in system.helper("status")
    assert not folders(system.folder / "collector-0")


# ---- state of the original's SyncTool ----


def import_folder(system):
    return system.folder / "state"


@pytest.mark.parametrize("collector", ["ours", "original"])
def test_progress_of_the_originals_sync_tool(system, collector, numbers):
    """Our scheduler takes the tasks over where they stood, with the collector that is at work; then they go back."""
    old_collector = Collector(system).start() if collector == "original" else None
    tool = SyncTool(system, folder=import_folder(system), period=5)
    tool.port = system.syncd_port
    tool.endpoint = f"127.0.0.1:{tool.port}"
    try:
        start_ours(system, scheduler=False, collector=not old_collector)
        system.make_table(1, "t", partitions=2)
        system.fill(1, 300)
        tool.start()
        tool.create(1, CONTINUOUS, system.out)
        wait_ids(system.out, range(300))
        tokens = {pid: s.task.token for pid, s in tool.tables[1].items()}
        tool.kill()
        system.tablet.generate(1, 100, first_id=300)
        system.start_syncd()
        wait_for("the import", lambda: folders(import_folder(system)) and "1" not in folders(import_folder(system)))
        wait_ids(system.out, range(400))
        assert {pid: token(system, 1, pid) for pid in tokens} == tokens
        assert [n.split(".")[:2] for n in folders(import_folder(system))] == [["1", "imported"]]
        assert system.syncd.end() == 0
        # And back, with the collector still at work.
        out = system.folder / "back"
        export(system, out)
        (out / "1").rename(import_folder(system) / "1")
        system.tablet.generate(1, 100, first_id=400)
        tool.period = 0.5
        tool.start()
        assert {pid: s.task.token for pid, s in tool.tables[1].items()} == tokens
        wait_ids(system.out, range(500))
        tool.kill()
        audit(system.out, range(500), numbers=numbers)
        assert not [f for f in system.out.glob("part-*") if set(ids_of(f)) & set(range(400, 500))]
        # And a second time to ours, which has no other word of the task than these files.
        system.tablet.generate(1, 50, first_id=500)
        system.start_syncd()
        wait_ids(system.out, range(550))
        audit(system.out, range(550), numbers=numbers)
    finally:
        tool.kill()
        if old_collector:
            old_collector.kill()


def ids_of(file):
    return [int(line.split(",")[0]) for line in file.read_text().splitlines()]


def export(system, out):
    run = subprocess.run(
        [system.build / "daemons/osync-syncd", "-c", system.folder / "synctool.properties", "--export-progress", out],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
