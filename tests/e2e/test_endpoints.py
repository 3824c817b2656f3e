"""How the TabletServers are found and spoken to in clusters that use server names, and in those that ask for
credentials."""

import contextlib
import socket
import threading

import pytest

from openmldb import fields
from prpc import frame, one, pack, read_frame, text
from system import System, wait_for


class Gate:
    """Stands before a TabletServer that asks for credentials: a connection's first request must have those that
    OpenMLDB's own processes send, else it is refused as bRPC refuses it. Whatever follows on the connection passes.
    """

    def __init__(self, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.passed, self.refused, self.later = [], [], []
        self.connections = []
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join()
        self.listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(client)
            thread = threading.Thread(target=self.serve, args=(client,))
            self.threads.append(thread)
            thread.start()

    def serve(self, client):
        host, port = self.target.rsplit(":", 1)
        try:
            with client, socket.create_connection((host, int(port))) as server:
                first = True
                while True:
                    meta, body, attachment = read_frame(client)
                    credentials = one(meta, 7)
                    request = fields(one(meta, 1))
                    if not first:
                        self.later.append(credentials)
                    elif credentials != b"sdefault":
                        self.refused.append((text(request, 2), credentials))
                        refusal = pack((1, 1004), (2, "Fail to authenticate"))
                        client.sendall(frame(pack((2, refusal), (3, 0), (4, one(meta, 4, 0))), b""))
                        return
                    else:
                        self.passed.append(text(request, 2))
                    first = False
                    plain = pack((1, one(meta, 1)), (3, 0), (4, one(meta, 4, 0)), (5, len(attachment) or None))
                    server.sendall(frame(plain, body, attachment))
                    meta, body, attachment = read_frame(server)
                    answer = pack((2, one(meta, 2, b"")), (3, 0), (4, one(meta, 4, 0)), (5, len(attachment) or None))
                    client.sendall(frame(answer, body, attachment))
        except OSError:  # either side has closed
            pass


def repack(message, change):
    """A message with another value of one field: change(number, value)."""
    return pack(*((n, change(n, v)) for n, values in sorted(fields(message).items()) for v in values))


def name_leaders(s, tid, names):
    """ZooKeeper's TableInfo as a cluster with server names has it: {pid: name} instead of host:port."""
    node = f"{s.root}/table/db_table_data/{tid}"

    def partition(number, value):
        if number != 3:
            return value
        pid = one(fields(value), 1, 0)
        return repack(value, lambda n, v: repack(v, lambda m, w: names[pid] if m == 1 else w) if n == 2 else v)

    info = repack(s.zookeeper.get(node), partition)
    s.zookeeper.delete(node)
    s.zookeeper.create(node, info)


def put_node(s, path, value):
    """Parents are made."""
    at = s.root
    for name in path.strip("/").split("/")[:-1]:
        at += f"/{name}"
        if s.zookeeper.get(at) is None:
            s.zookeeper.create(at)
    s.zookeeper.create(f"{s.root}{path}", value.encode())


@pytest.fixture
def local(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper) as s:
        yield s


def test_server_names_and_credentials(local):
    """Leaders that are names are found in ZooKeeper, where OpenMLDB's SDK looks: what is meant for clients first, then
    what the server has registered. The TabletServer there gets the credentials of OpenMLDB's processes with the first
    request of a connection, whatever user and password the configuration has: they are for SyncTool's login."""
    s = local
    s.conf["syncd"].update({"user": "reader", "password": "secret"})
    s.make_table(1, "t", partitions=3)
    ids = s.fill(1, 6000)
    with Gate(s.tablet.endpoint) as gate:
        name_leaders(s, 1, {0: "17", 1: "18", 2: "tablet.of-three"})
        put_node(s, "/map/names/17", gate.endpoint)
        put_node(s, "/map/names/18", "127.0.0.9:1")  # behind a gateway
        put_node(s, "/map/sdkendpoints/18", gate.endpoint)
        put_node(s, "/map/sdkendpoints/tablet.of-three", "")
        put_node(s, "/map/names/tablet.of-three", gate.endpoint)
        s.start()
        s.create("t", 2)
        s.wait_rows("t", 6000)
        s.audit("t", ids)
        assert {t["progress"]["tabletEndpoint"] for t in s.tasks().values()} == {gate.endpoint}
        assert gate.passed and not gate.refused
        assert not any(gate.later), "only the first request of a connection has them"
        # The same for a collector that takes its tasks up again.
        before = len(gate.passed)
        s.collectors[0].restart()
        wait_for("the collector to ask the TabletServer again", lambda: len(gate.passed) > before)
        s.tablet.generate(1, 100, first_id=6000)
        s.wait_rows("t", 6100)
        s.audit("t", range(6100))
        assert not gate.refused


def test_a_name_that_nobody_knows(local):
    s = local
    s.make_table(1, "t", partitions=1)
    s.tablet.generate(1, 100)
    name_leaders(s, 1, {0: "17"})
    s.start()
    answer = s.rpc("CreateSyncTask", db="db", name="t", mode=2, dest=s.dest("t"))
    assert answer["code"] == -1 and "can't find living data collector in host: 17" in answer["msg"]
    assert not s.tasks()
    put_node(s, "/map/names/17", s.tablet.endpoint)  # the name is registered: the next create finds it
    s.create("t", 2)
    s.wait_rows("t", 100)
    s.audit("t", range(100))


def test_the_gate_refuses_others(local):
    """That the tests above can fail."""
    from prpc import call

    with Gate(local.tablet.endpoint) as gate:
        host, port = gate.endpoint.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as c:
            c.sendall(frame(pack((1, pack((1, "openmldb.api.TabletServer"), (2, "GetTableStatus"))), (4, 7)), b""))
            meta, _, _ = read_frame(c)
            assert one(fields(one(meta, 2)), 1) == 1004
            assert c.recv(1) == b""
        assert call(gate.endpoint, "openmldb.api.TabletServer", "GetTableStatus", b"") is not None
        assert len(gate.refused) == 1 and len(gate.passed) == 1
