"""Both daemons with Baidu's own Java implementation of the protocol (brpc-java) as their peer: as a client of theirs,
as a server to theirs, and in between on every connection of a whole sync."""

import collections
import struct
import subprocess
import sys

import pytest

from brpc_java import Peer, RpcError, compile_peer
from prpc import fields, one, text
from system import HELPER, System, wait_for

IN_FLIGHT = 1000


@pytest.fixture(scope="module")
def class_path(tmp_path_factory):
    return compile_peer(tmp_path_factory.mktemp("peer"))


@pytest.fixture(scope="module")
def process(class_path, tmp_path_factory):
    peer = Peer(class_path, tmp_path_factory.mktemp("peer") / "peer.log")
    yield peer
    assert peer.end() == 0


@pytest.fixture
def java(process):
    process.do("reset")
    yield process
    process.do("reset")


@pytest.fixture
def local(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper) as s:
        yield s


def register(s, peer):
    """The peer is the only collector that the scheduler sees."""
    path = ""
    for name in f"{s.root}/sync_tool/collector".strip("/").split("/"):
        path += f"/{name}"
        if s.zookeeper.get(path) is None:
            s.zookeeper.create(path)
    s.zookeeper.create(f"{path}/{peer.endpoint}", peer.endpoint.encode())


def unseen_collector(s, **flags):
    """Registered where the scheduler doesn't look."""
    return s.add_collector(zk_root_path=f"{s.root}-unseen", **flags)


def rows_of(attachment):
    """The encoded rows of a SendData."""
    out, at = [], 0
    while at < len(attachment):
        (size,) = struct.unpack_from("<I", attachment, at + 2)
        out.append(attachment[at : at + size])
        at += size
    return out


def id_of(row):
    """The first column of System.COLUMNS, a bigint: behind 6 bytes of head and one of NULL bits."""
    return struct.unpack_from("<q", row, 7)[0]


def add_task(s, peer, tid=1, pid=0, token="token", mode="kFull", tablet=None, **more):
    return {
        "tid": tid,
        "pid": pid,
        "mode": mode,
        "sync_point": {"type": "kSNAPSHOT"},
        "tablet_endpoint": tablet or s.tablet.endpoint,
        "des_endpoint": peer.endpoint,
        "token": token,
        "dest": "/x",
        **more,
    }


# ---- as a client ----


@pytest.mark.parametrize("protocol", ["baidu_std", "http"])
def test_client_of_the_scheduler(local, java, protocol):
    """Every method, in binary form and as JSON over HTTP; what a table of the scheduler's own collector gives."""
    s = local
    s.make_table(1, "t")
    s.tablet.generate(1, 500)
    s.start()
    syncd = f"127.0.0.1:{s.syncd_port}"

    def call(method, **fields):
        return java.call(syncd, f"SyncTool.{method}", fields=fields, protocol=protocol)

    assert call("taskStatus") == {"response": {"code": 0}}
    created = call("createSyncTask", db="db", name="t", mode="kFullAndContinuous", dest=s.dest("t"))
    assert created == {"code": 0}
    again = call("createSyncTask", db="db", name="t", mode="kFullAndContinuous", dest=s.dest("t"))
    assert again["code"] == -1 and "already exists" in again["msg"]
    s.wait_rows("t", 500)
    tasks = call("taskStatus")["task"]
    assert sum(int(t["count"]) for t in tasks) == 500
    assert {t["progress"]["pid"] for t in tasks} == {0, 1}
    assert {t["data_collector"] for t in tasks} == {s.collectors[0].endpoint}
    unknown = {"tid": 99, "pid": 0, "token": "x", "start_point": {"type": "kSNAPSHOT"}, "count": 0}
    answer = call("sendData", **unknown)
    assert answer["response"]["code"] == -1 and answer["delete_task"]
    assert "can't find sync task, tid: 99" in answer["response"]["msg"]
    assert call("deleteSyncTask", db="db", name="t") == {"code": 0}
    assert call("taskStatus", clear_all=True) == {"response": {"code": 0}}
    assert call("taskStatus") == {"response": {"code": 0}}


@pytest.mark.parametrize("protocol", ["baidu_std", "http"])
@pytest.mark.parametrize("service", ["Collector", "ShortCollector"])
def test_client_of_the_collector(local, java, protocol, service):
    s = local
    s.make_table(1, "t", partitions=1)
    collector = unseen_collector(s)
    s.wait_registered()

    def call(method, **fields):
        return java.call(collector.endpoint, f"{service}.{method}", fields=fields, protocol=protocol)

    refused = call("addSyncTask", **add_task(s, java, tid=2))
    assert refused["code"] == -1 and "table status is not valid" in refused["msg"]
    assert call("addSyncTask", **add_task(s, java, mode="kFullAndContinuous")) == {"code": 0}
    again = call("addSyncTask", **add_task(s, java, mode="kFullAndContinuous"))
    assert again == {"code": -1, "msg": "why send a same task?"}
    java.wait_received("a heartbeat", lambda got: [r for r in got if r[0] == "SendData"])


def test_wrong_requests(local, java):
    """Each is answered with an error, on a connection that stays usable."""
    s = local
    collector = unseen_collector(s)
    s.start_syncd()
    s.wait_registered()
    syncd = f"127.0.0.1:{s.syncd_port}"
    for to, method, message in (
        (syncd, "unknownShortService", "Fail to find service=Nobody"),
        (syncd, "unknownService", "Fail to find method=openmldb.datasync.Nobody/Nothing"),
        (syncd, "unknownMethod", "Fail to find method=openmldb.datasync.SyncTool/Nothing"),
        (collector.endpoint, "unknownShortService", "Fail to find service=Nobody"),
        (collector.endpoint, "unknownCollectorMethod", "Fail to find method=openmldb.datasync.DataCollector/Nothing"),
    ):
        with pytest.raises(RpcError, match=message):
            java.call(to, f"Mistakes.{method}")
        with pytest.raises(RpcError):  # the text is plain, as bRPC's is: brpc-java only reads JSON
            java.call(to, f"Mistakes.{method}", protocol="http")
    for to, method in ((syncd, "wrongSendData"), (collector.endpoint, "wrongAddSyncTask")):
        with pytest.raises(RpcError, match="Fail to parse request"):
            java.call(to, f"Mistakes.{method}", fields={"three": "/////w==", "five": "/////w=="})
    assert java.call(syncd, "SyncTool.taskStatus") == {"response": {"code": 0}}
    answer = java.call(collector.endpoint, "Collector.addSyncTask", fields=add_task(s, java, tid=9))
    assert answer["code"] == -1


@pytest.mark.parametrize("compress", ["SNAPPY", "GZIP", "ZLIB"])
def test_compressed_requests(local, java, compress):
    s = local
    s.start_syncd()
    syncd = f"127.0.0.1:{s.syncd_port}"
    answer = java.call(
        syncd, "SyncTool.createSyncTask", fields={"db": "d" * 5000, "name": "n", "dest": "/x"}, compress=compress
    )
    assert answer["code"] == -1
    # The attachment behind a compressed message is as it is.
    send = {"tid": 7, "pid": 0, "token": "t" * 5000, "start_point": {"type": "kBINLOG", "offset": 1}, "count": 3}
    answer = java.call(syncd, "SyncTool.sendData", attachment=bytes(8 << 20), fields=send, compress=compress)
    assert answer["delete_task"] and "can't find sync task, tid: 7" in answer["response"]["msg"]


def test_a_thousand_calls_in_flight(local, java):
    """All over one connection to the collector, which in turn has all its own open on one connection to a TabletServer
    that answers none of them for a while; and over one connection to the scheduler."""
    s = local
    collector = unseen_collector(s, request_timeout_ms=60_000)
    s.start_syncd()
    s.wait_registered()
    java.do("hold", method="GetTableStatus")
    java.flood(
        collector.endpoint,
        "Collector.addSyncTask",
        IN_FLIGHT,
        **add_task(s, java, mode="kFull", tablet=java.endpoint),
    )
    java.wait_received("the first calls at the TabletServer", lambda got: got)
    wait_for("all tasks to be known", lambda: len(s.collector_page()["tasks"]) == IN_FLIGHT)
    assert java.flooded()["open"] == IN_FLIGHT
    java.do("release", method="GetTableStatus")
    done = java.flooded(60_000)
    assert done["open"] == 0
    told = collections.Counter(a["response"]["msg"].split(":")[0] for a in done["answers"])
    assert told == {"table status is not valid": IN_FLIGHT}
    java.flood(f"127.0.0.1:{s.syncd_port}", "SyncTool.sendData", IN_FLIGHT, tid=3, start_point={"type": "kBINLOG"})
    done = java.flooded(60_000)
    assert done["open"] == 0
    assert all("can't find sync task, tid: 3" in a["response"]["response"]["msg"] for a in done["answers"])


# ---- as a server ----


def test_server_of_a_collector(local, java):
    """A collector of ours sends a whole table to a SyncTool that is slow, throws and refuses now and then, and asks a
    TabletServer; both are brpc-java's. What wasn't taken is sent once more, each row is taken once."""
    s = local
    s.make_table(1, "t", partitions=1)
    ids = s.fill(1, 5000)
    java.do("relay", role="tablet", endpoint=s.tablet.endpoint)
    collector = unseen_collector(s, max_pack_size=20_000, request_timeout_ms=1000)
    s.wait_registered()
    java.plan("SendData", throw="the disk is full")
    java.plan("SendData", delay_ms=2500)
    java.plan("SendData", response={"response": {"code": -1, "msg": "not now"}})
    answer = java.call(
        collector.endpoint, "ShortCollector.addSyncTask", fields=add_task(s, java, tablet=java.endpoint)
    )
    assert answer == {"code": 0}

    def finished(got):
        return any(r[0] == "SendData" and one(fields(r[1]), 6) for r in got)

    got = java.wait_received("the end of the table", finished)
    assert {r[0] for r in got} == {"GetTableStatus", "GetTableSchema", "SendData"}
    sent = [(fields(request), attachment) for method, request, attachment in got if method == "SendData"]
    # Three answers were none: the same start again each time, and the rows of the answered ones follow on each other.
    starts = [one(f, 3) for f, _ in sent]
    assert starts[0] == starts[1] == starts[2] == starts[3]
    taken, point = [], starts[0]
    for f, attachment in sent[3:]:
        assert one(f, 3) == point and text(f, 5) == "token"
        rows = rows_of(attachment)
        assert len(rows) == one(f, 4)
        taken += rows
        point = one(f, 7)
    assert sorted(map(id_of, taken)) == list(ids)
    assert len(sent) > 10


def test_server_that_deletes(local, java):
    s = local
    s.make_table(1, "t", partitions=1)
    s.tablet.generate(1, 100)
    collector = unseen_collector(s)
    s.wait_registered()
    java.plan("SendData", response={"response": {"code": -1, "msg": "no such task"}, "delete_task": True})
    fields_ = add_task(s, java, mode="kFullAndContinuous")
    assert java.call(collector.endpoint, "Collector.addSyncTask", fields=fields_) == {"code": 0}
    wait_for("the task to go", lambda: not s.collector_page()["tasks"])
    wait_for("its folder to go", lambda: not list((s.folder / "collector-0").glob("1-0")))


def test_server_of_the_scheduler(local, java):
    """A collector that is brpc-java's: takes tasks, refuses, throws, is too slow; then sends rows."""
    s = local
    s.conf["syncd"]["request.timeout"] = "1s"
    s.make_table(1, "t", partitions=1)
    s.make_table(2, "u", partitions=1)
    ids = s.fill(1, 1000)
    register(s, java)
    s.start_syncd()
    collector = unseen_collector(s)
    s.wait_registered()
    create = {"db": "db", "name": "t", "mode": 2, "dest": s.dest("t")}
    for plan, said in (
        ({"response": {"code": -1, "msg": "table status is not valid: "}}, "table status is not valid: "),
        ({"throw": "out of links"}, "out of links"),
        ({"delay_ms": 2500}, "within 1000 ms"),
    ):
        java.plan("AddSyncTask", **plan)
        answer = s.rpc("CreateSyncTask", **create)
        assert answer["code"] == -1 and said in answer["msg"], answer
    assert not s.tasks()
    java.received()
    # A collector of ours reads the table; what it sends comes to the scheduler from here, with its attachments.
    assert s.rpc("CreateSyncTask", **create) == {"code": 0}
    ((method, request, _),) = [r for r in java.received() if r[0] == "AddSyncTask"]
    given = fields(request)
    assert text(given, 6) == s.tablet.endpoint and text(given, 7) == f"127.0.0.1:{s.syncd_port}"
    answer = java.call(
        collector.endpoint,
        "Collector.addSyncTask",
        fields=add_task(s, java, token=text(given, 8), mode="kFullAndContinuous"),
    )
    assert answer == {"code": 0}
    got = java.wait_received(
        "all rows", lambda got: sum(len(rows_of(r[2])) for r in got if r[0] == "SendData") >= len(ids)
    )
    for method, request, attachment in got:
        if method != "SendData" or not attachment:
            continue
        f = fields(request)

        def point(number, f=f):
            p = fields(one(f, number))
            names = {1: "type", 3: "ts", 4: "offset"}
            return {name: one(p, n) for n, name in names.items() if n in p} | ({"pk": text(p, 2)} if 2 in p else {})

        send = {
            "tid": 1,
            "pid": 0,
            "start_point": point(3),
            "count": one(f, 4),
            "token": text(f, 5),
            "finished": False,
            "next_point": point(7),
        }
        answer = java.call(f"127.0.0.1:{s.syncd_port}", "SyncTool.sendData", attachment=attachment, fields=send)
        assert answer == {"response": {"code": 0}}
    wait_for("the rows to be committed", lambda: sum(s.ids("t").values()) == len(ids))
    s.audit("t", ids)


def test_server_of_the_helper(java):
    """JSON over HTTP as brpc-java reads and writes it, with the requests of synctool_helper.py."""

    def helper(*arguments):
        run = subprocess.run(
            [sys.executable, HELPER, *arguments, "-s", java.endpoint], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    java.received()
    assert helper("create", "-t", "db.t", "-m", "1", "-ts", "12345678901", "-d", "/x") == '{\n  "code": 0\n}\n'
    assert helper("status") == "no task\n"
    assert helper("delete", "-t", "db.t") == '{\n  "code": 0\n}\n'
    got = [(method, fields(request)) for method, request, _ in java.received()]
    assert [method for method, _ in got] == ["CreateSyncTask", "TaskStatus", "DeleteSyncTask"]
    assert got[0][1] == {1: [b"db"], 2: [b"t"], 3: [1], 4: [12345678901], 5: [b"/x"]}
    assert got[2][1] == {1: [b"db"], 2: [b"t"]}


# ---- in between ----


@pytest.mark.parametrize("mode, data_path", [(0, "proxy"), (2, "proxy"), (2, "direct")])
def test_whole_sync_through_brpc_java(local, java, mode, data_path):
    """Scheduler, collector and TabletServer talk to each other only through brpc-java, which knows nothing of
    libosync's additions and hands them on as unknown fields: the halves still know each other for what they are."""
    s = local
    s.make_table(1, "t", partitions=4)
    ids = s.fill(1, 20_000)
    collector = unseen_collector(s, max_pack_size=100_000)
    s.conf["syncd"]["data_path"] = data_path
    s.start_syncd()
    s.wait_registered()
    register(s, java)
    for role, endpoint in (
        ("collector", collector.endpoint),
        ("tablet", s.tablet.endpoint),
        ("synctool", f"127.0.0.1:{s.syncd_port}"),
    ):
        java.do("relay", role=role, endpoint=endpoint)
    s.create("t", mode)
    if mode == 0:
        s.wait_gone()
    else:
        s.wait_rows("t", 20_000)
        s.tablet.generate(1, 1000, first_id=20_000)
        ids = range(21_000)
        s.wait_rows("t", 21_000)
        s.wait_running()
    s.audit("t", ids)
    got = java.received()
    seen = collections.Counter(r[0] for r in got)
    assert seen["AddSyncTask"] == 4 and seen["GetTableStatus"] >= 4 and seen["SendData"] > 8
    assert all(1000 in fields(r[1]) for r in got if r[0] in ("AddSyncTask", "SendData"))
