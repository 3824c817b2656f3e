"""Faults made on purpose, for the tests that make them: processes that end at a named step (libosync/base/failpoint.h),
a keeper that starts them again, and an eye on what a reader of the destination could see meanwhile."""

import collections
import http.client
import json
import mmap
import pathlib
import random
import re
import shutil
import signal
import struct
import threading
import time
import traceback
import uuid

from system import System, wait_for

FINAL_NAME = re.compile(r"part-[0-9a-f-]{36}-\d{5}-\d{10}\.csv")
DOWN = (OSError, http.client.HTTPException, ValueError)  # what a call ends with if the daemon ends meanwhile


def failpoints():
    """The names, in the order of the counters."""
    text = (pathlib.Path(__file__).parents[2] / "libosync/base/failpoint.def").read_text()
    return re.findall(r"^F\((\w+),", text, re.M)


def has_failpoints(build):
    options = json.loads((build / "meson-info/intro-buildoptions.json").read_text())
    return next(o["value"] for o in options if o["name"] == "failpoints")


class Points:
    """The failpoints of one process: how often it came to each, and the one where it is to end."""

    NAMES = failpoints()

    def __init__(self, path):
        self.path = path
        self.n = 2 * len(self.NAMES)
        path.write_bytes(bytes(8 * (self.n + 3)))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 8 * (self.n + 3))
        self.base = [0] * self.n

    def _place(self, name, side):
        return 2 * self.NAMES.index(name) + (side == "after")

    def _counts(self):
        return struct.unpack_from(f"={self.n}Q", self.map)

    def reset(self):
        """Counts from now on."""
        self.base = self._counts()

    def reached(self):
        """{(name, side): how often} since reset."""
        return {
            (self.NAMES[i // 2], "after" if i % 2 else "before"): now - then
            for i, (now, then) in enumerate(zip(self._counts(), self.base))
            if now > then
        }

    def arm(self, name, side, nth=1, how=signal.SIGKILL):
        """The process gets the signal when it comes there for the nth time from now on."""
        struct.pack_into("=Q", self.map, 8 * self.n, 0)
        struct.pack_into("=QQ", self.map, 8 * (self.n + 1), nth, how)
        struct.pack_into("=Q", self.map, 8 * self.n, 1 + self._place(name, side))

    def disarm(self):
        struct.pack_into("=Q", self.map, 8 * self.n, 0)

    def fired(self):
        place, left = struct.unpack_from("=QQ", self.map, 8 * self.n)
        return place != 0 and (left == 0 or left > 1 << 63)


class Watcher:
    """Looks at a destination all the time, as a reader would: whatever can be seen has a committed file's name and is
    whole from the first moment on."""

    def __init__(self, system, dest, pause=0.03):
        self.system, self.dest, self.pause = system, dest, pause
        self.sizes, self.wrong, self.looks = {}, [], 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.system.watchers.add(self)
        self.thread.start()
        return self

    def __exit__(self, failed, *_):
        self.stop.set()
        self.thread.join()
        self.system.watchers.discard(self)
        assert failed or not self.wrong, self.wrong[:5]

    def _look(self):
        if self.system.hdfs:
            rows = self.system.hdfs.entries(self.system.dest(self.dest))
            return {name: size for name, size in rows.items() if name[0] not in "._"}
        folder = pathlib.Path(self.system.folder) / "out" / self.dest
        found = {}
        for p in folder.iterdir() if folder.exists() else []:
            if p.name[0] not in "._":
                found[p.name] = p.stat().st_size
        return found

    def _run(self):
        while not self.stop.wait(self.pause):
            try:
                found = self._look()
            except Exception:  # a destination that is away, or a file that a consumer has just taken
                continue
            self.looks += 1
            for name, size in found.items():
                if not FINAL_NAME.fullmatch(name):
                    self.wrong.append(f"{name} is visible")
                elif self.sizes.setdefault(name, size) != size:
                    self.wrong.append(f"{name} had {self.sizes[name]} bytes when it was first seen, and {size} later")


class FaultySystem(System):
    """A System whose daemons are started again when they are killed, and whose calls wait for them."""

    def __init__(self, build, folder, zookeeper, hdfs=None, conf=None, **more):
        super().__init__(build, folder, zookeeper, hdfs, conf, **more)
        self.points = {}
        if has_failpoints(build):
            for who in ("collector", "syncd"):
                self.points[who] = Points(self.folder / f"{who}.hits")
                self.env[who]["OSYNC_FAILPOINT_HITS"] = str(self.folder / f"{who}.hits")
        self.disks, self.chance = {}, random.Random(1)  # Disk of a process: it loses its power at each of its deaths
        self.rubbish = []  # of the scheduler's disk: may be removed when it is dead
        self.watchers = set()
        self.on_death = []  # what to do before the process is started again, one entry a death
        self.deaths = collections.Counter()
        self.broken = []  # ends that nobody has asked for
        self.keep = False  # while this is true, who is killed is started again
        self.leave = set()  # except these
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._watch_processes, daemon=True)

    def __enter__(self):
        super().__enter__()
        self._keeper.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._keeper.join()
        super().__exit__(*_)
        assert not self.broken, self.broken

    def start(self):
        super().start()
        self.keep = True
        return self

    def daemons(self):
        return [("syncd", self.syncd), *(("collector", c) for c in self.collectors)]

    def _watch_processes(self):
        while not self._stop.wait(0.005):
            if not self.keep:
                continue
            with self._lock:
                for who, daemon in self.daemons():
                    if daemon.process.poll() is not None and who not in self.leave:
                        self._bring_back(who, daemon)

    def _bring_back(self, who, daemon):
        status = daemon.process.poll()
        if status not in (0, -signal.SIGKILL):
            self.broken.append(f"{who} ended with {status}: {daemon.text()[-3000:]}")
        self.deaths[who] += 1
        try:
            if status:
                self._lose_power(who)
            if self.on_death:
                self.on_death.pop(0)()
        except Exception:
            self.broken.append(f"after a death of {who}: {traceback.format_exc()}")
            self.keep = False
            return
        daemon.start()

    def kill(self, who, n=0, how=signal.SIGKILL):
        """With the keeper it comes back at once."""
        daemon = self.syncd if who == "syncd" else self.collectors[n]
        with self._lock:
            daemon.end(how)
            if not self.keep and how == signal.SIGKILL:
                self.deaths[who] += 1
                self._lose_power(who)

    def _lose_power(self, who):
        if who in self.disks:
            for path in self.rubbish if who == "syncd" else []:
                shutil.rmtree(path, ignore_errors=True)
                self.disks[who].gone.add(str(path))
            self.rubbish = [] if who == "syncd" else self.rubbish
            self.disks[who].lose_power(self.chance if self.chance.random() < 0.7 else None)
            for w in self.watchers:  # a name that was seen before it was durable may be another file's now
                w.sizes = {}

    def all_durable(self, who):
        """After a change that a test has made, and before the process goes on."""
        if who in self.disks:
            self.disks[who].all_durable()

    def is_stopped(self, who, n=0):
        process = (self.syncd if who == "syncd" else self.collectors[n]).process
        stat = pathlib.Path(f"/proc/{process.pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "T"

    def away(self):
        """`with system.away():` nobody is started again meanwhile."""
        return Away(self)

    def patiently(self, what, call, timeout=60):
        """The first answer of `call` that isn't None; it may fail because a daemon ends."""
        done = []

        def tried():
            assert not self.broken, self.broken
            try:
                answer = call()
            except DOWN:
                return False
            if answer is not None:
                done.append(answer)
            return bool(done)

        wait_for(f"{what} (logs in {self.folder})", tried, timeout)
        return done[0]

    def ready_page(self):
        """The status page when the scheduler has read its tasks."""
        return self.patiently("the scheduler", lambda: (p := self.page()) and p["ready"] and p or None)

    def subtasks(self, name):
        return [p for t in self.ready_page()["tasks"] if t["table"] == name for p in t["partitions"]]

    def create_patiently(self, name, mode, dest, timeout=60, authority="", anew=False):
        """Creates a task once, whatever happens to the scheduler meanwhile: whether a request without an answer was
        carried out is seen by the task, or, if it has ended already, by its files. `anew`: what earlier tasks have left
        is removed first, so it can be repeated. So is what a creation has left that was refused in the end: partitions
        that were handed out before may have committed files."""

        def tried():
            more = {"start": "kStartRestart"} if anew or (refused and self.files(dest)) else {}
            try:
                answer = self.rpc(
                    "CreateSyncTask", db="db", name=name, mode=mode, dest=authority + self.dest(dest), **more
                )
            except DOWN:
                active = any(t["table"] == name and t["state"] == "active" for t in self.ready_page()["tasks"])
                return {"code": 0} if active or (self.files(dest) and not anew) else None
            if answer.get("code", 0) == 0 or "already exists" in answer.get("msg", ""):
                return answer
            refused[:] = [answer]
            return None

        refused = []
        try:
            return self.patiently(f"the creation of {name}", tried, timeout)
        except TimeoutError as e:
            raise AssertionError(f"{e}: {refused}") from e

    def delete_patiently(self, name, timeout=60):
        def tried():
            answer = self.rpc("DeleteSyncTask", db="db", name=name)
            gone = not any(t["table"] == name for t in self.ready_page()["tasks"])
            return True if answer.get("code", 0) == 0 or gone else None

        self.patiently(f"the deletion of {name}", tried, timeout)

    def wait_no_task(self, name, timeout=60):
        self.patiently(
            f"the end of {name}",
            lambda: None if any(t["table"] == name for t in self.ready_page()["tasks"]) else True,
            timeout,
        )

    def wait_all_rows(self, name, n, timeout=60):
        self.patiently(
            f"{n} rows of {name}", lambda: True if sum(p["rows"] for p in self.subtasks(name)) >= n else None, timeout
        )

    def collector_folders(self):
        """Of all collectors: what a partition has."""
        folders = [self.folder / f"collector-{n}" for n in range(len(self.collectors))]
        return [p for folder in folders for p in folder.iterdir() if p.is_dir()]


class Away:
    def __init__(self, system):
        self.system = system

    def __enter__(self):
        self.former, self.system.keep = self.system.keep, False
        with self.system._lock:  # the keeper may be at work
            pass

    def __exit__(self, *_):
        s = self.system
        with s._lock:
            for who, daemon in s.daemons():
                if self.former and daemon.process.poll() is not None and who not in s.leave:
                    daemon.start()  # here, as it didn't end by a fault
        s.keep = self.former


def unique(prefix):
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def rss(process):
    """Resident memory now, bytes."""
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text).group(1)) * 1024


def pause_until(deadline):
    time.sleep(max(0.0, deadline - time.monotonic()))
