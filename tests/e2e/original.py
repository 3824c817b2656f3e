"""OpenMLDB's two halves as docs/formats.md describes them, faults and all: a DataCollector and a SyncTool that know
nothing of libosync's additions. They run as threads of the test, and `kill` ends one between any two of its steps. The
rows of a snapshot are listed by osync-dump; everything else is done here."""

import collections
import contextlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import threading
import time
import uuid

import openmldb
from prpc import RpcError, Server, call, fields, one, pack, text, varint
from zookeeper import free_port

SNAPSHOT, BINLOG = 0, 1
FULL, BY_TIMESTAMP, CONTINUOUS = 0, 1, 2


class Killed(Exception):
    pass


def point(kind, pk=None, ts=None, offset=None):
    return pack((1, kind), (2, pk), (3, ts), (4, offset))


def send_data(tid, pid, start, count, token, finished, end):
    return pack((1, tid), (2, pid), (3, start), (4, count), (5, token), (6, int(finished)), (7, end))


def with_length(message):
    return varint(len(message)) + message


def without_length(data):
    size = next(n for n, byte in enumerate(data) if byte < 0x80) + 1
    assert with_length(data[size:]) == data
    return data[size:]


class Task:
    """An AddSyncTaskRequest; what isn't known of it stays as it is."""

    def __init__(self, raw):
        f = fields(raw)
        self.tid, self.pid, self.mode = one(f, 1, 0), one(f, 2, 0), one(f, 3)
        self.start_ts, self.point = one(f, 4), one(f, 5)
        self.tablet, self.des, self.token, self.dest = (text(f, n) for n in (6, 7, 8, 9))
        self.unknown = [(n, v) for n, values in sorted(f.items()) for v in values if n > 9]

    def pack(self):
        return pack(
            (1, self.tid),
            (2, self.pid),
            (3, self.mode),
            (4, self.start_ts),
            (5, self.point),
            (6, self.tablet),
            (7, self.des),
            (8, self.token),
            (9, self.dest),
            *self.unknown,
        )


class Process:
    """Ends between two steps: at the n-th time that it comes to a named one."""

    def __init__(self):
        self.dead = threading.Event()
        self.threads = []
        self.armed = None

    def arm(self, step, nth=1):
        self.armed = [step, nth]

    def step(self, name):
        if self.armed and self.armed[0] == name:
            self.armed[1] -= 1
            if self.armed[1] == 0:
                self.armed = None
                self.dead.set()
        if self.dead.is_set():
            raise Killed(name)

    def run(self, function, *arguments):
        def body():
            with contextlib.suppress(Killed):
                function(*arguments)

        thread = threading.Thread(target=body)
        self.threads.append(thread)
        thread.start()

    def join(self):
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()
        self.threads.clear()


class Collector(Process):
    """The DataCollector of docs/formats.md."""

    def __init__(self, system, host="127.0.0.1", folder=None, pack_size=2000, long=0.2, short=0.02):
        super().__init__()
        self.system, self.folder = system, folder or system.folder / "original-collector"
        self.endpoint = f"{host}:{free_port()}"
        self.pack_size, self.long, self.short = pack_size, long, short
        self.node = f"{system.root}/sync_tool/collector/{self.endpoint}"
        self.lock = threading.Lock()
        self.tasks, self.snapshots, self.server = {}, {}, None
        self.sent = collections.Counter()  # packs with rows, by task
        self.said = []  # (code, message, delete_task) of answers that weren't plain success

    # ---- the process ----

    def start(self):
        self.dead.clear()
        self.tasks, self.snapshots = {}, {}
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(self.folder.iterdir()):  # recover
            if not folder.is_dir():
                continue
            with contextlib.suppress(OSError, RpcError, AssertionError, TypeError):
                self.take(Task((folder / "task.progress").read_bytes()))
        zookeeper, path = self.system.zookeeper, ""
        for name in self.node.strip("/").split("/")[:-1]:
            path += f"/{name}"
            if zookeeper.get(path) is None:
                zookeeper.create(path)
        zookeeper.create(self.node, self.endpoint.encode())
        host, port = self.endpoint.rsplit(":", 1)
        self.server = Server(host, int(port), {"openmldb.datasync.DataCollector.AddSyncTask": self.add_sync_task})
        return self

    def kill(self):
        self.dead.set()
        if self.server:
            self.server.close()
            self.server = None
            self.system.zookeeper.delete(self.node)
        self.join()

    stop = kill

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()

    # ---- AddSyncTask ----

    def add_sync_task(self, body, _):
        if self.dead.is_set():
            return None
        try:
            with self.lock:
                self.take(Task(body))
            return b""  # success is an empty message
        except (OSError, RpcError, AssertionError) as e:
            return pack((1, -1), (2, str(e)))

    def take(self, task):
        key = f"{task.tid}-{task.pid}"
        folder = self.folder / key
        old = self.tasks.get(key)
        assert not old or old.token != task.token, "why send a same task?"
        self.tasks[key] = task
        status = fields(
            call(
                task.tablet, "openmldb.api.TabletServer", "GetTableStatus", pack((1, task.tid), (2, task.pid), (3, 0))
            )
        )
        assert one(status, 1), "table status is not valid: "
        status = fields(one(status, 1))
        task.binlog = pathlib.Path(text(status, 22))
        (folder / "binlog").mkdir(parents=True, exist_ok=True)
        if one(fields(task.point), 1) == SNAPSHOT:
            self.link_snapshot(task, key, pathlib.Path(text(status, 21)))
        self.link_binlog(task, folder)
        self.save(task, folder)
        self.run(self.chain, task, key, folder)

    def link_snapshot(self, task, key, source):
        folder = self.folder / key / "snapshot"
        try:
            manifest = (source / "MANIFEST").read_text()
        except OSError:
            self.snapshots.pop(key, None)
            return
        if key in self.snapshots and self.snapshots[key][0] == manifest:
            return
        shutil.rmtree(folder, ignore_errors=True)
        values = dict(line.split(":", 1) for line in manifest.splitlines() if ":" in line)
        name = values["name"].strip().strip('"')
        os.makedirs(folder / "data")
        os.link(source / "MANIFEST", folder / "MANIFEST")
        for file in (source / name).iterdir():
            os.link(file, folder / "data" / file.name)
        schema = fields(
            call(task.tablet, "openmldb.api.TabletServer", "GetTableSchema", pack((1, task.tid), (2, task.pid)))
        )
        meta = folder.parent / "meta"
        meta.write_bytes(one(schema, 3))
        dump = subprocess.run(
            [
                self.system.build / "examples/osync-dump",
                f"--meta={meta}",
                f"--partition={source.parent}",
                "--phase=snapshot",
                "--format=jsonl",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        meta.unlink()
        rows = [json.loads(line) for line in dump.stdout.splitlines()]
        rows = [(bytes.fromhex(r["pk_hex"]), r["ts"], bytes.fromhex(r["value_hex"])) for r in rows]
        self.snapshots[key] = manifest, int(values["offset"]), rows

    def link_binlog(self, task, folder):
        for file in sorted(task.binlog.glob("*.log")):
            to = folder / "binlog" / file.name
            if not to.exists():
                os.link(file, to)

    def save(self, task, folder):
        (folder / "task.progress").write_bytes(task.pack())

    # ---- SyncOnce ----

    def chain(self, task, key, folder):
        pause = self.long
        while not self.dead.wait(pause) and self.tasks.get(key) is task:
            try:
                self.link_binlog(task, folder)
                pause = self.sync_once(task, key, folder)
            except OSError:
                return  # the chain stops, and SyncTool notices after a while
            if pause is None:
                return

    def fit(self, rows):
        """As many as a pack holds."""
        out, size = [], 0
        for row in rows:
            if size + len(row[-1]) > self.pack_size:
                break
            out.append(row)
            size += len(row[-1])
        return out

    def read(self, task, key, folder):
        """The rows of one pack, where it ends, and whether that is the end."""
        start = fields(task.point)
        if one(start, 1) == SNAPSHOT:
            if key not in self.snapshots:
                return [], point(BINLOG, offset=1), False
            _, offset, rows = self.snapshots[key]
            at = 0
            if 2 in start:
                place = one(start, 2), -one(start, 3, 0)
                at = next((n for n, r in enumerate(rows) if (r[0], -r[1]) >= place), len(rows))
            wanted = [r for r in rows[at:] if task.mode != BY_TIMESTAMP or r[1] >= (task.start_ts or 0)]
            taken = self.fit(wanted)
            if len(taken) < len(wanted):
                pk, ts, _ = wanted[len(taken)]
                return [r[2] for r in taken], point(SNAPSHOT, pk=pk, ts=ts), False
            return [r[2] for r in taken], point(BINLOG, offset=offset + 1), False
        first = one(start, 4, 0)
        entries = [e for e in openmldb.binlog(folder / "binlog") if not e["delete"] and e["log_index"] >= first]
        wanted = [e for e in entries if task.mode != BY_TIMESTAMP or e["ts"] >= (task.start_ts or 0)]
        taken = self.fit([(e["log_index"], e["value"]) for e in wanted])
        if len(taken) < len(wanted):
            return [v for _, v in taken], point(BINLOG, offset=wanted[len(taken)]["log_index"]), False
        end = entries[-1]["log_index"] + 1 if entries else first
        return [v for _, v in taken], point(BINLOG, offset=end) if end != first else task.point, True

    def sync_once(self, task, key, folder):
        """Returns how long to wait before the next one; None: the chain ends."""
        rows, end, met_end = self.read(task, key, folder)
        finished = met_end and task.mode == FULL
        body = send_data(task.tid, task.pid, task.point, len(rows), task.token, finished, end)
        self.step("before sending" if rows else "before a heartbeat")
        try:
            answer = call(task.des, "openmldb.datasync.SyncTool", "SendData", body, b"".join(rows))
        except (OSError, RpcError):
            return self.long  # the same once more
        self.step("sent" if rows else "heartbeat sent")
        if rows:
            self.sent[key] += 1
        answer = fields(answer)
        general = fields(one(answer, 1))
        delete = bool(one(answer, 2, 0))
        code = one(general, 1, 0)
        if code or delete:
            self.said.append((struct.unpack("<q", struct.pack("<Q", code))[0], text(general, 2), delete))
        if not code and end != task.point:
            task.point = end
            self.save(task, folder)
        self.step("saved")
        if delete or finished:
            if self.tasks.get(key) is task:
                del self.tasks[key]
                self.snapshots.pop(key, None)
                shutil.rmtree(folder)
            return None
        return self.long if code or met_end else self.short


class Sub:
    """A partition of a task of SyncTool."""

    def __init__(self, task, status="INIT"):
        self.task, self.status, self.collector, self.count = task, status, "", 0
        self.updated = time.monotonic()
        self.lock = threading.Lock()


class SyncTool(Process):
    """The SyncTool of docs/formats.md. It writes the ids of the rows, one a line, instead of CSV."""

    def __init__(self, system, period=0.5, folder=None):
        super().__init__()
        self.system, self.period = system, period
        self.progress = folder or system.folder / "original-progress"
        self.port = free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self.tables, self.server = {}, None  # tid -> {pid: Sub}
        self.refused = collections.Counter()  # by what was wrong
        self.lock = threading.RLock()

    # ---- the process ----

    def start(self):
        self.dead.clear()
        self.tables = {}
        self.progress.mkdir(exist_ok=True)
        for file in sorted(self.progress.rglob("*.progress")):
            if file.parent.name.isdigit():
                task = Task(without_length(file.read_bytes()))
                assert str(task.tid) == file.parent.name
                self.tables.setdefault(task.tid, {})[task.pid] = Sub(task, "RUNNING")
        dests = {s.task.dest for subs in self.tables.values() for s in subs.values()}
        assert len(dests) < 2, "all recovered tasks must have the same dest"
        self.server = Server("127.0.0.1", self.port, {"openmldb.datasync.SyncTool.SendData": self.send_data})
        self.run(self.check)
        return self

    def kill(self):
        self.dead.set()
        if self.server:
            self.server.close()
            self.server = None
        self.join()

    stop = kill

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()

    # ---- tables ----

    def table(self, tid):
        """{pid: the leader's endpoint}"""
        info = fields(self.system.zookeeper.get(f"{self.system.root}/table/db_table_data/{tid}"))
        out = {}
        for partition in map(fields, info[3]):
            leaders = [text(m, 1) for m in map(fields, partition.get(2, [])) if one(m, 2)]
            assert len(leaders) == 1
            out[one(partition, 1)] = leaders[0]
        return out

    def find_collector(self, tablet):
        names = self.system.zookeeper.children(f"{self.system.root}/sync_tool/collector")
        assert names, "can't find data collectors in zk"
        host = tablet.split(":")[0]
        found = [n for n in names if n.split(":")[0] == host]
        assert found, f"can't find living data collector in host: {host}"
        return found[0]

    def save(self, sub):
        self.step("before saving")
        raw = sub.task.pack()
        self.file(sub).write_bytes(with_length(raw))
        self.step("saved")

    def file(self, sub):
        return self.progress / str(sub.task.tid) / f"{sub.task.pid}.progress"

    def add_task(self, sub):
        self.step("before handing out")
        answer = call(sub.collector, "DataCollector", "AddSyncTask", sub.task.pack(), timeout=5)
        answer = fields(answer)
        code = one(answer, 1, 0)
        assert code == 0, f"add sync task failed, code: {code}, msg: {text(answer, 2)}"
        self.step("handed out")

    def create(self, tid, mode, dest, start_ts=None):
        assert tid not in self.tables, "sync task already exists(creating or created)"
        self.tables[tid] = {}
        for pid, leader in self.table(tid).items():
            raw = pack(
                (1, tid),
                (2, pid),
                (3, mode),
                (4, start_ts),
                (5, point(SNAPSHOT)),
                (6, leader),
                (7, self.endpoint),
                (8, str(uuid.uuid4())),
                (9, str(dest)),
            )
            sub = Sub(Task(raw))
            sub.collector = self.find_collector(leader)
            self.file(sub).parent.mkdir(exist_ok=True)
            self.save(sub)
            self.tables[tid][pid] = sub
            self.add_task(sub)
        os.makedirs(dest, exist_ok=True)

    def cleanup(self, tid):
        self.tables.pop(tid, None)
        folder = self.progress / str(tid)
        if folder.exists():
            folder.rename(f"{folder}.deleted.{int(time.time() * 1000)}")

    delete = cleanup

    # ---- SendData ----

    def send_data(self, body, attachment):
        if self.dead.is_set():
            return None
        try:
            self.take(fields(body), attachment)
            answer = pack((1, pack((1, 0))))
        except AssertionError as e:
            self.refused[str(e).split(":")[0]] += 1
            answer = pack((1, pack((1, -1), (2, f"java.lang.IllegalStateException: {e}"))), (2, 1))
        except Killed:
            return None
        try:
            self.step("before answering")
        except Killed:
            return None
        return answer

    def take(self, r, attachment):
        sub = self.tables.get(one(r, 1, 0), {}).get(one(r, 2, 0))
        assert sub, "can't find sync task"
        with sub.lock:
            assert sub.status in ("INIT", "RUNNING"), f"task is not init or running: {sub.status}"
            assert text(r, 5) == sub.task.token, "token not match"
            assert one(r, 3) == sub.task.point, f"start point: {one(r, 3)} != current point {sub.task.point}"
            sub.status = "RUNNING"
            count = one(r, 4, 0)
            if count:
                assert attachment, "attachment data is null"
                self.write(sub, attachment, count)
            sub.task.point = one(r, 7)
            sub.count += count
            self.save(sub)
            sub.updated = time.monotonic()
            if one(r, 6, 0):
                sub.status = "SUCCESS"
                file = self.file(sub)
                file.rename(f"{file}.finished.{int(time.time() * 1000)}")

    def write(self, sub, data, count):
        at, ids = 0, []
        for _ in range(count):
            size = struct.unpack_from("<I", data, at + 2)[0]
            ids.append(struct.unpack_from("<q", data, at + 7)[0])  # the first of up to 8 columns
            at += size
        assert at == len(data), "the rows don't fill the attachment"
        self.step("before writing")
        os.makedirs(sub.task.dest, exist_ok=True)
        (pathlib.Path(sub.task.dest) / f"{uuid.uuid4()}.csv").write_text("".join(f"{i}\n" for i in ids))
        self.step("written")

    # ---- the periodic check ----

    def check(self):
        while not self.dead.wait(self.period):
            for tid, subs in list(self.tables.items()):
                if subs and all(s.status == "SUCCESS" for s in subs.values()):
                    self.cleanup(tid)
                    continue
                for pid, sub in list(subs.items()):
                    if sub.status == "RUNNING" and sub.updated + 2 * self.period < time.monotonic():
                        self.reassign(tid, pid, sub)

    def reassign(self, tid, pid, sub):
        with sub.lock:
            sub.status = "REASSIGNING"
            try:
                sub.task.tablet = self.table(tid)[pid]
                sub.collector = self.find_collector(sub.task.tablet)
                sub.task.token = str(uuid.uuid4())
                self.save(sub)
                self.add_task(sub)
                sub.updated = time.monotonic()
                sub.status = "RUNNING"
            except (OSError, RpcError, AssertionError) as e:
                sub.status = f"FAILED: {e}"

    def status(self):
        return {(t, p): s.status for t, subs in self.tables.items() for p, s in subs.items()}


def ids(dest):
    """What is in the files of a SyncTool's destination: id -> how often."""
    return collections.Counter(int(i) for f in pathlib.Path(dest).glob("*.csv") for i in f.read_text().split())
