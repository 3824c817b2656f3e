#!/usr/bin/env python3
"""A random run of a whole system: rows are put, overwritten and deleted, snapshots made, logs purged, leaders moved,
and every party is killed or paused, while one table is synced continuously and another one again and again as a whole;
then what is in the files is compared, event by event, with what was done.

    chaos.py --minutes N [--seed S] [--data-path direct|proxy] [--build DIR] [--keep]

Everything that is chosen is chosen by the seed, so the same seed does the same things; the machine decides when exactly
they happen. Without --data-path, odd seeds have collectors that write staged files themselves, even ones have rows that
go by way of the scheduler. Exit status 1: a row was lost or came twice, or a reader could have seen a file that wasn't
complete.

For each put (an id of its own), of what is in the files: never twice. And once, unless the log that has it was lost
with a leader that died; or a later put of its key, or a delete, comes in the log before the end of the window that was
read with the snapshot (that is what a full sync is: the state at one moment); or nobody knows whether it was put, since
the TabletServer died before it answered."""

import argparse
import collections
import faulthandler
import heapq
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

from hdfs import Hdfs, HdfsError
from system import System, fast_clock, wait_for
from tablet import TabletError, partition_of
from zookeeper import ZooKeeper

HOSTS = ("127.0.0.1", "127.0.0.2")
BASE_TS = 1_700_000_000_000
PARTITIONS = 3
CALL_SECONDS = 2  # of a put
PATIENCE = 300  # seconds, for what must happen in the end
KEYS, STAMPS = 150, 40  # few enough that keys are put again and again
PART = re.compile(r"part-([0-9a-f-]{36})-(\d{5})-(\d{10})\.csv")
# Why a partition may fail for good. Each is a promise of docs/delivery.md that isn't kept by skipping something.
ALLOWED = {
    "diverged": re.compile("diverged"),
    "purged": re.compile(
        "binlog too short|are needed and gone|are missing|still needed|is gone|are gone|has no entry|aren't retained"
    ),
    "snapshot gone": re.compile("there is no snapshot now"),
    "re-created": re.compile("re-created"),
}
GONE = (
    OSError,
    http.client.HTTPException,
    HdfsError,
    json.JSONDecodeError,
)  # what somebody who has just been killed answers


class Wrong(Exception):
    """What must never happen has happened."""


class Event:
    """One put, or one delete (id None) of the timestamps that start >= ts > end."""

    __slots__ = ("id", "key", "ts", "end", "index", "state", "serial")

    def __init__(self, serial, key, ts, end=None, number=None):
        self.serial, self.id, self.key, self.ts, self.end = serial, number, key, ts, end
        self.index, self.state = None, "unknown"  # then "kept", and perhaps "lost" with a leader; or "refused"


class Branch:
    """What one partition's log holds, as far as it is known: events by log index. A leader that dies takes its tail
    along; and what was lost that way comes back if the next leader is one that was left behind before. Each term has
    one leader, who goes on behind an entry of an earlier term."""

    def __init__(self):
        self.kept, self.unknown, self.lost = [], [], []
        self.term = 1
        self.logs = {1: (0, 0, [])}  # term -> index and term of the entry that it goes on behind, its events

    def add(self, event, index):
        event.index, event.state = index, "kept"
        self.kept.append(event)
        self.logs[self.term][2].append(event)

    def leader_moves(self, term, index, last_term):
        """The new leader's log ends with entry `index`, of `last_term`."""
        self.term, self.logs[term] = term, (index, last_term, [])
        kept = set()
        while last_term:
            before, earlier, events = self.logs[last_term]
            kept |= {e for e in events if e.index <= index}
            index, last_term = min(index, before), earlier
        everything = [e for _, _, events in self.logs.values() for e in events]
        self.kept = sorted((e for e in everything if e in kept), key=lambda e: e.index)
        self.lost = [e for e in everything if e not in kept]
        for event in everything:
            event.state = "kept" if event in kept else "lost"


def covers(later, event):
    """Does `later` take the row of the put `event` away?"""
    if later.key != event.key:
        return False
    return later.ts == event.ts if later.id is not None else later.ts >= event.ts > later.end


class Table:
    """What was done to one table. The lock is held while something is put and while a leader moves."""

    def __init__(self, tid, name):
        self.tid, self.name = tid, name
        self.branches = [Branch() for _ in range(PARTITIONS)]
        self.puts = {}  # id -> event
        self.lock = threading.RLock()


class Chaos:
    def __init__(self, system, seed, say=print):
        self.s, self.seed, self.say = system, seed, say
        self.did = collections.Counter()
        self.failures = collections.Counter()  # of partitions, by reason
        self.tables = {1: Table(1, "t"), 2: Table(2, "u")}
        self.serial = 0
        self.later = []  # (when, number, what): what was broken is mended
        self.broken = set()
        self.stop, self.stop_writing = threading.Event(), threading.Event()
        self.wrong = []
        self.seen = {}  # visible file -> its length
        self.rows = {}  # visible file -> its lines
        self.places_lock = threading.RLock()  # of seen and rows
        self.bounds = {}  # pid -> index: everything behind it is read from the log
        self.created = 0
        self.checked = collections.Counter()
        self.mends = 0
        self.last_error = ""
        self.started = time.monotonic()

    def log(self, text):
        self.say(f"{time.monotonic() - self.started:7.2f} {text}", flush=True)

    # ---- rows ----

    @staticmethod
    def partition(key):
        return partition_of(key, PARTITIONS)

    def send(self, table, events, call):
        """Events of one partition, in one call; what they became is noted."""
        branch = table.branches[self.partition(events[0].key)]
        try:
            places = call()
        except (*GONE, TabletError) as e:
            # Nothing has happened if it wasn't asked, or has answered that it doesn't lead.
            if isinstance(e, TabletError) or isinstance(getattr(e, "reason", None), ConnectionRefusedError):
                for event in events:
                    event.state = "refused"
                return False
            self.did["puts nobody answered"] += len(events)
            branch.unknown += events
            return False
        for event, (_, index) in zip(events, places, strict=True):
            branch.add(event, index)
        return True

    def put(self, table, cells):
        """cells: (key, ts) of each row."""
        by_pid = collections.defaultdict(list)
        with table.lock:
            for key, ts in cells:
                self.serial += 1
                event = Event(self.serial, key, ts, number=self.serial)
                table.puts[event.id] = event
                by_pid[self.partition(key)].append(event)
            for pid, events in by_pid.items():
                rows = [{"id": e.id, "k": e.key, "ts": e.ts, "v": e.id / 4, "payload": "x" * 60} for e in events]
                leader = self.s.replicas.leader(table.tid, pid)
                self.send(table, events, lambda: leader.put(table.tid, rows, timeout=CALL_SECONDS))

    def delete(self, table, key, start, end):
        with table.lock:
            self.serial += 1
            event = Event(self.serial, key, start, end=end)
            leader = self.s.replicas.leader(table.tid, self.partition(key))
            self.send(
                table,
                [event],
                lambda: leader.delete(table.tid, key=key, start_ts=start, end_ts=end, timeout=CALL_SECONDS),
            )

    def write(self):
        rng = random.Random(f"{self.seed} rows")
        t, u = self.tables[1], self.tables[2]
        n = 0
        while not self.stop_writing.wait(rng.uniform(0.02, 0.15)):
            try:
                kind = rng.random()
                if kind < 0.88:
                    self.put(
                        t,
                        [
                            (f"k{rng.randrange(KEYS)}", BASE_TS + rng.randrange(STAMPS))
                            for _ in range(rng.randrange(1, 40))
                        ],
                    )
                    self.did["puts"] += 1
                elif kind < 0.95:
                    start = BASE_TS + rng.randrange(STAMPS)
                    whole = rng.random() < 0.5
                    self.delete(
                        t,
                        f"k{rng.randrange(KEYS)}",
                        BASE_TS + STAMPS if whole else start,
                        0 if whole else start - rng.randrange(1, 10),
                    )
                    self.did["deletes"] += 1
                else:
                    # Its keys are never put again: a full sync has all of them.
                    self.put(u, [(f"u{n + i}", BASE_TS + n + i) for i in range(50)])
                    n += 50
            except Exception:
                self.wrong.append(f"the writer: {traceback.format_exc()}")
                raise

    # ---- what is visible ----

    def watch(self):
        """A reader of the destination: what it sees has a committed file's name, is complete, and never changes."""
        while not self.stop.wait(0.1):
            try:
                self.look()
            except GONE:
                continue
            except Wrong as e:
                self.wrong.append(str(e))
            except Exception:
                self.wrong.append(f"the watcher: {traceback.format_exc()}")

    def look(self):
        with self.places_lock:
            for folder in self.folders():
                if not self.s.hdfs.exists(folder):
                    continue
                for name, length in self.s.hdfs.entries(folder).items():
                    if name[0] in "_.":
                        continue
                    path = f"{folder}/{name}"
                    if not PART.fullmatch(name):
                        raise Wrong(f"{path} is visible")
                    if path not in self.seen:
                        data = self.s.hdfs.read(path)
                        if len(data) != length:
                            raise Wrong(f"{path} has {length} bytes, but {len(data)} could be read")
                        if not data.endswith(b"\n"):
                            raise Wrong(f"{path} ends in the middle of a row")
                        self.seen[path] = length
                        self.rows[path] = data.decode("ascii").split("\n")[:-1]
                    elif self.seen[path] != length:
                        raise Wrong(f"{path} had {self.seen[path]} bytes, and has {length} now")

    def looked(self):
        try:
            self.look()
        except GONE:
            return False
        return True

    def folders(self):
        return [self.s.dest("t"), self.taken(), *([self.full] if self.full else [])]

    def taken(self):
        """Where a consumer moves files to."""
        return self.s.dest("t") + ".taken"

    # ---- what is broken, and mended ----

    def mend_later(self, delay, what, mend):
        self.broken.add(what)
        self.mends += 1
        heapq.heappush(self.later, (time.monotonic() + delay, self.mends, what, mend))

    def mend(self, everything=False):
        while self.later and (everything or self.later[0][0] <= time.monotonic()):
            _, _, what, mend = heapq.heappop(self.later)
            self.log(f"{what} comes back")
            wait_for(f"{what} to come back", lambda mend=mend: self.comes_back(mend), 60)
            self.broken.discard(what)

    def comes_back(self, mend):
        try:
            mend()
        except (*GONE, TabletError) as e:
            self.last_error = e
            return False
        return True

    def with_zookeeper(self, what, call):
        """A call that needs ZooKeeper, to which a tablet may be connecting again."""

        def done():
            try:
                call()
            except (*GONE, TabletError) as e:
                self.last_error = e
                return False
            return True

        wait_for(what, done, 90)

    def kill_collector(self, rng, n, wipe):
        name = f"collector {n}"
        daemon = self.s.collectors[n]
        daemon.kill()
        self.did["kills of a collector"] += 1
        if wipe:
            self.did["collectors' folders deleted"] += 1
            shutil.rmtree(self.s.folder / f"collector-{n}", ignore_errors=True)
        self.mend_later(rng.choice([0, 0, 0.5, 2, 4]), name, daemon.start)

    def kill_syncd(self, rng):
        self.s.syncd.kill()
        self.did["kills of syncd"] += 1
        self.mend_later(rng.choice([0, 0, 0.5, 2]), "syncd", self.s.syncd.start)

    def pause(self, name, process, seconds):
        process.send_signal(signal.SIGSTOP)
        self.did[f"pauses of {name.split()[0]}"] += 1
        self.mend_later(seconds, name, lambda: process.send_signal(signal.SIGCONT))

    def move(self, n, to, dead):
        """What tablet n leads is led by `to` from now on; with n dead (or silent)."""
        for table in self.tables.values():
            with table.lock:
                for pid in range(PARTITIONS):
                    if self.s.replicas.leader(table.tid, pid) is self.s.tablets[n]:
                        self.move_one(table, pid, self.s.tablets[to], dead)
                        self.did["leader moves"] += 1

    def move_one(self, table, pid, to, dead):
        """The table's lock is held: nothing is put meanwhile."""
        last = []

        def moved():
            self.s.replicas.move(table.tid, to, pid, dead=dead)
            last[:] = to.last_entries(table.tid)[pid]

        self.with_zookeeper("the leader to move", moved)
        branch = table.branches[pid]
        before = len(branch.lost)
        branch.leader_moves(self.s.replicas.term, *last)
        self.did["events lost with a leader"] += max(0, len(branch.lost) - before)

    def kill_tablet(self, rng, n, pause):
        """Its copies take over, or it comes back as the leader."""
        tablet, other = self.s.tablets[n], self.s.tablets[1 - n]
        name = f"tablet {n}"
        moves = rng.random() < 0.7 and f"tablet {1 - n}" not in self.broken
        if pause:
            tablet.pause()
            self.did["pauses of tablet"] += 1
        else:
            tablet.kill()
            self.did["kills of a tablet"] += 1
        if moves:
            self.move(n, 1 - n, [tablet])

        def back():
            if pause:
                tablet.resume()
            else:
                self.with_zookeeper("the tablet to start", tablet.start)
            for table in self.tables.values():
                self.with_zookeeper(
                    "the tablet to be told who leads", lambda: self.s.replicas.back(table.tid, tablet)
                )
                self.follow_again(table.tid, other, tablet)

        self.mend_later(rng.choice([0.2, 1, 3]), name, back)

    def follow_again(self, tid, other, tablet):
        """The other one copies from it what it leads."""
        for pid in range(PARTITIONS):
            if self.s.replicas.leader(tid, pid) is tablet:
                other.follow(tid, pid, leader=tablet.endpoint)

    def planned_move(self, rng):
        table = self.tables[rng.choice([1, 1, 2])]
        pid = rng.randrange(PARTITIONS)
        with table.lock:
            leader = self.s.replicas.leader(table.tid, pid)
            to = next(t for t in self.s.tablets if t is not leader)
            to.follow(table.tid, pid, leader=leader.endpoint)
            self.s.replicas.wait_copied(table.tid, pid)
            self.move_one(table, pid, to, [])
        self.did["planned leader moves"] += 1

    def lag(self, rng):
        """A copy stays behind: if its leader dies meanwhile, there is something to lose."""
        tid, pid = rng.choice([1, 1, 2]), rng.randrange(PARTITIONS)
        leader = self.s.replicas.leader(tid, pid)
        copy = next(t for t in self.s.tablets if t is not leader)
        copy.follow(tid, pid, leader=leader.endpoint, paused=True)
        self.did["copies that lag"] += 1

        def end():
            now = self.s.replicas.leader(tid, pid)
            for t in self.s.tablets:
                if t is not now and f"tablet {self.s.tablets.index(t)}" not in self.broken:
                    t.follow(tid, pid, leader=now.endpoint)

        self.mend_later(rng.uniform(0.5, 3), f"copy {tid} {pid}", end)
        if rng.random() < 0.4:
            time.sleep(0.5)
            self.kill_tablet(rng, self.s.tablets.index(leader), False)

    def snapshot(self, rng):
        tablet = rng.choice(self.s.tablets)
        tid = rng.choice([1, 1, 2])
        tablet.roll(tid)
        time.sleep(0.25)  # more than a minute
        tablet.snapshot(tid, offset_skew=rng.choice([0, 0, 0, -20, 20, 1000]))
        self.did["snapshots"] += 1

    def collectors_of(self, n):
        """Numbers of the collectors beside tablet n."""
        return [i for i, c in enumerate(self.s.collectors) if c.endpoint.startswith(f"{HOSTS[n]}:")]

    def held(self, n, tid):
        """Have the collectors beside tablet n links of all that is in its logs?"""
        ends = {pid: end for pid, (end, _) in self.s.tablets[n].last_entries(tid).items()}
        here = set()
        for i in self.collectors_of(n):
            if f"collector {i}" in self.broken:
                return False
            page = self.s.collector_page(i)
            for kind, last in (("tasks", "log_tail"), ("holds", "last_entry")):
                mine = [p for p in page.get(kind, []) if p["tid"] == tid and p.get("linked_files")]
                here |= {p["pid"] for p in mine if p[last] >= ends[p["pid"]]}
        return here == set(ends)

    def purge(self, rng):
        """Mostly of what is linked. Else what is needed may be gone: that must be said."""
        n, tid, anyway = rng.randrange(2), rng.choice([1, 1, 2]), rng.random() < 0.05
        if not anyway and not self.held(n, tid):
            return
        self.s.tablets[n].purge(tid)
        self.did["purges"] += 1

    def restart_hdfs(self, rng, who):
        kill, start = getattr(self.s.hdfs, f"kill_{who}"), getattr(self.s.hdfs, f"restart_{who}")
        kill()
        self.did[f"kills of the {who}"] += 1
        self.broken.add("hdfs")

        def back():
            start(wait=False)
            threading.Thread(target=self.hdfs_gets_ready, daemon=True).start()

        self.mend_later(rng.choice([0, 1, 3]), who, back)

    def hdfs_gets_ready(self):
        """It takes long to start, and while it does nothing is written that another fault could hit."""
        while "hdfs" in self.broken:
            try:
                self.s.hdfs.wait_ready()
                self.broken.discard("hdfs")
            except (*GONE, RuntimeError) as e:
                self.last_error = e

    def pause_namenode(self, rng):
        self.s.hdfs.pause_namenode()
        self.did["pauses of namenode"] += 1
        self.broken.add("hdfs")

        def back():
            self.s.hdfs.resume_namenode()
            self.broken.discard("hdfs")

        self.mend_later(rng.uniform(1, 8), "namenode", back)

    def restart_zookeeper(self, rng):
        self.s.zookeeper.kill()
        self.did["kills of ZooKeeper"] += 1
        self.mend_later(rng.choice([0, 1, 5]), "zookeeper", self.s.zookeeper.start)

    def pause_zookeeper(self, rng):
        self.s.zookeeper.pause()
        self.did["pauses of zookeeper"] += 1
        self.mend_later(rng.uniform(1, 5), "zookeeper", self.s.zookeeper.resume)

    def consume(self, rng):
        """A consumer moves the oldest files away."""
        count = rng.randrange(1, 4)
        if not self.places_lock.acquire(blocking=False):
            return  # whoever has it may wait for what only this thread mends
        try:
            self.s.hdfs.mkdirs(self.taken())
            names = sorted(n for n in self.s.hdfs.entries(self.s.dest("t")) if PART.fullmatch(n))
            for name in names[:count]:
                if f"{self.s.dest('t')}/{name}" in self.seen:
                    self.s.hdfs.rename(f"{self.s.dest('t')}/{name}", f"{self.taken()}/{name}")
                    self.did["files moved away"] += 1
        finally:
            self.places_lock.release()

    def fault(self, rng):
        """One thing that happens, if nothing is in its way."""
        n, c = rng.randrange(2), rng.randrange(len(self.s.collectors))
        whole = not any(w in self.broken for w in ("zookeeper", "tablet 0", "tablet 1"))
        choices = [
            (6, "snapshot", whole, lambda: self.snapshot(rng)),
            (5, "purge", whole, lambda: self.purge(rng)),
            (4, f"collector {c}", f"collector {c}" not in self.broken, lambda: self.kill_collector(rng, c, False)),
            (
                1,
                f"collector {c} wiped",
                f"collector {c}" not in self.broken,
                lambda: self.kill_collector(rng, c, True),
            ),
            (
                2,
                f"collector {c} paused",
                f"collector {c}" not in self.broken,
                lambda: self.pause(f"collector {c}", self.s.collectors[c].process, rng.uniform(0.3, 9)),
            ),
            (4, "syncd", "syncd" not in self.broken, lambda: self.kill_syncd(rng)),
            (
                2,
                "syncd paused",
                "syncd" not in self.broken,
                lambda: self.pause("syncd", self.s.syncd.process, rng.uniform(0.3, 9)),
            ),
            (3, f"tablet {n}", whole, lambda: self.kill_tablet(rng, n, False)),
            (1, f"tablet {n} paused", whole, lambda: self.kill_tablet(rng, n, True)),
            (2, "planned move", whole and not self.lagging(), lambda: self.planned_move(rng)),
            (3, "copy", whole and not self.lagging(), lambda: self.lag(rng)),
            (2, "datanode", "hdfs" not in self.broken, lambda: self.restart_hdfs(rng, "datanode")),
            (1, "namenode", "hdfs" not in self.broken, lambda: self.restart_hdfs(rng, "namenode")),
            (1, "namenode paused", "hdfs" not in self.broken, lambda: self.pause_namenode(rng)),
            (1, "zookeeper", whole, lambda: self.restart_zookeeper(rng)),
            (1, "zookeeper paused", whole, lambda: self.pause_zookeeper(rng)),
            (2, "consumer", "hdfs" not in self.broken, lambda: self.consume(rng)),
        ]
        _, name, possible, do = rng.choices(choices, [choice[0] for choice in choices])[0]
        if not possible:
            return
        self.log(name)
        try:
            do()
        except GONE as e:
            self.log(f"{name}: {e}")

    def lagging(self):
        return any(w.startswith("copy") for w in list(self.broken))

    # ---- the operator ----

    def status(self):
        """{(tid, pid): (status, reason, offset of the committed point in the log or None)}; None: nobody answers."""
        try:
            answer = self.s.rpc("TaskStatus")
        except GONE:
            return None
        if answer["response"].get("code", 0) != 0:
            return None
        out = {}
        for task, info in zip(answer.get("task", []), answer.get("readableInfo", [])):
            p = task["progress"]
            at = p.get("syncPoint", {})
            offset = int(at.get("offset", 0)) if at.get("type") == "kBINLOG" else None
            reason = info.partition("reason=")[2]
            out[(p["tid"], p.get("pid", 0))] = (task["status"], reason, offset)
        return out

    def note_bounds(self, status):
        """Once a partition is beyond its snapshot, every window that it will ever have ends before what is put now."""
        with self.tables[1].lock:
            for (tid, pid), (_, _, offset) in status.items():
                if tid == 1 and offset is not None and pid not in self.bounds:
                    branch = self.tables[1].branches[pid]
                    known = max((e.index for e in branch.kept + branch.lost), default=0)
                    self.bounds[pid] = known + len(branch.unknown)

    def rpc(self, method, **fields):
        try:
            return self.s.rpc(method, **fields)
        except GONE as e:
            return {"code": -1, "msg": str(e)}

    def create(self, tid, mode, dest, **more):
        def made():
            answer = self.rpc(
                "CreateSyncTask", db="db", name=self.tables[tid].name, mode=mode, dest=self.s.dest(dest), **more
            )
            exists = "already exists" in answer.get("msg", "")
            self.last_error = answer
            return answer.get("code") == 0 or exists

        wait_for(f"the task of table {tid} to be made", made, PATIENCE)

    def remove(self, tid):
        def gone():
            self.rpc("DeleteSyncTask", db="db", name=self.tables[tid].name)
            status = self.status()
            return status is not None and not [k for k in status if k[0] == tid]

        wait_for(f"the task of table {tid} to be gone", gone, PATIENCE)

    def operate(self):
        """Looks after partitions that have failed: a retry, and if that is no use, a new start."""
        tried = collections.Counter()
        while not self.stop.wait(0.2):
            try:
                self.operate_once(tried)
            except TimeoutError as e:
                self.wrong.append(f"{e}: {self.last_error}")
            except Exception:
                self.wrong.append(f"the operator: {traceback.format_exc()}")

    def operate_once(self, tried):
        status = self.status()
        if status is None:
            return
        self.note_bounds(status)
        if not [k for k in status if k[0] == 2]:
            if self.full:
                self.full_sync_ended()
            if not self.no_more_fulls:
                self.full_sync_begin()
            return
        for tid in (1, 2):
            failed = {k: v for k, v in status.items() if k[0] == tid and v[0] == "FAILED"}
            final = {k: v for k, v in failed.items() if not self.waits(v[1])}
            if not final:
                tried[tid] = 0
                continue
            tried[tid] += 1
            if tried[tid] == 1:  # it may have been about to go on
                continue
            if tried[tid] == 5:
                self.log(f"retry of {sorted(final)}: {next(iter(final.values()))[1]}")
                self.rpc("RetrySyncTask", db="db", name=self.tables[tid].name)
                self.did["retries"] += 1
            if tried[tid] < 60:
                continue
            for _, reason, _ in final.values():
                self.allow(reason)
            self.log(f"table {tid} is begun again: {next(iter(final.values()))[1]}")
            tried[tid] = 0
            if tid == 1:
                self.begin_again(status)
            else:
                self.remove(2)
                self.full_sync_given_up()

    @staticmethod
    def waits(reason):
        """Failed for want of somebody, which ends by itself."""
        return any(
            words in reason
            for words in ("can't find", "collector", "isn't alive", "waits for", "NoSuchElement", "ZooKeeper")
        ) and not any(p.search(reason) for p in ALLOWED.values())

    def allow(self, reason):
        for name, pattern in ALLOWED.items():
            if pattern.search(reason):
                self.failures[name] += 1
                return
        self.wrong.append(f"a partition has failed for no good reason: {reason}")

    def begin_again(self, status):
        """delete, create --restart: what came of the former task is removed. What a consumer took is the consumer's to
        throw away."""
        ends = {}
        for pid, branch in enumerate(self.tables[1].branches):
            offset = status[(1, pid)][2]
            if offset is not None:  # entries of a former leader aside
                ends[pid] = min([offset, *(e.index for e in branch.lost)])
        self.remove(1)
        self.did["new starts"] += 1
        wait_for("HDFS", self.looked, 120)
        self.audit("table t before a new start", ends)
        with self.places_lock:
            old = [p for p in self.rows if p.startswith((self.s.dest("t") + "/", self.taken()))]
            wait_for("HDFS", lambda: self.hdfs_delete(self.taken()), 120)
            self.create(1, 2, "t", start="kStartRestart")
            for path in old:
                self.rows.pop(path)
                self.seen.pop(path)
        self.bounds = {}

    def hdfs_delete(self, path):
        try:
            self.s.hdfs.delete(path)
            return not self.s.hdfs.exists(path)
        except GONE:
            return False

    # ---- full syncs, one after the other ----

    no_more_fulls = False
    n_fulls = 0  # that were tried
    full = ""  # the folder of the one that is running
    full_before = {}  # folder -> what was put before the sync into it could begin

    def full_sync_begin(self):
        """Into a folder of its own. If nobody answers it may have begun, and even be over, so another try needs another
        folder."""
        table = self.tables[2]

        def begun():
            running = [
                t["progress"]["dest"] for t in self.rpc("TaskStatus").get("task", []) if t["progress"]["tid"] == 2
            ]
            if not running:
                self.n_fulls += 1
                dest = self.s.dest(f"u{self.n_fulls}")
                with table.lock:
                    self.full_before = {**self.full_before, dest: {e.id for b in table.branches for e in b.kept}}
                self.last_error = self.rpc("CreateSyncTask", db="db", name=table.name, mode=0, dest=dest)
                running = [dest] if self.last_error.get("code") == 0 else []
            self.full = running[0] if running else ""
            return running

        wait_for("a full sync to begin", begun, PATIENCE)
        self.did["full syncs begun"] += 1

    def full_sync_given_up(self):
        self.did["full syncs given up"] += 1
        self.full = ""

    def full_sync_ended(self):
        """The last one is over: everything that was put before it is there once."""
        table, folder = self.tables[2], self.full
        wait_for("HDFS", self.looked, 120)
        with table.lock:
            kept = {e.id for b in table.branches for e in b.kept}
            self.compare(f"full sync {folder}", table, self.ids(table, folder), self.full_before[folder] & kept)
        self.did["full syncs ended"] += 1
        self.full = ""

    # ---- the audit ----

    def ids(self, table, *folders):
        """How often each id is in the files of these folders."""
        got, names = collections.Counter(), {}
        with self.places_lock:
            rows = dict(self.rows)
        for path, lines in rows.items():
            folder, name = path.rsplit("/", 1)
            if folder not in folders:
                continue
            if names.setdefault(name, lines) is not lines:  # it was seen before and after it was moved
                if names[name] != lines:
                    raise Wrong(f"{path} had other rows before it was moved")
                continue
            pid = int(PART.search(path).group(2))
            for line in lines:
                number, key = line.split(",", 2)[:2]
                event = table.puts.get(int(number))
                if not event or f'"{event.key}"' != key:
                    raise Wrong(f"{path} holds a row that nobody put: {line}")
                if self.partition(event.key) != pid:
                    raise Wrong(f"{path} holds a row of partition {self.partition(event.key)}: {line}")
                got[event.id] += 1
        return got

    def compare(self, what, table, got, must):
        may = {i for i, e in table.puts.items() if e.state != "refused"}
        twice = sorted(i for i, n in got.items() if n > 1)
        lost = sorted(must - set(got))
        other = sorted(set(got) - may)
        self.checked["rows"] += len(must)
        self.checked["lost"] += len(lost)
        self.checked["twice"] += len(twice)
        if lost or twice or other:
            for i in (lost + twice + other)[:20]:
                e = table.puts[i]
                files = [
                    p.rsplit("/", 1)[1] for p, lines in self.rows.items() for x in lines if x.startswith(f"{i},")
                ]
                pid = self.partition(e.key)
                self.log(f"  {i}: {e.key} {e.ts} partition {pid}, log index {e.index}, {e.state}, in {files}")
                for n in got:
                    o = table.puts[n]
                    if o is not e and o.key == e.key and o.ts == e.ts:
                        self.log(f"    there is {n}: log index {o.index}, {o.state}")
            self.wrong.append(
                f"{what}: lost {len(lost)} {lost[:9]}, twice {len(twice)} {twice[:9]}, never put {other[:9]}"
            )

    def must(self, table, pid, end):
        """Ids of a partition that must be there, once everything before log index `end` is committed."""
        branch, bound = table.branches[pid], self.bounds.get(pid, float("inf"))
        by_key, out = collections.defaultdict(list), set()
        for event in branch.kept + branch.unknown:
            by_key[event.key].append(event)
        for event in branch.kept:
            if event.id is None or event.index >= end:
                continue
            if event.index <= bound and any(
                covers(later, event)
                and (later.serial > event.serial if later.index is None else later.index > event.index)
                for later in by_key[event.key]
            ):
                self.checked["replaced"] += 1
            else:
                out.add(event.id)
        return out

    def audit(self, what, ends):
        """ends: {pid: everything before this log index is committed}"""
        table = self.tables[1]
        self.look()
        with table.lock:
            got = self.ids(table, self.s.dest("t"), self.taken())
            must = set().union(*(self.must(table, pid, end) for pid, end in ends.items()))
            self.compare(what, table, got, must)

    def look_again(self):
        """Every file is still what it was when it was first seen."""
        for path, lines in self.rows.items():
            if not self.s.hdfs.exists(path):
                continue
            if self.s.hdfs.read(path).decode("ascii").split("\n")[:-1] != lines:
                raise Wrong(f"{path} has changed")

    # ---- the run ----

    def caught_up(self):
        status = self.status()
        if status is None or len([k for k in status if k[0] == 1]) != PARTITIONS:
            return False
        for pid, branch in enumerate(self.tables[1].branches):
            end = self.s.replicas.leader(1, pid).last_entries(1)[pid][0]
            _, reason, offset = status[(1, pid)]
            if offset is None or offset <= end:
                self.last_error = f"partition {pid} is at {offset} of {end}: {reason}"
                return False
        return True

    def run(self, seconds):
        s, rng = self.s, random.Random(f"{self.seed} faults")
        for table in self.tables.values():
            s.make_copied_table(table.tid, table.name, partitions=PARTITIONS)
        for i in range(20):
            self.put(
                self.tables[1], [(f"k{rng.randrange(KEYS)}", BASE_TS + rng.randrange(STAMPS)) for _ in range(100)]
            )
            self.put(self.tables[2], [(f"first{i}-{j}", BASE_TS + j) for j in range(100)])
        s.replicas.wait_copied(1)
        for tablet in s.tablets:
            s.snapshot(tablet, 1)
        s.start()
        s.add_collector(HOSTS[0])  # a second one there
        s.wait_registered()
        self.create(1, 2, "t")
        self.full_sync_begin()
        threads = [threading.Thread(target=f) for f in (self.write, self.watch, self.operate)]
        for thread in threads:
            thread.start()
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not self.wrong:
                self.mend()
                self.fault(rng)
                time.sleep(rng.choice([0.05, 0.2, 0.5, 1]))
            self.log("the end: everything is mended")
            self.mend(everything=True)
            s.hdfs.wait_ready()
            self.end(threads)
        finally:
            self.stop.set()
            self.stop_writing.set()
            for thread in threads:
                thread.join()
            self.mend(everything=True)

    def end(self, threads):
        """The writer stops; then everything that was put is delivered, with the operator's help if it must be."""
        for tid in self.tables:
            for n, tablet in enumerate(self.s.tablets):
                for pid in range(PARTITIONS):
                    leader = self.s.replicas.leader(tid, pid)
                    if leader is not tablet:
                        tablet.follow(tid, pid, leader=leader.endpoint)
        self.stop_writing.set()
        threads[0].join()
        self.log("everything is put")
        self.new_windows()
        wait_for("everything to be delivered", lambda: self.wrong or self.caught_up(), PATIENCE)
        self.log("everything is delivered")
        self.no_more_fulls = True
        wait_for("the last full sync", lambda: self.wrong or not self.full, PATIENCE)
        self.stop.set()
        for thread in threads:
            thread.join()
        if self.wrong:
            return
        self.audit("table t", {pid: float("inf") for pid in range(PARTITIONS)})
        self.look_again()
        self.verify()
        self.remove(1)
        self.remove(2)  # one that could not end
        left = [p for n in ["t", *(f"u{i}" for i in range(1, self.n_fulls + 1))] for p in self.hidden(n)]
        if left:
            self.wrong.append(f"left behind: {left}")

    def new_windows(self):
        """A copy that was made anew has a log that begins late, and no window before the next snapshot that was made
        after a later file of its log was begun. As OpenMLDB's nightly snapshot does in the end."""
        for tid, table in self.tables.items():
            for tablet in self.s.tablets:
                tablet.roll(tid)
            self.put(table, [(f"last{i}", BASE_TS) for i in range(50)])
            self.s.replicas.wait_copied(tid)
            time.sleep(0.25)  # more than a minute
            for tablet in self.s.tablets:
                tablet.snapshot(tid)

    def hidden(self, dest):
        return self.s.hidden(dest) if self.s.hdfs.exists(self.s.dest(dest)) else []

    def verify(self):
        """The audit that a user can run finds nothing missing either."""
        answer = self.s.rpc("VerifySyncTask", db="db", name="t", dest=self.s.dest("t"))
        if answer["response"].get("code") != 0:
            self.wrong.append("verify: " + "\n".join([answer["response"].get("msg", ""), *answer.get("report", [])]))

    def summary(self):
        faults = ", ".join(f"{n} {what}" for what, n in sorted(self.did.items()))
        failures = ", ".join(f"{n} {what}" for what, n in sorted(self.failures.items())) or "none"
        c = self.checked
        return (
            f"seed {self.seed}: {faults}\npartitions that failed and said so: {failures}\n"
            f"{c['rows']} rows checked in {len(self.rows)} files, {c['lost']} lost, {c['twice']} twice "
            f"({c['replaced']} more were replaced or deleted before they had to be read)"
        )


CONF = {
    "collector": {"max_pack_size": "16K", "request_timeout_ms": 2000},
    "syncd": {"roll.interval": "200ms", "roll.size": "32K", "request.timeout": "2s", "sync_task.hold_period": "1s"},
}


def chaos(build, folder, hdfs, seed, seconds, say=print, data_path=None):
    """Runs it; returns the Chaos, with `wrong` empty if all is well."""
    data_path = data_path or ("direct" if seed % 2 else "proxy")
    os.environ["TZ"] = "UTC"  # a snapshot's name has no zone
    zookeeper = ZooKeeper(pathlib.Path(folder) / "own-zookeeper").start()
    say(f"seed {seed}, data path {data_path}, in {folder}")
    try:
        with System(build, folder, zookeeper, hdfs, CONF, HOSTS, fast_clock(), data_path) as s:
            c = Chaos(s, seed, say)
            try:
                c.run(seconds)
            except (TimeoutError, Wrong) as e:
                c.wrong.append(f"{e} {c.last_error}")
            return c
    finally:
        zookeeper.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--data-path", choices=["direct", "proxy"])
    parser.add_argument("--build", default=os.environ.get("OSYNC_BUILD", "build/gcc"))
    parser.add_argument("--keep", action="store_true", help="keeps the folder with everything in it")
    args = parser.parse_args()
    seed = random.randrange(1_000_000) if args.seed is None else args.seed
    faulthandler.register(signal.SIGUSR1)  # shows what it waits for
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it has started, too
    folder = pathlib.Path(tempfile.mkdtemp(prefix="osync-chaos-"))
    (folder / "system").mkdir()
    with Hdfs(folder / "hdfs") as hdfs:
        build, seconds = pathlib.Path(args.build).resolve(), args.minutes * 60
        c = chaos(build, folder / "system", hdfs, seed, seconds, data_path=args.data_path)
    print(c.summary())
    for text in c.wrong:
        print(f"WRONG: {text}")
    if c.wrong:
        path = f" --data-path {args.data_path}" if args.data_path else ""
        print(f"again: tests/chaos.sh --minutes {args.minutes:g} --seed {seed}{path}; everything is in {folder}")
    elif not args.keep:
        shutil.rmtree(folder)
    return 1 if c.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
