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


class Tablet:
    def __init__(
        self, build, root, zookeeper=None, zk_root="/openmldb", host="127.0.0.1", binlog_max_bytes=None, zk_cert=None
    ):
        """zookeeper: an address, or None to run without."""
        self.program = pathlib.Path(build) / "tests/tablet/osync-test-tablet"
        self.root = pathlib.Path(root)
        self.zookeeper, self.zk_root, self.zk_cert = zookeeper, zk_root, zk_cert
        self.host, self.port = host, 0
        self.binlog_max_bytes = binlog_max_bytes
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

    def create_table(self, tid, name, columns, indexes, db="db", partitions=1, storage_mode="kSSD", snappy=False):
        meta = {
            "tid": tid,
            "db": db,
            "name": name,
            "column_desc": columns,
            "column_key": indexes,
            "storage_mode": storage_mode,
            "compress_type": "kSnappy" if snappy else "kNoCompress",
        }
        self.call("CreateTable", meta=meta, partitions=partitions)

    def put(self, tid, rows, put_time=None, version=None):
        """rows: dicts of column -> value. put_time: of the first row, one ms more for each other; None: now."""
        self.call("Put", tid=tid, rows=[json.dumps(row) for row in rows], put_time=put_time, version=version)

    def delete(self, tid, key=None, index=0, start_ts=None, end_ts=None, ts_name=None):
        """One range of one index: to delete rows as SQL does, delete the rows' keys of each other index too."""
        self.call("Delete", tid=tid, index=index, key=key, start_ts=start_ts, end_ts=end_ts, ts_name=ts_name)

    def add_column(self, tid, name, kind):
        self.call("AddColumn", tid=tid, column=column(name, kind))

    def snapshot(self, tid, pid=None, offset_skew=None):
        self.call("MakeSnapshot", tid=tid, pid=pid, offset_skew=offset_skew)

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
