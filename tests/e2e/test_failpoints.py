"""Each daemon is killed right before and right after every step that has an effect outside of it (failpoint.def), in a
real job, in each mode where that step is reached: no row is lost, none comes twice, nothing partial is ever visible,
and nothing is left behind.

A *way* is a job, or one with a first fault, since many steps are only taken in a recovery. Each way runs once without a
kill, to see which places it comes to, and then once for each place that is new. OSYNC_BUILD_FAULTS names the build to
test (default: OSYNC_BUILD); it needs -Dfailpoints=true. OSYNC_FAILPOINTS=name,name tries only those."""

import os
import pathlib
import queue
import shutil
import signal
import threading
import time
import traceback

import pytest

from faults import FaultySystem, Points, Watcher, has_failpoints, unique
from system import wait_for

WORKERS = int(os.environ.get("OSYNC_FAULT_WORKERS", 3))
ONLY = {n for n in os.environ.get("OSYNC_FAILPOINTS", "").split(",") if n}
ROWS, MORE, USES = 60, 12, 8  # of a table at first, in each run, and how many runs use it


class Table:
    """One that several runs copy, each to a destination of its own."""

    def __init__(self, system, tid):
        self.system, self.tid, self.name, self.rows, self.uses = system, tid, f"t{tid}", 0, 0
        system.make_table(tid, self.name, partitions=2)
        system.fill(tid, ROWS)
        self.rows = ROWS

    def put(self):
        self.system.tablet.generate(self.tid, MORE, first_id=self.rows)
        self.rows += MORE


class Run:
    """One job, and what a way does with it."""

    def __init__(self, system, table, mode, place=None):
        self.s, self.table, self.mode, self.place = system, table, mode, place
        self.dest = unique("r")
        self.reached = {}
        self.armed = False
        self.create_more = {}

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

    def create(self):
        self.s.create_patiently(self.table.name, self.mode, self.dest, **self.create_more)

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

    def folders(self):
        """The folders of incarnations below _osync, of file://."""
        return [p for p in (self.s.folder / "out" / self.dest / "_osync").glob("*/*/*") if p.is_dir()]

    # ---- around it ----

    def check(self):
        assert self.armed, "the way's first fault didn't happen"
        lost, twice = self.s.audit(self.dest, range(self.table.rows))
        wait_for(f"nothing to be left in {self.dest}", lambda: not self.s.hidden(self.dest), 20)
        wait_for("the collector to forget the task", lambda: not self.s.collector_folders(), 20)
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
    r.first("syncd", "stage_finish", "after")
    r.job()


def way_was_published(r):
    r.first("syncd", "publish_rename", "after")
    r.job()


def way_was_not_published(r):
    r.first("syncd", "publish_rename", "before")
    r.job()


def way_fenced_half(r):
    """The second recovery finds a tomb that the first one has made."""
    r.first("syncd", "stage_finish", "after", lambda: r.first("syncd", "fence_rename", "after"))
    r.job()


def way_removed_half(r):
    r.first("syncd", "erase_folder", "after")
    r.job()


def way_collector_ends(r):
    """In an orderly way, and starts."""
    r.create()
    r.arm()
    r.s.kill("collector", how=signal.SIGTERM)
    r.flow()
    r.end()


WAYS = [
    way_job,
    way_collector_starts,
    way_syncd_starts,
    way_was_published,
    way_was_not_published,
    way_fenced_half,
    way_removed_half,
    way_collector_ends,
]


# ---- the machinery ----


class Tally:
    """What all runs together came to."""

    def __init__(self):
        self.lock = threading.Lock()
        self.reached = {}  # (who, name, side) -> hits
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


@pytest.fixture(scope="module")
def fault_build(build):
    folder = pathlib.Path(os.environ.get("OSYNC_BUILD_FAULTS") or build).resolve()
    assert has_failpoints(folder), f"{folder} is not built with -Dfailpoints=true: name one in OSYNC_BUILD_FAULTS"
    return folder


class Workers:
    """Several Systems that work off one list."""

    def __init__(self, make, mode, tally):
        self.make, self.mode, self.tally = make, mode, tally
        self.todo = queue.Queue()
        self.errors = []
        self.threads = []

    def _work(self, n):
        try:
            with self.make(n) as system:
                table, tid = None, 0
                system.start()
                while (job := self.todo.get()) is not None and not self.errors:
                    if table is None or table.uses >= USES:
                        tid += 1
                        table = Table(system, tid)
                    table.uses += 1
                    job(system, table)
                    self.todo.task_done()
                system.keep = False
        except BaseException:
            self.errors.append(traceback.format_exc())
        while True:  # whoever waits for the list must not wait forever
            try:
                self.todo.get_nowait()
                self.todo.task_done()
            except (queue.Empty, ValueError):
                break

    def __enter__(self):
        self.threads = [threading.Thread(target=self._work, args=(n,)) for n in range(WORKERS)]
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        for _ in self.threads:
            self.todo.put(None)
        for t in self.threads:
            t.join()

    def run_all(self, jobs):
        for job in jobs:
            self.todo.put(job)
        while self.todo.unfinished_tasks and not self.errors and any(t.is_alive() for t in self.threads):
            time.sleep(0.02)
        assert not self.errors, self.errors[0]


def kill_everywhere(workers, ways, tally, mode, numbers):
    seen = {}

    def look(way):
        def job(system, table):
            run = Run(system, table, mode)
            began = time.monotonic()
            try:
                _, deaths, *counted = run.run(way)
            except BaseException as e:
                raise AssertionError(f"{way.__name__}, mode {mode}: {e}") from e
            with tally.lock:
                seen[way] = run.reached
                add(deaths, table.rows, *counted)
            print(f"{way.__name__}: {len(run.reached)} places, {time.monotonic() - began:.1f} s", flush=True)

        return job

    def add(deaths, rows, lost, twice, looks):
        tally.kills += deaths
        tally.runs += 1
        tally.looks += looks
        numbers.add("kills", deaths)
        numbers.audited(rows, lost, twice)

    def kill(way, place):
        def job(system, table):
            for _ in range(3):  # what a run comes to isn't always the same
                run = Run(system, table, mode, place)
                began = time.monotonic()
                try:
                    fired, deaths, *counted = run.run(way)
                except BaseException as e:
                    raise AssertionError(f"{way.__name__}, killed at {place}, mode {mode}: {e}") from e
                with tally.lock:
                    add(deaths, table.rows, *counted)
                    if fired:
                        tally.killed.setdefault(place, set()).add(mode)
                print(f"{way.__name__} {place}: {fired} {time.monotonic() - began:.1f} s", flush=True)
                if fired:
                    return

        return job

    workers.run_all([look(way) for way in ways])
    todo = {}
    for way in ways:
        for place, hits in seen[way].items():
            tally.reached[place] = tally.reached.get(place, 0) + hits
            if not ONLY or place[1] in ONLY:
                todo.setdefault(place, way)
    workers.run_all([kill(way, place) for place, way in todo.items()])
    return todo


@pytest.mark.parametrize("mode", [2, 0, 1])
def test_killed_at_every_failpoint(mode, fault_build, tmp_path, zookeeper, hdfs, tally, numbers):
    def make(n):
        folder = tmp_path / f"w{n}"
        folder.mkdir()
        conf = {"syncd": {"roll.interval": "100ms", "sync_task.check_period": "300ms"}}
        return FaultySystem(fault_build, folder, zookeeper, hdfs, conf)

    began = time.monotonic()
    with Workers(make, mode, tally) as workers:
        todo = kill_everywhere(workers, WAYS, tally, mode, numbers)
    killed = [p for p in todo if mode in tally.killed.get(p, ())]
    print(f"\nmode {mode}: killed at {len(killed)} of {len(todo)} places in {time.monotonic() - began:.0f} s")


def test_every_failpoint_is_reached(tally, numbers):
    missing = tally.unreached()
    numbers.add("failpoints reached", len(Points.NAMES) - len({m.split(":")[0] for m in missing}))
    numbers.add("failpoints", len(Points.NAMES))
    print(f"\n{tally.kills} kills, {tally.runs} jobs, {tally.looks} looks at destinations")
    assert not missing, f"no test has killed a daemon at {len(missing)} places: {missing}"
