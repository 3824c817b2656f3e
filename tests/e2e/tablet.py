"""The test TabletServer (tests/tablet) as a process, and its control calls."""

import json
import pathlib
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request

from zookeeper import free_port

TYPES = {
    "bool": "kBool",
    "smallint": "kSmallInt",
    "int": "kInt",
    "bigint": "kBigInt",
    "float": "kFloat",
    "double": "kDouble",
    "date": "kDate",
    "timestamp": "kTimestamp",
    "varchar": "kVarchar",
    "string": "kString",
}


class TabletError(Exception):
    pass


def column(name, kind, not_null=False):
    return {"name": name, "data_type": TYPES[kind], "not_null": not_null}


def index(name, columns, ts=None, ttl_type="kAbsoluteTime", abs_ttl=0, lat_ttl=0):
    """abs_ttl in minutes, lat_ttl in rows; 0 is never."""
    out = {
        "index_name": name,
        "col_name": list(columns),
        "ttl": {"ttl_type": ttl_type, "abs_ttl": abs_ttl, "lat_ttl": lat_ttl},
    }
    if ts:
        out["ts_name"] = ts
    return out


def partition_of(key, partitions):
    """Which partition a key belongs to: OpenMLDB's MurmurHash64A."""
    key = key.encode() if isinstance(key, str) else key
    mask, m = (1 << 64) - 1, 0xC6A4A7935BD1E995

    def mix(k):
        k = k * m & mask
        return (k ^ k >> 47) * m & mask

    h = 0xE17A1465 ^ len(key) * m & mask
    whole = len(key) & ~7
    for at in range(0, whole, 8):
        h = (h ^ mix(int.from_bytes(key[at : at + 8], "little"))) * m & mask
    if whole < len(key):
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ h >> 47) * m & mask
    h ^= h >> 47
    return (h if h < 1 << 63 else (1 << 64) - h) % partitions


def placed(reply):
    return [(p.get("pid", 0), p["log_index"]) for p in reply.get("placed", [])]


class Tablet:
    def __init__(
        self,
        build,
        root,
        zookeeper=None,
        zk_root="/openmldb",
        host="127.0.0.1",
        binlog_max_bytes=None,
        zk_cert=None,
        clock=None,
    ):
        """zookeeper: an address, or None to run without. clock: "real ms:virtual ms:speed", of snapshots and ended log
        files."""
        self.program = pathlib.Path(build) / "tests/tablet/osync-test-tablet"
        self.root = pathlib.Path(root)
        self.zookeeper, self.zk_root, self.zk_cert = zookeeper, zk_root, zk_cert
        self.host, self.port = host, 0
        self.binlog_max_bytes, self.clock = binlog_max_bytes, clock
        self.process = None

    @property
    def endpoint(self):
        return f"{self.host}:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def start(self, timeout=60):
        """Starts it, on the former port if it has run before, and returns when it listens and its tables are in
        ZooKeeper."""
        self.port = self.port or free_port()
        command = [str(self.program), "--endpoint", self.endpoint, "--root", str(self.root)]
        command += ["--zk", self.zookeeper, "--zk-root", self.zk_root] if self.zookeeper else ["--no-zk"]
        if self.zk_cert:
            command += ["--zk-cert", self.zk_cert]
        if self.binlog_max_bytes:
            command += ["--binlog-max-bytes", str(self.binlog_max_bytes)]
        if self.clock:
            command += ["--clock", self.clock]
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root.parent / (self.root.name + ".log"), "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line.startswith("ready "):
            self.kill()
            raise TabletError(f"the test tablet does not start; see {self.root}.log")
        self.port = int(line.split()[1])
        return self

    def _end(self, how):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(60)
        if self.process and self.process.stdout:
            self.process.stdout.close()
        return self.process.returncode if self.process else None

    def stop(self):
        """Ends it cleanly and returns its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self):
        self._end(signal.SIGKILL)

    def restart(self):
        self.kill()
        return self.start()

    def pause(self):
        """It stays silent until resume()."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self):
        return self.start()

    def __exit__(self, failed, *_):
        running = self.process.poll() is None
        status = self.stop()
        if running and status != 0 and not failed:
            raise TabletError(f"the test tablet ended with status {status}; see {self.root}.log")

    def call(self, method, timeout=600, service="osync.test.TestTablet", **fields):
        body = json.dumps({k: v for k, v in fields.items() if v is not None}).encode()
        request = urllib.request.Request(
            f"http://{self.endpoint}/{service}/{method}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                reply = json.load(answer)
        except urllib.error.HTTPError as e:
            raise TabletError(f"{method}: HTTP {e.code}: {e.read().decode(errors='replace')}") from e
        if service == "osync.test.TestTablet" and reply.get("code") != 0:
            raise TabletError(f"{method}: {reply.get('msg')}")
        return reply

    def create_table(
        self,
        tid,
        name,
        columns,
        indexes,
        db="db",
        partitions=1,
        storage_mode="kSSD",
        snappy=False,
        leader=None,
        followers=None,
    ):
        """leader, followers: endpoints; leader None: it leads every partition itself."""
        meta = {
            "tid": tid,
            "db": db,
            "name": name,
            "column_desc": columns,
            "column_key": indexes,
            "storage_mode": storage_mode,
            "compress_type": "kSnappy" if snappy else "kNoCompress",
        }
        self.call("CreateTable", meta=meta, partitions=partitions, leader=leader, followers=followers)

    def put(self, tid, rows, put_time=None, version=None, timeout=600):
        """rows: dicts of column -> value. put_time: of the first row, one ms more for each other; None: now. Returns
        (partition, log index) of each row."""
        rows = [json.dumps(row) for row in rows]
        return placed(self.call("Put", timeout, tid=tid, rows=rows, put_time=put_time, version=version))

    def delete(self, tid, key=None, index=0, start_ts=None, end_ts=None, ts_name=None, pid=None, timeout=600):
        """One range of one index: to delete rows as SQL does, delete the rows' keys of each other index too. Returns
        (partition, log index) of each entry."""
        reply = self.call(
            "Delete",
            timeout,
            tid=tid,
            index=index,
            key=key,
            start_ts=start_ts,
            end_ts=end_ts,
            ts_name=ts_name,
            pid=pid,
        )
        return placed(reply)

    def add_column(self, tid, name, kind):
        self.call("AddColumn", tid=tid, column=column(name, kind))

    def snapshot(self, tid, pid=None, offset_skew=None, compression=None):
        """compression: of a memory table's: zlib, snappy; None: none"""
        self.call("MakeSnapshot", tid=tid, pid=pid, offset_skew=offset_skew, compression=compression)

    def roll(self, tid, pid=None):
        self.call("Roll", tid=tid, pid=pid)

    def purge(self, tid, pid=None):
        self.call("Purge", tid=tid, pid=pid)

    def generate(self, tid, rows, seed=1, first_id=None, payload_bytes=None, keys=None, rate_per_s=None):
        """Puts made-up rows whose `id` counts up from first_id (None: goes on). With a rate it returns at once."""
        self.call(
            "Generate",
            tid=tid,
            rows=rows,
            seed=seed,
            first_id=first_id,
            payload_bytes=payload_bytes,
            keys=keys,
            rate_per_s=rate_per_s,
        )

    def stats(self, tid):
        return self.call("Stats", tid=tid)

    def wait_generated(self, tid, timeout=600):
        """Waits for the end of a generate with a rate, and returns how many rows it put."""
        deadline = time.monotonic() + timeout
        while (now := self.stats(tid))["generating"]:
            if time.monotonic() > deadline:
                raise TabletError(f"still generating after {timeout} s: {now['generated']} rows")
            time.sleep(0.05)
        return now["generated"]

    def table_status(self, tid, pid=None):
        reply = self.call("GetTableStatus", service="openmldb.api.TabletServer", tid=tid, pid=pid)
        return reply.get("all_table_status", [])

    def table_schema(self, tid, pid=0):
        return self.call("GetTableSchema", service="openmldb.api.TabletServer", tid=tid, pid=pid)

    def partition(self, tid, pid=0):
        """The partition's folder, with snapshot/ and binlog/ in it."""
        return self.root.resolve() / f"{tid}_{pid}"

    # ---- who leads ----

    def change_leader(self, tid, pid=None, term=None, dead=()):
        """Makes it the leader, and says so in ZooKeeper. Returns {partition: its last log index}: what the former
        leader has beyond that is lost."""
        return dict(placed(self.call("ChangeLeader", tid=tid, pid=pid, term=term, dead=list(dead))))

    def follow(self, tid, pid=None, leader=None, paused=None, hold_back=None):
        """Copies what `leader` (None: the same as before) has; not while paused, and not the last `hold_back`
        entries."""
        self.call("Follow", tid=tid, pid=pid, leader=leader, paused=paused, hold_back=hold_back)

    def set_alive(self, tid, endpoint, alive):
        """To be asked of a tablet that leads something of the table."""
        self.call("Alive", tid=tid, endpoint=endpoint, alive=alive)

    def last_entries(self, tid):
        """{partition: (last log index, its term)}"""
        return {p.get("pid", 0): (p["last_log_index"], p["last_term"]) for p in self.stats(tid)["partitions"]}


class Replicas:
    """Tables that are kept by several tablets, one of which leads each partition: what OpenMLDB's nameserver does."""

    def __init__(self, tablets):
        self.tablets = list(tablets)
        self.tables = {}  # tid -> [the tablet that leads each partition]
        self.term = 1

    def create_table(self, tid, name, columns, indexes, partitions=1, leader=None, **more):
        first = leader or self.tablets[0]
        others = [t for t in self.tablets if t is not first]
        followers = [t.endpoint for t in others]
        first.create_table(tid, name, columns, indexes, partitions=partitions, followers=followers, **more)
        for t in others:
            t.create_table(
                tid, name, columns, indexes, partitions=partitions, leader=first.endpoint, followers=followers, **more
            )
        self.tables[tid] = [first] * partitions

    def leader(self, tid, pid=0):
        return self.tables[tid][pid]

    def put(self, tid, rows, key):
        """key: the rows' key column. Returns (partition, log index) of each row, in their order."""
        leaders = self.tables[tid]
        by_tablet = {}
        for n, row in enumerate(rows):
            by_tablet.setdefault(leaders[partition_of(row[key], len(leaders))], []).append(n)
        out = [None] * len(rows)
        for tablet, chosen in by_tablet.items():
            for n, place in zip(chosen, tablet.put(tid, [rows[n] for n in chosen]), strict=True):
                out[n] = place
        return out

    def wait_copied(self, tid, pid=None, timeout=60):
        """Until every copy has all that its leader has, and nothing else."""
        deadline = time.monotonic() + timeout
        for p in range(len(self.tables[tid])) if pid is None else [pid]:
            last = self.leader(tid, p).last_entries(tid)[p]
            for t in self.tablets:
                while t.last_entries(tid)[p] != last:
                    if time.monotonic() > deadline:
                        raise TabletError(f"partition {p} of table {tid} is not copied to {t.endpoint}")
                    time.sleep(0.01)

    def move(self, tid, to, pid=None, dead=()):
        """Makes `to` the leader; tablets in `dead` aren't told, and are marked as not alive. Returns {partition: the
        last entry that the new leader has}."""
        self.term += 1
        last = to.change_leader(tid, pid, term=self.term, dead=[t.endpoint for t in dead])
        for p in last:
            self.tables[tid][p] = to
        for t in self.tablets:
            if t is not to and t not in dead:
                t.follow(tid, pid, leader=to.endpoint)
        return last

    def back(self, tid, tablet):
        """A tablet that was dead is there again: it copies what others lead meanwhile."""
        for p, leader in enumerate(self.tables[tid]):
            if leader is not tablet:
                tablet.follow(tid, p, leader=leader.endpoint)
        other = next((t for t in self.tables[tid] if t is not tablet), None)
        if other:
            other.set_alive(tid, tablet.endpoint, True)
