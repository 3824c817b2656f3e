"""A slow HDFS slows the collectors down, and nothing else: memory stays within the limits that are set, nobody is told
that a server is overcrowded, what is sent isn't sent over and over, and partitions that have nothing to do are heard of
as ever. When HDFS is fast again everything is there once."""

import os
import re
import select
import threading
import time

import pytest

from faults import rss
from proxy import Rule, TcpProxy, WebHdfsProxy
from system import System, wait_for

RATE = 1 << 20  # bytes a second that HDFS takes
SECONDS = int(os.environ.get("OSYNC_BACKPRESSURE_SECONDS", 5))
PARTITIONS, ROWS, PAYLOAD = 12, 32_000, 1000
MIB = 1 << 20
LIMIT = 4 * MIB  # each of them: far less than the partitions would like to have under way
CONF = {
    "syncd": {
        "roll.interval": "1s",
        "sync_task.check_period": "2s",
        "server.max_bytes_in_flight": LIMIT,
        "server.max_bytes_waiting": LIMIT,
    },
    "collector": {"max_bytes_in_flight": 2 * LIMIT, "request_timeout_ms": 3000},
}
# What a daemon may take more than before, beside the limits: sockets, RocksDB's blocks, what malloc keeps.
GROWTH = {"syncd": 2 * LIMIT + 24 * MIB, "collector": 2 * LIMIT + 72 * MIB}
LATE = 3.0  # seconds; the collector sends a sign of life each 0.2 s


class Throttle:
    """All uploads together get `rate` bytes a second; None: as many as they can."""

    def __init__(self):
        self.rate, self.taken = None, 0
        self._free_at = 0.0
        self._changed = threading.Condition()

    def set(self, rate):
        with self._changed:
            self.rate = rate
            self._changed.notify_all()

    def take(self, n):
        with self._changed:
            self.taken += n
            if not self.rate:
                return
            self._free_at = max(self._free_at, time.monotonic()) + n / self.rate
            until = self._free_at
            while self.rate and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def upload(self, x):
        """What a client writes to the DataNode, and its answer."""
        server = x._connect()
        try:
            x.client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            server.sendall(x.rest)
            while True:
                for s in select.select([x.client, server], [], [])[0]:
                    data = s.recv(1 << 14)
                    if not data:
                        return
                    if s is x.client:
                        self.take(len(data))
                        server.sendall(data)
                    else:
                        x.client.sendall(data)
        finally:
            server.close()


class Eye:
    """What the daemons take, and how long ago the quiet table's partitions were heard of."""

    def __init__(self, s):
        self.s = s
        self.processes = {"syncd": s.syncd.process, "collector": s.collectors[0].process}
        self.before = {who: rss(p) for who, p in self.processes.items()}
        self.most = dict(self.before)
        self.latest = 0.0

    def look(self):
        for who, p in self.processes.items():
            self.most[who] = max(self.most[who], rss(p))
        page = self.s.page()
        now = time.time() * 1000
        for task in page["tasks"]:
            if task["table"] == "quiet":
                ages = [now - p["last_update_ms"] for p in task["partitions"]]
                self.latest = max(self.latest, max(ages) / 1000)
        return page

    def grown(self, who):
        return self.most[who] - self.before[who]


def reached(s, name):
    """The table's partitions, as the status shows them; [] when its task has ended."""
    return next((t["partitions"] for t in s.page()["tasks"] if t["table"] == name), [])


@pytest.mark.parametrize("data_path", ["proxy", "direct"])
def test_a_slow_hdfs(build, tmp_path, zookeeper, hdfs, numbers, data_path):
    throttle = Throttle()
    conf = {**CONF, "syncd": {**CONF["syncd"], "data_path": data_path}}
    with WebHdfsProxy(hdfs) as p, System(build, tmp_path, zookeeper, hdfs, conf) as s, TcpProxy(
        f"127.0.0.1:{s.syncd_port}"
    ) as wire:
        p.add(Rule(throttle.upload, op="CREATE", side="datanode", times=1 << 30))
        s.conf["syncd"]["server.advertised_endpoint"] = wire.address
        s.make_table(1, "busy", partitions=PARTITIONS)
        s.make_table(2, "quiet", partitions=4)
        s.fill(1, ROWS, payload_bytes=PAYLOAD)
        s.fill(2, 100)
        s.start()
        authority = f"webhdfs://{p.address()}"
        s.helper("create", "-t", "db.quiet", "-m", "2", "-d", authority + s.dest("quiet"))
        wait_for("the quiet rows", lambda: sum(q["rows"] for q in reached(s, "quiet")) == 100)
        eye = Eye(s)
        throttle.set(RATE)
        s.helper("create", "-t", "db.busy", "-m", "0", "-d", authority + s.dest("busy"))
        begin, taken, carried = time.monotonic(), throttle.taken, wire.bytes
        while time.monotonic() < begin + SECONDS:
            eye.look()
            time.sleep(0.05)
        taken = throttle.taken - taken
        assert RATE * SECONDS / 3 < taken < RATE * SECONDS * 2, f"HDFS has taken {taken} bytes in {SECONDS} s"
        throttle.set(None)
        wait_for("the rest", lambda: not any(t["table"] == "busy" for t in eye.look()["tasks"]), 120)
        csv = sum(len(data) for data in s.files("busy").values())
        carried = wire.bytes - carried
        rows = s.audit("busy", range(ROWS)), s.audit("quiet", range(100))
        text = s.syncd.text() + s.collectors[0].text()
    for word in ("E1011", "vercrowded", "was silent", "out of memory", "limit of requests"):
        assert word not in text, f"{word}; logs in {tmp_path}"
    figures = {
        f"MiB more of {who} with a slow HDFS ({data_path}; at most {GROWTH[who] // MIB})": eye.grown(who) // MIB
        for who in GROWTH
    } | {
        f"ms until the latest sign of life ({data_path}; at most {LATE:.0f} s)": int(eye.latest * 1000),
        f"MiB sent to the scheduler ({data_path}) for {csv // MIB} MiB of CSV": carried // MIB,
    }
    for name, value in figures.items():
        numbers.add(name, value)
    numbers.audited(ROWS + 100)
    assert rows == ((0, 0), (0, 0))
    for who in GROWTH:
        assert eye.grown(who) < GROWTH[who], figures
    assert eye.latest < LATE
    # Rows are sent once, and again only where an answer was late. Written directly they are never sent.
    assert carried < (1.6 * csv if data_path == "proxy" else csv / 10)
    assert len(re.findall(" WARN ", text)) < 20 * PARTITIONS, f"logs in {tmp_path}"
