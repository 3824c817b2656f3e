"""Direct writing: collectors write the staged files themselves, on a real HDFS and on file://, and no row crosses
osync-syncd; when they can't, rows go by way of it."""

import json
import re
import shutil
import socket
import threading

import pytest

from system import System, wait_for
from zookeeper import free_port

ROWS_BYTES = 100  # of a row's payload


@pytest.fixture
def make(build, tmp_path, zookeeper, hdfs):
    """Makes a system on HDFS; it is ended with the test."""
    systems = []

    def made(where="hdfs", syncd=None, collector=None, env=None):
        folder = tmp_path / str(len(systems))
        folder.mkdir()
        conf = {"syncd": syncd or {}, "collector": collector or {}}
        s = System(build, folder, zookeeper, hdfs if where == "hdfs" else None, conf)
        s.env["collector"] |= env or {}
        systems.append(s.__enter__())
        return s

    yield made
    for s in systems:
        s.__exit__()


def partitions(s):
    return [p for t in s.page()["tasks"] for p in t["partitions"]]


def paths(s):
    """What both daemons say of the way that rows take."""
    return {p["data_path"] for p in partitions(s)}, {t["data_path"] for t in s.collector_page()["tasks"]}


def content(s, dest):
    """Partition -> the files' contents, one behind the other, and how many they are."""
    out = {}
    for name, data in sorted(s.files(dest).items()):
        pid = re.search(r"-(\d{5})-\d{10}\.csv$", name).group(1)
        whole, files = out.get(pid, (b"", 0))
        out[pid] = whole + data, files + 1
    return out


def bytes_read(daemon):
    """Of files and sockets, by its read calls."""
    with open(f"/proc/{daemon.process.pid}/io", encoding="ascii") as f:
        return int(re.search(r"rchar: (\d+)", f.read()).group(1))


@pytest.mark.parametrize("where", ["hdfs", "file"])
def test_same_files_as_by_way_of_the_scheduler(where, make):
    """`direct` on syncd's side: it takes no rows itself."""
    roll = {"roll.interval": "60s", "roll.size": "256k"}
    s = make(where, {"data_path": "direct", **roll}, {"max_pack_size": 65536})
    s.make_table(1, "t", partitions=3)
    ids = s.fill(1, 30000, payload_bytes=ROWS_BYTES)
    s.start()
    before = bytes_read(s.syncd)
    s.create("t", 0, dest="direct")
    s.wait_gone()
    crossed = bytes_read(s.syncd) - before
    s.audit("direct", ids)
    direct = content(s, "direct")
    size = sum(len(data) for data, _ in direct.values())
    assert crossed < size / 10, f"{crossed} bytes were read by osync-syncd for {size} bytes of rows"
    assert all(files > 1 for _, files in direct.values())
    assert not s.hidden("direct"), "a finished task leaves nothing behind"
    s.syncd.end()
    s.conf["syncd"]["data_path"] = "proxy"
    s.start_syncd()
    before = bytes_read(s.syncd)
    s.create("t", 0, dest="proxy")
    s.wait_gone()
    assert bytes_read(s.syncd) - before > size / 2
    assert content(s, "proxy") == direct


@pytest.mark.parametrize("side", ["syncd", "collector"])
def test_either_side_can_refuse(side, make):
    s = make("file", **{side: {"data_path": "proxy"}})
    s.make_table(1, "t")
    ids = s.fill(1, 2000)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", len(ids))
    s.audit("t", ids)
    assert paths(s) == ({"proxy"}, {"proxy"})
    s.wait_running()


def test_a_file_each_interval(make):
    """Rows are staged until then, and both sides say how many."""
    s = make("hdfs", {"roll.interval": "2s"})
    s.make_table(1, "t", partitions=1)
    s.start()
    s.create("t", 2)
    for n in range(2):
        s.tablet.generate(1, 100, first_id=n * 100)
        wait_for("the rows to be staged", lambda n=n: partitions(s)[0]["staged_rows"] == 100 or len(s.files("t")) > n)
        staged = s.collector_page()["tasks"][0]
        assert staged["staged_rows"] == 100 or len(s.files("t")) > n
        s.wait_rows("t", 100 * (n + 1))
        assert len(s.files("t")) == n + 1
    assert paths(s) == ({"direct"}, {"direct"})
    s.audit("t", range(200))


def test_new_column_begins_a_new_file(make):
    s = make("hdfs", {"roll.interval": "60s"})
    s.make_table(1, "t", partitions=1)
    s.start()
    s.create("t", 2)
    s.tablet.generate(1, 500)
    wait_for("the rows to be staged", lambda: partitions(s)[0]["staged_rows"] == 500)
    s.tablet.add_column(1, "extra", "int")
    s.tablet.put(1, [{"id": 500, "k": "a", "ts": 1_700_000_000_000, "v": 0.5, "payload": "p", "extra": 7}])
    s.wait_rows("t", 500)  # ended by the new schema, long before its interval is over
    assert not [line for line in s.lines("t") if line.endswith(",7")]
    assert s.helper("delete", "-t", "db.t")
    s.conf["syncd"]["roll.interval"] = "300ms"
    s.syncd.end()
    s.start_syncd()
    s.create("t", 2, dest="again")
    s.wait_rows("again", 501)
    s.audit("again", range(501))
    assert paths(s) == ({"direct"}, {"direct"})


def test_restarts_of_both(make):
    """What was staged is read again; a folder belongs to one start of a collector."""
    s = make("hdfs", {"roll.interval": "500ms"})
    s.make_table(1, "t", partitions=2)
    s.start()
    s.create("t", 2)
    for n in range(4):
        s.tablet.generate(1, 300, first_id=n * 300)
        (s.collectors[0] if n % 2 else s.syncd).restart()
        s.wait_listening()
    s.wait_rows("t", 1200)
    s.audit("t", range(1200))
    assert paths(s) == ({"direct"}, {"direct"})


class Wrong:
    """A server that hangs up on everybody, and counts."""

    def __init__(self):
        self.calls = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while True:
            client, _ = self.socket.accept()
            client.close()
            if self.calls is None:
                return
            self.calls += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.calls = None
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join()
        self.socket.close()


def wrong_hadoop(folder, hdfs, port):
    """A Hadoop configuration that knows the file system, but another port for its NameNode."""
    folder.mkdir()
    with open(f"{hdfs.conf_dir}/core-site.xml", encoding="utf-8") as f:
        (folder / "core-site.xml").write_text(f.read())
    (folder / "hdfs-site.xml").write_text(
        "<configuration><property><name>dfs.namenode.http-address</name>"
        f"<value>127.0.0.1:{port}</value></property></configuration>"
    )
    return folder


def test_hdfs_out_of_reach_of_the_collector(make, hdfs, tmp_path):
    s = make("hdfs", collector={"hadoop_conf_dir": wrong_hadoop(tmp_path / "conf", hdfs, free_port())})
    s.make_table(1, "t", partitions=2)
    ids = s.fill(1, 2000)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", len(ids))
    s.audit("t", ids)
    assert paths(s) == ({"proxy"}, {"proxy"})
    wanted = r"this collector can't write to hdfs://\S+: .*; its rows go by way of the scheduler"
    for task in s.collector_page()["tasks"]:
        assert re.fullmatch(wanted, task["reason"]), task
    assert re.search("WARN collector: task 1-0: " + wanted, s.collectors[0].text())
    wait_for("osync-syncd to say why", lambda: "by way of the scheduler" in json.dumps(s.page()))
    s.wait_running()


def test_required_waits_and_says_so(make, hdfs, tmp_path):
    with Wrong() as wrong:
        conf = wrong_hadoop(tmp_path / "conf", hdfs, wrong.port)
        s = make("hdfs", {"data_path": "direct"}, {"hadoop_conf_dir": conf})
        s.make_table(1, "t", partitions=1)
        ids = s.fill(1, 1000)
        s.start()
        s.create("t", 2)
        wait_for("more tries than it takes for the other way", lambda: wrong.calls >= 5)
        wait_for("osync-syncd to say why", lambda: "this collector can't write to hdfs://" in json.dumps(s.page()))
        assert s.lines("t") == [] and paths(s) == ({"direct"}, {"direct"})
    for file in conf.iterdir():  # now the NameNode's address is the one that osync-syncd tells
        file.unlink()
    s.collectors[0].restart()
    s.wait_rows("t", len(ids))
    s.audit("t", ids)


def test_required_goes_on_after_its_folder_was_removed(make):
    s = make("file", {"data_path": "direct"})
    s.make_table(1, "t", partitions=1)
    s.fill(1, 500)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 500)
    shutil.rmtree(s.folder / "out" / "t" / "_osync")  # which must be left alone
    s.tablet.generate(1, 500, first_id=500)
    s.wait_rows("t", 1000)
    s.audit("t", range(1000))
    assert paths(s) == ({"direct"}, {"direct"})


def test_collector_with_data_path_proxy_is_told_to_change(make):
    s = make("file", {"data_path": "direct"}, {"data_path": "proxy"})
    s.make_table(1, "t", partitions=1)
    ids = s.fill(1, 500)
    s.start()
    s.create("t", 2)
    wait_for("osync-syncd to say why", lambda: "data_path must be auto" in json.dumps(s.page()))
    assert s.lines("t") == []
    s.collectors[0].end()
    file = s.folder / "collector-0.flags"
    file.write_text(file.read_text().replace("--data_path=proxy", "--data_path=auto"))
    s.collectors[0].start()
    s.wait_rows("t", len(ids))
    s.audit("t", ids)
