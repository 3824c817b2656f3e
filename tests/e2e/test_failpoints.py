"""Each daemon is killed right before and right after every step that has an effect outside of it (failpoint.def), in a
real job, in each mode where that step is reached: no row is lost, none comes twice, nothing partial is ever visible,
and nothing is left behind.

A *way* is a job, or one with a first fault, since many steps are only taken in a recovery. Each way runs once without a
kill, to see which places it comes to, and then once for each place that is new. Some runs are with collectors that
write staged files themselves ("direct"), some with rows that go by way of the scheduler ("proxy").

OSYNC_BUILD_FAULTS names the build to test (default: OSYNC_BUILD); it needs -Dfailpoints=true.
OSYNC_FAILPOINTS=name,name and OSYNC_WAYS=word try only those.
"""

import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import threading
import time
import traceback
import urllib.request

import pytest

from faults import FaultySystem, Points, Watcher, unique
from power import Disk
from system import wait_for
from zookeeper import free_port

WORKERS = int(os.environ.get("OSYNC_FAULT_WORKERS", 3))
ONLY_WAYS = os.environ.get("OSYNC_WAYS", "")
ONLY = {n for n in os.environ.get("OSYNC_FAILPOINTS", "").split(",") if n}
ROWS, MORE, USES = 60, 12, 8  # of a table at first, in each run, and how many runs use it


class Table:
    """One that several runs copy, each to a destination of its own."""

    def __init__(self, system, tid, partitions=2):
        self.system, self.tid, self.name, self.rows, self.uses = system, tid, f"t{tid}", 0, 0
        if len(system.tablets) > 1:
            system.make_copied_table(tid, self.name, partitions)
        else:
            system.make_table(tid, self.name, partitions)
        system.fill(tid, ROWS)
        self.rows = ROWS

    def put(self, n=MORE, **more):
        self.system.tablet.generate(self.tid, n, first_id=self.rows, **more)
        self.rows += n


class Run:
    """One job, and what a way does with it."""

    def __init__(self, system, table, mode, place=None):
        self.s, self.table, self.mode, self.place = system, table, mode, place
        self.dest = unique("r")
        self.reached = {}
        self.armed = False
        self.said = None

    # ---- what ways are made of ----

    def arm(self):
        """From here on it counts, or the process ends at the place."""
        for points in self.s.points.values():
            points.reset()
        self.armed = True
        if self.place:
            who, name, side = self.place
            self.s.points[who].arm(name, side)

    def first(self, who, name, side, then=None, nth=1):
        """A first fault: that process is killed there; then `then`, or arm."""
        for points in self.s.points.values():
            points.disarm()
        self.s.on_death.append(then or self.arm)
        self.s.points[who].arm(name, side, nth)

    def staged(self):
        """Where the scheduler has a whole staged file."""
        return ("syncd", "label", "before") if self.s.data_path == "direct" else ("syncd", "stage_finish", "after")

    def create(self):
        self.s.create_patiently(self.table.name, self.mode, self.dest)

    def create_again(self):
        """Anew, with what is there removed first."""
        self.s.create_patiently(self.table.name, self.mode, self.dest, anew=True)

    def flow(self):
        """Rows go on coming, and all arrive."""
        if self.mode == 0:
            return
        self.s.wait_all_rows(self.table.name, self.table.rows)
        self.s.tablet.roll(self.table.tid)
        self.table.put()
        self.s.tablet.snapshot(self.table.tid)
        self.s.wait_all_rows(self.table.name, self.table.rows)

    def end(self):
        if self.mode == 0:
            self.s.wait_no_task(self.table.name)
        else:
            self.s.delete_patiently(self.table.name)
            self.s.wait_no_task(self.table.name)

    def job(self):
        self.create()
        self.flow()
        self.end()

    def until(self, who, name):
        """Waits until that step was done, or the process was killed."""

        def there():
            reached = self.s.points[who].reached()
            return (who, name) in {(who, n) for n, side in reached if side == "after"} or self.s.points[who].fired()

        wait_for(f"{name} to be reached", there, 20)

    def restarted(self, who, between=None):
        """Kills it; `between`, then it counts, and the process comes back."""
        with self.s.away():
            self.s.kill(who)
            if between:
                between()
                self.s.all_durable(who)
            self.arm()

    def lose_state(self):
        for p in (self.s.folder / "state").iterdir():
            p.unlink()

    def staging(self):
        """What is in the partitions' folders below _osync: whole paths."""
        if self.s.hdfs:
            top = f"{self.s.dest(self.dest)}/_osync"
            folders = [top]
            for _ in range(2):
                folders = [f"{f}/{n}" for f in folders for n in self.s.hdfs.entries(f)]
            return [f"{f}/{n}" for f in folders for n in self.s.hdfs.entries(f)]
        return [str(p) for p in (self.s.folder / "out" / self.dest / "_osync").glob("*/*/*")]

    def revive(self):
        """A late MKDIRS brings the folder of a fenced incarnation back."""
        names = self.staging()
        for name in names:
            former = name.removesuffix(".fenced")
            if former != name and former not in names:
                self.s.hdfs.mkdirs(former) if self.s.hdfs else os.mkdir(former)
        self.s.all_durable("syncd")

    def clean(self):
        """Somebody removes _osync."""
        if self.s.hdfs:
            self.s.hdfs.delete(f"{self.s.dest(self.dest)}/_osync")
        else:
            shutil.rmtree(self.s.folder / "out" / self.dest / "_osync")
            self.s.all_durable("syncd")

    def hold_seen(self, leader):
        """Until the other machine's collector holds what its TabletServer has copied."""
        n = 1 - self.s.tablets.index(leader)
        last = {pid: end for pid, (end, _) in self.s.tablets[n].last_entries(self.table.tid).items()}

        def held():
            holds = self.s.collector_page(n).get("holds", [])
            return {h["pid"]: h["last_entry"] for h in holds if h["tid"] == self.table.tid} == last or None

        self.s.patiently("the follower's log to be held", held)

    def wait_failed_or_whole(self, *words):
        """True: a partition is FAILED for one of these reasons. False: all rows have arrived."""

        def known():
            subs = self.s.subtasks(self.table.name)
            reasons = [p["reason"] or "" for p in subs if p["status"] == "FAILED"]
            if any(w in r for w in words for r in reasons):
                return True
            return False if sum(p["rows"] for p in subs) >= self.table.rows else None

        return self.s.patiently(f"FAILED ({' or '.join(words)}), or {self.table.rows} rows", known)

    # ---- around it ----

    def check(self):
        assert self.armed, "the way's first fault didn't happen"
        lost, twice = self.s.audit(self.dest, range(self.table.rows))
        wait_for(f"nothing to be left in {self.dest}", lambda: not self.s.hidden(self.dest), 20)
        wait_for("the collector to forget the task", lambda: not self.s.collector_folders(), 20)
        if not self.s.hdfs:
            self.s.rubbish.append(self.s.folder / "out" / self.dest)
        return lost, twice

    def run(self, way):
        for points in self.s.points.values():
            points.disarm()
        deaths = sum(self.s.deaths.values())
        with Watcher(self.s, self.dest) as watcher:
            way(self)
        fired = bool(self.place) and self.s.points[self.place[0]].fired()
        if not self.place:
            for who, points in self.s.points.items():
                self.reached |= {(who, *place): n for place, n in points.reached().items()}
        self.s.on_death.clear()
        lost, twice = self.check()
        return fired, sum(self.s.deaths.values()) - deaths, lost, twice, watcher.looks


# ---- the ways ----


def way_job(r):
    r.arm()
    r.job()


def way_collector_starts(r):
    r.first("collector", "send_data", "after")
    r.job()


def way_syncd_starts(r):
    r.first(*r.staged())
    r.job()


def way_was_published(r):
    r.first("syncd", "publish_rename", "after")
    r.job()


def way_was_not_published(r):
    r.first("syncd", "publish_rename", "before")
    r.job()


def way_fenced_half(r):
    """The second recovery finds a tomb that the first one has made."""
    r.first(*r.staged(), lambda: r.first("syncd", "fence_rename", "after"))
    r.job()


def way_removed_half(r):
    r.first("syncd", "erase_folder", "after")
    r.job()


def way_voided(r):
    """The scheduler comes back, and what the collector has staged and not yet reported is of no use any more."""
    r.create()
    wait_for("staged rows", lambda: any(p["staged_rows"] for p in r.s.subtasks(r.table.name)))
    r.arm()
    r.s.kill("syncd")
    r.flow()
    r.end()


def way_collector_ends(r):
    """In an orderly way, and starts."""
    r.create()
    r.arm()
    r.s.kill("collector", how=signal.SIGTERM)
    r.flow()
    r.end()


def way_remnant(r):
    """A folder was made, and nothing was stored in it."""
    r.first("collector", "folder_mkdirs", "after")
    r.job()


def way_syncd_ends(r):
    """In an orderly way, and starts."""
    r.create()
    r.arm()
    r.s.kill("syncd", how=signal.SIGTERM)
    r.flow()
    r.end()


def way_without_rows(r):
    """The log goes on, but not with rows."""
    r.create()
    r.s.wait_all_rows(r.table.name, r.table.rows)
    r.arm()
    r.s.tablet.delete(r.table.tid, key="nobody")
    r.until("syncd", "point_cas")
    r.flow()
    r.end()


def way_first_start(r):
    """The scheduler has no state yet."""
    r.restarted("syncd", r.lose_state)
    r.job()


def way_first_registration(r):
    """The collector finds no node of a collector in ZooKeeper."""
    s, top = r.s, f"{r.s.root}/sync_tool"

    def forget():
        for name in s.zookeeper.children(f"{top}/collector"):
            s.zookeeper.delete(f"{top}/collector/{name}")
        s.zookeeper.delete(f"{top}/collector")
        s.zookeeper.delete(top)

    r.restarted("collector", forget)
    r.job()


def way_revived(r):
    """Between fence and block a late request makes the folder again."""

    def fenced():
        r.revive()
        r.arm()

    r.first(*r.staged(), lambda: r.first("syncd", "fence_rename", "after", fenced))
    r.job()


def way_cleaned(r):
    """Somebody cleans _osync between take-over and fence."""
    syncd = r.s.points["syncd"]
    r.first(*r.staged(), lambda: syncd.arm("take_mkdirs", "after", how=signal.SIGSTOP))
    creator = threading.Thread(target=r.create)
    creator.start()
    wait_for("the scheduler to be stopped", lambda: r.s.is_stopped("syncd"), 30)
    r.clean()
    r.arm()
    r.s.syncd.process.send_signal(signal.SIGCONT)
    creator.join()
    r.flow()
    r.end()


def way_backup(r):
    """The store is put back from a backup: files have come since."""
    backup = r.s.folder / unique("backup")
    r.create()
    r.s.wait_all_rows(r.table.name, r.table.rows)
    with r.s.away():
        r.s.kill("syncd")
        shutil.copytree(r.s.folder / "state", backup)
    r.table.put()
    r.s.wait_all_rows(r.table.name, r.table.rows)

    def put_back():
        r.lose_state()
        shutil.copytree(backup, r.s.folder / "state", dirs_exist_ok=True)

    r.restarted("syncd", put_back)
    r.flow()
    r.end()


def recover(r):
    def tried():
        if any(t["table"] == r.table.name for t in r.s.ready_page()["tasks"]):
            return True
        answer = r.s.rpc("RecoverSyncTask", db="db", name=r.table.name, dest=r.s.dest(r.dest))
        r.said = answer
        return True if answer.get("code", 0) == 0 else None

    try:
        r.s.patiently("the recovery", tried)
    except TimeoutError as e:
        raise AssertionError(f"{e}: {r.said}") from e


def way_blocker(r):
    """The third take-over removes the empty file that the second one has left in the first one's place."""
    r.first(*r.staged(), lambda: None)
    r.create()
    r.s.wait_all_rows(r.table.name, r.table.rows)
    r.restarted("syncd")
    r.flow()
    r.end()


def way_recovered(r):
    """The store is lost, and the task is taken up again from the labels of its files."""
    r.create()
    r.s.wait_all_rows(r.table.name, r.table.rows)
    r.restarted("syncd", r.lose_state)
    recover(r)
    r.flow()
    r.end()


def way_recovered_half(r):
    """The claim of a first attempt is found."""
    r.create()
    r.s.wait_all_rows(r.table.name, r.table.rows)
    with r.s.away():
        r.s.kill("syncd")
        r.lose_state()
        r.s.all_durable("syncd")
    r.first("syncd", "claim_finish", "after")
    recover(r)
    r.flow()
    r.end()


def way_restarted(r):
    """The store is lost, and the table is copied anew: what the former task has left goes first."""
    r.create()
    r.s.wait_all_rows(r.table.name, r.table.rows)
    r.restarted("syncd", r.lose_state)
    r.create_again()
    r.flow()
    r.end()


def way_recreated(r):
    """The log's files are other files: they are linked anew when the partition is handed out anew, by `retry` at the
    latest."""
    s, tid = r.s, r.table.tid
    r.create()
    s.wait_all_rows(r.table.name, r.table.rows)
    with s.away():
        s.kill("collector")
        s.tablet.stop()
        for folder in s.tablet.root.glob(f"{tid}_*/binlog"):
            for file in folder.iterdir():
                copy = file.with_suffix(".copy")
                shutil.copy2(file, copy)
                copy.rename(file)
        s.tablet.start()
        r.arm()
    r.table.put()

    def all_there():
        s.rpc("RetrySyncTask", db="db", name=r.table.name)
        return sum(p["rows"] for p in s.subtasks(r.table.name)) >= r.table.rows or None

    s.patiently("the rows", all_there)
    r.flow()
    r.end()


def way_rewound(r):
    """The collector is silent for so long that its rows, not yet committed, are to be read by another."""
    r.create()
    wait_for("staged rows", lambda: any(p["staged_rows"] for p in r.s.subtasks(r.table.name)))
    r.arm()
    with r.s.away():
        r.s.kill("collector")
        time.sleep(1)
    r.flow()
    r.end()


def way_held(r):
    """The collector beside the follower holds its log, through fail-overs forth and back."""
    s, table = r.s, r.table
    a, b = s.tablets
    r.create()
    s.wait_all_rows(table.name, table.rows)
    r.arm()
    for former, tablet in ((a, b), (b, a)):
        s.replicas.wait_copied(table.tid)
        r.hold_seen(former)
        s.replicas.move(table.tid, tablet)
        tablet.generate(table.tid, MORE, first_id=table.rows)
        table.rows += MORE
        s.wait_all_rows(table.name, table.rows)
    r.end()


def way_over_budget(r):
    """The scheduler is away, the TabletServer purges what only links keep, and they pin too much."""
    s, table = r.s, r.table
    r.create()
    s.wait_all_rows(table.name, table.rows)
    r.arm()
    s.leave.add("syncd")
    s.kill("syncd")
    for _ in range(3):
        table.put(50, payload_bytes=2000)
        s.seam(table.tid)
    table.put()
    s.tablet.snapshot(table.tid)
    s.tablet.purge(table.tid)
    r.until("collector", "links_drop")
    s.leave.clear()
    # One that was killed before it gave the links up may have needed them no more when it came back. One that hadn't
    # made them yet finds a gap.
    failed = r.wait_failed_or_whole("pin", "are needed and gone", "are missing")
    assert failed or r.place
    if failed:
        s.delete_patiently(table.name)
        s.wait_no_task(table.name)
        r.create_again()
    r.flow()
    r.end()


def way_given_back(r):
    """The task goes to OpenMLDB's SyncTool, and comes back before that has done anything."""
    s, state = r.s, r.s.folder / "state"
    back = s.folder / unique("back")
    r.create()
    s.wait_all_rows(r.table.name, r.table.rows)
    with s.away():
        s.kill("syncd", how=signal.SIGTERM)
        r.arm()
        while (state / "checkpoint.db").exists():
            command = [s.build / "daemons/osync-syncd", "-c", s.folder / "synctool.properties"]
            run = subprocess.run(
                [*command, "--export-progress", back],
                env={**os.environ, **s.env["syncd"]},
                capture_output=True,
                check=False,
                timeout=60,
            )
            assert run.returncode in (0, -signal.SIGKILL), run.stderr
            s.deaths["syncd"] += run.returncode != 0
        r.clean()  # what the former task had there
        (back / str(r.table.tid)).rename(state / str(r.table.tid))
    r.table.put()
    s.patiently("the rows", lambda: len(s.ids(r.dest)) >= r.table.rows or None)
    r.end()


WAYS = [  # who comes to a place for sure is before who only may
    way_job,
    way_syncd_starts,
    way_was_published,
    way_was_not_published,
    way_fenced_half,
    way_collector_starts,
    way_removed_half,
    way_collector_ends,
    way_syncd_ends,
    way_remnant,
    way_revived,
    way_cleaned,
    way_first_start,
    way_first_registration,
]
LASTING = [way_without_rows, way_backup, way_blocker, way_recovered, way_recovered_half, way_restarted, way_recreated]
ONE_PARTITION = {way_cleaned}


# ---- the machinery ----


class Tally:
    """What all runs together came to."""

    def __init__(self):
        self.lock = threading.Lock()
        self.killed = {}  # (who, name, side) -> modes
        self.kills = self.rows = self.runs = self.looks = 0

    def unreached(self):
        return [
            f"{name}:{side}"
            for name in Points.NAMES
            for side in ("before", "after")
            if not any((who, name, side) in self.killed for who in ("collector", "syncd"))
        ]


@pytest.fixture(scope="module")
def tally():
    return Tally()


class Workers:
    """Several Systems that work off one list."""

    def __init__(self, make, n):
        self.make, self.n = make, n
        self.todo = queue.Queue()
        self.errors = []
        self.threads = []

    def _work(self, n):
        try:
            with self.make(n) as system:
                tables, tid = {}, 0
                system.start()
                while (job := self.todo.get()) is not None:
                    if self.errors:
                        continue
                    way, run = job
                    partitions = 1 if way in ONE_PARTITION else 2
                    table = tables.get(partitions)
                    if table is None or table.uses >= USES:
                        tid += 1
                        table = tables[partitions] = Table(system, tid, partitions)
                    table.uses += 1
                    run(system, table)
                    self.todo.task_done()
                system.keep = False
        except BaseException:
            self.errors.append(traceback.format_exc())

    def __enter__(self):
        self.threads = [threading.Thread(target=self._work, args=(n,)) for n in range(self.n)]
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, failed, *_):
        for _ in self.threads:
            self.todo.put(None)
        for t in self.threads:
            t.join()
        assert failed or not self.errors, self.errors[0]

    def run_all(self, jobs):
        for job in jobs:
            self.todo.put(job)
        while self.todo.unfinished_tasks and not self.errors:
            time.sleep(0.02)
        assert not self.errors, self.errors[0]


def kill_everywhere(workers, ways, tally, mode, numbers, wanted=lambda place: True):
    ways = [w for w in ways if ONLY_WAYS in w.__name__]
    seen = {}

    def add(deaths, rows, lost, twice, looks):
        tally.kills += deaths
        tally.runs += 1
        tally.looks += looks
        numbers.add("kills", deaths)
        numbers.audited(rows, lost, twice)

    def once(way, place, system, table):
        run = Run(system, table, mode, place)
        began = time.monotonic()
        try:
            fired, deaths, *counted = run.run(way)
        except BaseException as e:
            raise AssertionError(f"{way.__name__}, killed at {place}, mode {mode}: {e}") from e
        with tally.lock:
            add(deaths, table.rows, *counted)
        what = f"killed {'' if fired else 'NOT '}at {':'.join(place)}" if place else f"{len(run.reached)} places"
        print(f"{way.__name__}, mode {mode}: {what}, {time.monotonic() - began:.1f} s", flush=True)
        return run, fired

    def look(way):
        def job(system, table):
            run, _ = once(way, None, system, table)
            seen[way] = run.reached

        return job

    def kill(way, place):
        def job(system, table):
            for _ in range(3):  # what a run comes to isn't always the same
                _, fired = once(way, place, system, table)
                if fired:
                    with tally.lock:
                        tally.killed.setdefault(place, set()).add(mode)
                    return

        return job

    workers.run_all([(way, look(way)) for way in ways])
    todo = {}
    for way in ways:
        for place in seen[way]:
            if wanted(place) and (not ONLY or place[1] in ONLY):
                todo.setdefault(place, way)
    workers.run_all([(way, kill(way, place)) for place, way in todo.items()])
    killed = [p for p in todo if mode in tally.killed.get(p, ())]
    print(f"\nmode {mode}: killed at {len(killed)} of {len(todo)} places")


QUICK = {"roll.interval": "100ms", "sync_task.check_period": "300ms"}


def systems(fault_build, tmp_path, zookeeper, hdfs, syncd=None, collector=None, **more):
    def make(n):
        folder = tmp_path / f"w{n}"
        folder.mkdir()
        conf = {"syncd": {**QUICK, **(syncd or {})}, "collector": collector or {}}
        return FaultySystem(fault_build, folder, zookeeper, hdfs, conf, **more)

    return make


@pytest.mark.parametrize("mode, data_path", [(2, "direct"), (2, "proxy"), (0, "direct"), (1, "proxy")])
def test_killed_at_every_failpoint(mode, data_path, fault_build, tmp_path, zookeeper, hdfs, tally, numbers):
    def wanted(place):  # what a collector does with its links is the same both ways
        return place[0] == "syncd" or mode not in tally.killed.get(place, ())

    with Workers(systems(fault_build, tmp_path, zookeeper, hdfs, data_path=data_path), WORKERS) as workers:
        kill_everywhere(workers, WAYS + (LASTING if mode else []), tally, mode, numbers, wanted)


# What is reached in other systems only: places that are killed at above are not tried again.


@pytest.mark.parametrize("data_path, way", [("proxy", way_rewound), ("direct", way_voided)])
def test_killed_while_rows_wait(data_path, way, fault_build, tmp_path, zookeeper, hdfs, tally, numbers):
    slow = {"roll.interval": "2s"}
    with Workers(systems(fault_build, tmp_path, zookeeper, hdfs, slow, data_path=data_path), 1) as workers:
        kill_everywhere(workers, [way], tally, 2, numbers, lambda p: p not in tally.killed)


def test_killed_with_followers(fault_build, tmp_path, zookeeper, hdfs, tally, numbers):
    hosts = ("127.0.0.1", "127.0.0.2")
    make = systems(fault_build, tmp_path, zookeeper, hdfs, {"sync_task.hold_period": "200ms"}, hosts=hosts)
    with Workers(make, 1) as workers:
        kill_everywhere(workers, [way_held], tally, 2, numbers, lambda p: p not in tally.killed)


def test_killed_over_budget(fault_build, tmp_path, zookeeper, hdfs, tally, numbers):
    make = systems(fault_build, tmp_path, zookeeper, hdfs, collector={"max_pinned_bytes": 100_000})
    with Workers(make, 1) as workers:
        kill_everywhere(workers, [way_over_budget], tally, 2, numbers, lambda p: p not in tally.killed)


def test_killed_at_the_hand_over(fault_build, tmp_path, zookeeper, hdfs, tally, numbers):
    with Workers(systems(fault_build, tmp_path, zookeeper, hdfs), 1) as workers:
        kill_everywhere(workers, [way_given_back], tally, 2, numbers, lambda p: p not in tally.killed)


def test_killed_and_without_power(fault_build, tmp_path, zookeeper, tally, numbers):
    """On a local file system, and with each kill everything is lost that wasn't made durable: of the collector's
    folder, the scheduler's state, and the destination."""
    plain = systems(fault_build, tmp_path, zookeeper, None, data_path="proxy")  # a Disk belongs to one process
    disks = []

    def make(n):
        s = plain(n)
        s.chance.seed(n)
        s.disks = {
            "syncd": Disk(fault_build, s.folder / "disk-1", s.folder / "state", s.folder / "out", forgets=True),
            "collector": Disk(fault_build, s.folder / "disk-2", s.folder / "collector-0", forgets=True),
        }
        for who, disk in s.disks.items():
            s.env[who] |= disk.env
            disks.append(disk)
        return s

    with Workers(make, WORKERS) as workers:
        kill_everywhere(workers, WAYS + LASTING, tally, 2, numbers)
    losses = sum(d.losses for d in disks)
    forgotten = sum(d.lost["files"] + d.lost["names"] for d in disks)
    print(f"{losses} power losses, {forgotten} files and names forgotten")
    numbers.add("power losses", losses)
    assert forgotten > losses // 4


COMMIT = ["label", "prepare_cas", "publish_rename", "commit_cas"]
STOPS = {"direct": COMMIT, "proxy": ["stage_create", "stage_write", "stage_finish", *COMMIT]}


def successor(system, n):
    """Another scheduler, elsewhere, with nothing of the former one's state. Returns that one's process and port."""
    former = system.syncd, system.syncd_port
    system.syncd_port = free_port()
    system.points["syncd"] = Points(system.folder / f"syncd-{n}.hits")
    system.env["syncd"]["OSYNC_FAILPOINT_HITS"] = str(system.folder / f"syncd-{n}.hits")
    system.conf["syncd"]["sync_task.progress_path"] = system.folder / f"state-{n}"
    system.start_syncd()
    return former


def zombie(name, side, deletes, numbers, lock):
    """The scheduler stops in the middle of a step, its successor takes the table over, and then the step goes on."""

    def job(system, table):
        run = Run(system, table, 2)
        points = system.points["syncd"]
        with Watcher(system, run.dest):
            run.create()
            system.wait_all_rows(table.name, table.rows)
            points.arm(name, side, how=signal.SIGSTOP)
            table.put()
            wait_for(f"the scheduler to stop at {name}", lambda: system.is_stopped("syncd"), 20)
            with system.away():
                former, port = successor(system, table.uses + 1000 * table.tid)
            try:
                recover(run)
                run.flow()
                former.process.send_signal(signal.SIGCONT)
                table.put()
                system.wait_all_rows(table.name, table.rows)
                if deletes:  # what its owner may do, who sees a task that has failed
                    system.patiently("the delete", lambda: ask(port, "DeleteSyncTask", db="db", name=table.name))
                table.put()
                system.wait_all_rows(table.name, table.rows)
                time.sleep(0.3)  # longer than its retries take
            finally:
                former.process.send_signal(signal.SIGCONT)
                former.kill()
        count_zombie(system, table, run, numbers, lock)

    return job


def count_zombie(system, table, run, numbers, lock):
    """The end of a run in which a zombie went on."""
    run.end()
    lost, twice = system.audit(run.dest, range(table.rows))
    wait_for(f"nothing to be left in {run.dest}", lambda: not system.hidden(run.dest), 20)
    with lock:
        numbers.add("zombies")
        numbers.audited(table.rows, lost, twice)


STAGER_STOPS = ["direct_create", "direct_write", "direct_finish", "send_staged"]


def zombie_stager(name, side, numbers, lock):
    """The collector stops in the middle of a step, the one beside it takes the table over, then the step goes on."""

    def job(system, table):
        if len(system.collectors) == 1:
            system.add_collector()
            system.wait_registered()
        run = Run(system, table, 2)
        points = system.points["collector"]
        stopped = []

        def find():
            stopped[:] = [c for n, c in enumerate(system.collectors) if system.is_stopped("collector", n)]
            return stopped

        with Watcher(system, run.dest):
            run.create()
            system.wait_all_rows(table.name, table.rows)
            points.arm(name, side, how=signal.SIGSTOP)
            table.put()
            try:
                wait_for(f"a collector to stop at {name}", find, 20)
                run.flow()
            finally:
                for c in stopped:
                    c.process.send_signal(signal.SIGCONT)
            table.put()
            system.wait_all_rows(table.name, table.rows)
            time.sleep(0.3)  # longer than its retries take
        count_zombie(system, table, run, numbers, lock)

    return job


def test_a_collector_that_was_given_up(fault_build, tmp_path, zookeeper, hdfs, tally, numbers):
    """Stopped before or after any step of staging a file, while another collector stages the same rows: whatever it
    does when it goes on, nothing is published twice, and nothing is left."""
    places = [(name, side) for name in STAGER_STOPS for side in ("before", "after")]
    with Workers(systems(fault_build, tmp_path, zookeeper, hdfs, data_path="direct"), WORKERS) as workers:
        workers.run_all((zombie_stager, zombie_stager(*place, numbers, tally.lock)) for place in places)


def ask(port, method, **fields):
    url = f"http://127.0.0.1:{port}/openmldb.datasync.SyncTool/{method}"
    request = urllib.request.Request(url, json.dumps(fields).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.parametrize("data_path", STOPS)
def test_a_scheduler_that_was_given_up(data_path, fault_build, tmp_path, zookeeper, hdfs, tally, numbers):
    """Stopped before or after any step of a delivery, while another one recovers the task from the labels: whatever it
    does when it goes on, nothing is published twice."""
    places = [(name, side) for name in STOPS[data_path] for side in ("before", "after")]
    with Workers(systems(fault_build, tmp_path, zookeeper, hdfs, data_path=data_path), WORKERS) as workers:
        workers.run_all(
            (zombie, zombie(name, side, i % 2, numbers, tally.lock)) for i, (name, side) in enumerate(places)
        )


def test_every_failpoint_is_reached(tally, numbers):
    missing = tally.unreached()
    numbers.add("failpoints reached", len(Points.NAMES) - len({m.split(":")[0] for m in missing}))
    numbers.add("failpoints", len(Points.NAMES))
    print(f"\n{tally.kills} kills, {tally.runs} jobs, {tally.looks} looks at destinations")
    assert not missing, f"no test has killed a daemon at {len(missing)} places: {missing}"
