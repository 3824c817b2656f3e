"""Both daemons under clients that mean harm: nothing that comes over the port may stop the others from being served,
or make the memory grow beyond a bound."""

import gzip
import json
import os
import resource
import selectors
import socket
import struct
import threading
import time
import urllib.request

import pytest

from system import System, wait_for
from zookeeper import ZooKeeper

# What each daemon may hold in memory at most. libosync/net/rpc_server.c bounds what all connections together have
# read and not handled, or written and not sent, to 256 MiB, and what is being answered to as much; beside that there is
# a request of 64 MiB that is being parsed, and what the daemon needs anyway.
MEMORY_BOUND = 640 << 20
ATTACK_S = 5
STOP_S = 10
ANSWER_S = 20  # a daemon that is flooded is slow, but it answers

PATHS = {
    "syncd": ("/openmldb.datasync.SyncTool/CreateSyncTask", b"openmldb.datasync.SyncTool", b"CreateSyncTask"),
    "collector": ("/openmldb.datasync.DataCollector/AddSyncTask", b"openmldb.datasync.DataCollector", b"AddSyncTask"),
}


@pytest.fixture(autouse=True, scope="module")
def many_files():
    """This process is the other end of thousands of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < 1 << 20 else 1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def frame(service, method, message=b"", attachment=b""):
    meta = field(1, field(1, service) + field(2, method)) + b"\x20\x01"
    if attachment:
        meta += b"\x28" + varint(len(attachment))
    return (
        struct.pack(">4sII", b"PRPC", len(meta) + len(message) + len(attachment), len(meta))
        + meta
        + message
        + attachment
    )


def post(path, body, *headers, length=None):
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Attack:
    """Connections that are kept open and written to as far as the other side reads, answers unread. One that is closed
    is made anew, so that the pressure stays."""

    def __init__(self, port, connections):
        self.port, self.connections = port, connections  # (head, what is sent again and again afterwards, pause)
        self.sent = self.opened = self.refused = 0
        self.stop = False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop = True
        self.thread.join(30)

    def open(self, poll, plan):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(("127.0.0.1", self.port))
        self.opened += 1
        poll.register(s, selectors.EVENT_WRITE, [plan, memoryview(plan[0]), 0.0])

    def run(self):
        with selectors.DefaultSelector() as poll:
            for plan in self.connections:
                self.open(poll, plan)
            while not self.stop:
                now = time.monotonic()
                idle = True
                for key, _ in poll.select(0.05):
                    state = key.data
                    plan, rest, at = state
                    if now < at:
                        continue
                    idle = False
                    try:
                        if not rest:
                            rest = memoryview(plan[1])
                        n = key.fileobj.send(rest[: 256 << 10]) if rest else 0
                        self.sent += n
                        state[1] = rest[n:]
                        state[2] = now + plan[2] if not state[1] else 0.0
                    except BlockingIOError:
                        pass
                    except OSError:
                        self.refused += 1
                        poll.unregister(key.fileobj)
                        key.fileobj.close()
                        self.open(poll, plan)
                if idle:
                    time.sleep(0.02)
            for key in list(poll.get_map().values()):
                key.fileobj.close()


def attacks(role):
    """name -> the connections of one kind of attack: what each begins with, what it sends again and again then, and the
    pause before that."""
    path, service, method = PATHS[role]
    mib = 1 << 20
    half = struct.pack(">4sII", b"PRPC", 64 * mib - 1, 100) + bytes(60 * mib)
    status = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"
    return {
        "slow headers": [(b"POST " + path.encode() + b" HTTP/1.1\r\nX: ", b"a", 1.0)] * 2000,
        "half frames": [(half, b"", 1.0)] * 30,
        "half bodies": [(post(path, bytes(32 * mib), length=64 * mib), b"", 1.0)] * 30,
        "answers that nobody reads": [(status, status * 1000, 0.0)] * 100,
        "frames in a row": [(b"", frame(service, b"TaskStatus") * 1000, 0.0)] * 50,
        "attachments": [(b"", frame(service, method, b"", bytes(60 * mib)), 1.0)] * 10,
        "huge Content-Length": [(post(path, b"{", length=1 << 62), b"", 0.1)] * 20,
        "endless chunks": [
            (
                f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode(),
                b"100000\r\n" + bytes(mib) + b"\r\n",
                0.0,
            )
        ]
        * 4,
        "deep JSON": [(b"", post(path, b'{"a":' * (4 * mib)), 0.5)] * 2,
        "wide JSON": [(b"", post(path, b'{"a":[' + b"0," * (30 * mib) + b"0]}"), 2.0)] * 2,
        "many fields": [(b"", frame(service, method, b"\x98\x06\x01" * (20 * mib)), 2.0)] * 2,
        "long names": [(b"", frame(service, method, field(1, b"d" * (20 * mib)) + field(2, b"t" * (40 * mib))), 1.0)]
        * 4,
        "bombs": [(b"", post(path, gzip.compress(bytes(512 * mib), 9), "Content-Encoding: gzip"), 1.0)] * 2,
        "garbage": [(os.urandom(4096), b"\x00" * 4096, 0.1)] * 50,
    }


def served(port, timeout=ANSWER_S):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=timeout) as answer:
        return answer.status == 200


@pytest.fixture(scope="module")
def own_zookeeper(tmp_path_factory):
    """For tests that stop it."""
    server = ZooKeeper(tmp_path_factory.mktemp("own-zookeeper")).start()
    yield server
    server.stop()


@pytest.fixture
def local(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper) as s:
        yield s


@pytest.mark.parametrize("name", attacks("syncd"))
def test_attack(local, name):
    """While each daemon is attacked it serves others, in bounded memory; a sync that runs meanwhile ends, each row
    once."""
    s = local
    s.make_table(1, "t", partitions=2)
    s.fill(1, 20_000)
    s.start()
    collector = s.collectors[0]
    ports = {"syncd": s.syncd_port, "collector": int(collector.endpoint.rsplit(":", 1)[1])}
    with (
        Attack(ports["syncd"], attacks("syncd")[name]) as one,
        Attack(ports["collector"], attacks("collector")[name]) as two,
    ):
        until = time.monotonic() + ATTACK_S
        wait_for("the attack to be under way", lambda: one.sent and two.sent)
        created = False
        answers = 0
        while time.monotonic() < until or not created:
            for port in ports.values():
                assert served(port)
                answers += 1
            if not created:
                s.create("t", 0)
                created = True
            time.sleep(0.1)
        s.wait_gone()
    for daemon in (s.syncd, collector):
        assert daemon.process.poll() is None
        peak = daemon.peak_rss()
        print(f"{name}: {os.path.basename(daemon.program)} peak {peak >> 20} MiB, {answers} answers meanwhile")
        assert peak < MEMORY_BOUND
    s.audit("t", range(20_000))
    s.make_table(2, "u", partitions=1)
    s.tablet.generate(2, 1000)
    s.create("u", 0)
    s.wait_gone()
    s.audit("u", range(1000))


def seconds_to_end(daemon):
    began = time.monotonic()
    assert daemon.end() == 0
    return time.monotonic() - began


def test_sigterm_while_zookeeper_hangs(build, tmp_path, own_zookeeper):
    """In the middle of a sync, with a create that waits for an answer of ZooKeeper."""
    with System(build, tmp_path, own_zookeeper) as s:
        s.make_table(1, "t")
        s.tablet.generate(1, 1000)
        s.start()
        s.create("t", 2)
        s.wait_rows("t", 1000)
        own_zookeeper.pause()
        try:
            waiting = threading.Thread(target=lambda: s.helper("create", "-t", "db.u", "-d", "/u", status=1))
            waiting.start()
            time.sleep(0.2)  # nothing shows that it is on its way
            took = [seconds_to_end(d) for d in (s.syncd, s.collectors[0])]
        finally:
            own_zookeeper.resume()
        waiting.join(60)
        print(f"ended within {took[0]:.1f} s and {took[1]:.1f} s")
        assert max(took) < STOP_S


def test_hdfs_hangs(build, tmp_path, zookeeper, hdfs):
    """A NameNode that doesn't answer: a delete is answered, a new create says why not, SIGTERM ends at once, and when
    HDFS is back the delete has come to its end."""
    with System(build, tmp_path, zookeeper, hdfs, conf={"syncd": {"roll.interval": "1h"}}) as s:
        s.make_table(1, "t")
        s.make_table(2, "u")
        for tid in (1, 2):
            s.tablet.generate(tid, 1000)
        s.start()
        for name in ("t", "u"):
            s.create(name, 2)
        wait_for(
            "rows to be staged", lambda: all(p["staged_rows"] for t in s.page()["tasks"] for p in t["partitions"])
        )
        hdfs.pause_namenode()
        try:
            answer = json.loads(s.helper("delete", "-t", "db.t", status=1))
            assert "the removal of its sync task goes on by itself" in answer["msg"]
            again = s.rpc("CreateSyncTask", db="db", name="t", mode=2, dest=s.dest("t"))
            assert "still being removed" in again["msg"]
            assert {tid for tid, _ in s.tasks()} == {2}
            took = seconds_to_end(s.syncd)
            print(f"ended within {took:.1f} s")
            assert took < STOP_S
        finally:
            hdfs.resume_namenode()
        s.syncd.start()
        s.wait_listening()
        wait_for("the task to be gone", lambda: [t["table"] for t in s.page()["tasks"]] == ["u"])
        assert not s.files("t") and not [p for p in s.hidden("t") if "part" in p]
        s.create("t", 0)
        s.wait_rows("t", 0)
        wait_for("the new task to end", lambda: [t["table"] for t in s.page()["tasks"]] == ["u"], 120)
        s.audit("t", range(1000))
