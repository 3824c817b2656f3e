"""Faults of OpenMLDB's own sync tool that must not exist here (docs/defects.md), where they show from outside. The
numbers are those of that table; the faults that other tests show are named there."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from system import System, wait_for
from tablet import index
from zookeeper import ZooKeeper

BASE_TS = 1_700_000_000_000
HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    """A snapshot's name says when it was made without its zone: in a zone without clock changes it means one moment,
    and a file written an hour before (`seam`) is older."""
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def local(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper) as s:
        yield s


@pytest.fixture
def often(build, tmp_path, zookeeper):
    """Commits every few packs, so that a test can act in the middle of a snapshot."""
    with System(build, tmp_path, zookeeper, conf={"syncd": {"roll.size": "2K"}}) as s:
        yield s


def rows_of(ids, k=lambda i: f"k{i % 50}", ts=lambda i: BASE_TS + i):
    return [{"id": i, "k": k(i), "ts": ts(i), "v": 0.5, "payload": "x"} for i in ids]


def wait_mid_snapshot(s, tid):
    """Until a point in the middle of the snapshot is committed."""

    def there():
        point = s.tasks()[(tid, 0)]["progress"]["syncPoint"]
        return point["type"] == "kSNAPSHOT" and point.get("pk")

    wait_for("a commit in the middle of the snapshot", there)


def reasons(s):
    return "\n".join(s.rpc("TaskStatus").get("readableInfo", []))


def try_create(s, name, dest=None, mode=2):
    return s.rpc("CreateSyncTask", db="db", name=name, mode=mode, dest=dest or s.dest(name))


def test_1_resume_in_another_snapshot(often):
    """The traverse goes on in a newer snapshot, with rows in it that sort before the point reached."""
    s = often
    s.make_table(1, "t", partitions=1)
    s.tablet.generate(1, 20_000, first_id=0)
    s.seam(1)
    s.tablet.put(1, rows_of(range(20_000, 20_010)))
    s.tablet.snapshot(1)
    s.add_collector(max_pack_size="1K")
    s.start_syncd()
    s.wait_registered()
    s.create("t", 2)
    wait_mid_snapshot(s, 1)
    s.collectors[0].kill()
    s.tablet.put(1, rows_of(range(30_000, 30_100), k=lambda i: f"!{i}"))
    s.seam(1)
    s.tablet.put(1, rows_of(range(30_100, 30_200), k=lambda i: f"!{i}"))
    s.tablet.snapshot(1)
    shutil.rmtree(s.folder / "collector-0")
    s.collectors[0].start()
    s.wait_rows("t", 20_210)
    s.audit("t", [*range(20_010), *range(30_000, 30_200)])


@pytest.mark.parametrize("skew", [-300, 300, 1_000_000])
def test_6_7_20_snapshot_offset_lags_or_leads(local, skew):
    """MANIFEST's offset is no seam, whichever way it errs, even beyond the log's end."""
    s = local
    s.make_table(1, "t", partitions=2)
    s.tablet.generate(1, 1000, first_id=0)
    s.seam(1)
    s.tablet.generate(1, 200, first_id=1000)
    s.tablet.snapshot(1, offset_skew=skew)
    s.tablet.generate(1, 300, first_id=1200)
    s.start()
    s.create("t", 0)
    s.wait_gone()
    s.audit("t", range(1500))


@pytest.mark.parametrize(
    "harm, words",
    [("gap", ["entries 101 to 200 are missing", "00000002.log"]), ("damage", ["00000001.log", "offset", "checksum"])],
)
def test_4_5_harmed_log_is_said(local, harm, words):
    """Entries that are gone or can't be read fail the partition, and what is harmed is named."""
    s = local
    s.make_table(1, "t", partitions=1)
    for n in range(3):
        s.tablet.put(1, rows_of(range(n * 100, n * 100 + 100)))
        s.tablet.roll(1)
    s.tablet.put(1, rows_of(range(300, 310)))
    file = s.tablet.partition(1) / "binlog/00000001.log"
    if harm == "gap":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    s.start()
    s.create("t", 0)
    wait_for("FAILED", lambda: set(s.states().values()) == {"FAILED"})
    assert all(w in reasons(s) for w in words), reasons(s)


def test_10_max_traverse_cnt_has_no_effect(local):
    """OpenMLDB's flag file is taken as it is, and its limit doesn't cut the snapshot short."""
    s = local
    s.make_table(1, "t", partitions=1)
    s.tablet.generate(1, 1000, first_id=0)
    s.seam(1)
    s.tablet.generate(1, 10, first_id=1000)
    s.tablet.snapshot(1)
    s.add_collector(max_traverse_cnt=5)
    s.start_syncd()
    s.wait_registered()
    assert "max_traverse_cnt has no meaning here" in s.collectors[0].text()
    s.create("t", 0)
    s.wait_gone()
    s.audit("t", range(1010))


def test_6_13_deleted_rows_are_left_out(local):
    """Before the snapshot, after it, by key and without a key: what is deleted when it is read doesn't come, and
    nothing else is missing."""
    s = local
    s.make_table(1, "t", partitions=1)
    s.tablet.put(1, rows_of(range(500)))
    s.seam(1)
    s.tablet.put(1, rows_of(range(500, 1000)))
    s.tablet.delete(1, key="k1")
    s.tablet.delete(1, ts_name="ts", start_ts=BASE_TS + 19, end_ts=BASE_TS + 9)  # 10 to 19 of every key
    s.tablet.snapshot(1)  # its offset runs ahead: one operation for each key
    s.tablet.delete(1, key="k2")
    s.tablet.delete(1, ts_name="ts", start_ts=BASE_TS + 729, end_ts=BASE_TS + 719)
    s.tablet.put(1, rows_of(range(1000, 1100)))
    s.start()
    s.create("t", 0)
    s.wait_gone()
    gone = {*range(10, 20), *range(720, 730), *(i for i in range(1000) if i % 50 in (1, 2))}
    s.audit("t", [i for i in range(1100) if i not in gone])


def test_23_overwritten_rows_come_once(local):
    """Of several puts of one key and time, in snapshot and log, the last comes."""
    s = local
    key = {"k": lambda i: f"k{i % 1000}", "ts": lambda i: BASE_TS + i % 1000}
    s.make_table(1, "t", partitions=1)
    s.tablet.put(1, rows_of(range(100), **key))
    s.seam(1)
    s.tablet.put(1, rows_of(range(1000, 1080), **key))
    s.tablet.put(1, rows_of(range(2000, 2060), **key))
    s.tablet.snapshot(1)
    s.tablet.put(1, rows_of(range(3000, 3040), **key))
    s.start()
    s.create("t", 0)
    s.wait_gone()
    s.audit("t", [*range(3000, 3040), *range(2040, 2060), *range(1060, 1080), *range(80, 100)])


def test_24_absolute_ttl_in_snapshot_and_log(local):
    s = local
    now = int(time.time() * 1000)
    s.make_table(1, "t", partitions=1, indexes=[index("idx0", ["k"], ts="ts", abs_ttl=60)])
    age = {"ts": lambda i: now + i - (2 * HOUR_MS if i % 2 else 0)}  # the odd ones have expired
    s.tablet.put(1, rows_of(range(100), **age))
    s.seam(1)
    s.tablet.put(1, rows_of(range(100, 200), **age))
    s.tablet.snapshot(1)
    s.tablet.put(1, rows_of(range(200, 300), **age))
    s.start()
    s.create("t", 0)
    s.wait_gone()
    s.audit("t", range(0, 300, 2))


def test_24_latest_rows_are_counted_from_the_newest(often):
    """The traverse leaves out all but a key's two newest rows, whether or not those come from the log, and also
    where it goes on after a kill."""
    s = often
    keys = 3000
    s.make_table(1, "t", partitions=1, indexes=[index("idx0", ["k"], ts="ts", ttl_type="kLatestTime", lat_ttl=2)])
    by_key = {"k": lambda i: f"k{i % keys}"}
    s.tablet.put(1, rows_of(range(keys * 4), **by_key))
    s.seam(1)
    s.tablet.put(
        1, rows_of(range(keys * 4, keys * 4 + keys // 2), **by_key)
    )  # half of the keys get a newer one, which the log brings
    s.tablet.snapshot(1)
    s.add_collector(max_pack_size=100)
    s.start_syncd()
    s.wait_registered()
    s.create("t", 0)
    wait_mid_snapshot(s, 1)
    s.collectors[0].restart()
    s.wait_gone()
    s.audit("t", [*range(keys * 2 + keys // 2, keys * 3), *range(keys * 3, keys * 4 + keys // 2)])


def test_30_a_pause_within_the_grace_is_no_failure(build, tmp_path, zookeeper):
    """The grace is two check periods, not two milliseconds: only who is silent for longer is replaced."""
    with System(build, tmp_path, zookeeper, conf={"syncd": {"sync_task.check_period": "1s"}}) as s:
        s.make_table(1, "t", partitions=1)
        s.tablet.generate(1, 100, first_id=0)
        s.start()
        s.create("t", 2)
        s.wait_rows("t", 100)
        token = s.tasks()[(1, 0)]["progress"]["token"]
        s.collectors[0].process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(1.3)  # more than one period, and less than two: nothing is to happen
            task = s.tasks()[(1, 0)]
            assert (task["progress"]["token"], task["status"]) == (token, "RUNNING")
            wait_for("the silence to be noticed", lambda: s.states()[(1, 0)] != "RUNNING")
        finally:
            s.collectors[0].process.send_signal(signal.SIGCONT)
        s.tablet.generate(1, 100, first_id=100)
        s.wait_rows("t", 200)
        s.audit("t", range(200))


def test_40_zookeeper_with_credentials(build, tmp_path):
    """All nodes belong to the credentials, and a collector whose session has expired registers again with them."""
    own = ZooKeeper(tmp_path / "own-zookeeper").start()
    cert = "osync:secret"
    s = System(build, tmp_path, own, conf={"collector": {"zk_cert": cert}, "syncd": {"zookeeper.cert": cert}})
    s.tablet.zk_cert = cert
    try:
        with s:
            s.make_table(1, "t", partitions=1)
            s.tablet.generate(1, 500, first_id=0)
            s.start()
            with pytest.raises(RuntimeError, match="-102"):  # not for others
                own.children(f"{s.root}/sync_tool/collector")
            s.create("t", 0)
            s.wait_gone()
            s.audit("t", range(500))
            s.collectors[0].process.send_signal(signal.SIGSTOP)
            wait_for(
                "the collector's session to expire",
                lambda: "can't find data collectors in zk" in try_create(s, "t", s.dest("u"), mode=0).get("msg", ""),
            )
            s.collectors[0].process.send_signal(signal.SIGCONT)
            wait_for("the collector to register again", lambda: s.collectors[0].text().count("registered as") == 2)
            s.create("t", 0, dest="u")
            s.wait_gone()
            s.audit("u", range(500))
    finally:
        own.stop()


def test_41_quick_restart_of_a_collector(local):
    """Killed and started at once: the node of the former session is taken over, and doesn't go when that session
    ends."""
    s = local
    s.make_table(1, "t", partitions=1)
    s.tablet.generate(1, 500, first_id=0)
    s.start()
    s.collectors[0].restart()
    wait_for("the collector to register again", lambda: s.collectors[0].text().count("registered as") == 2)
    assert "is left over from session" in s.collectors[0].text()
    s.create("t", 2)
    s.wait_rows("t", 500)
    time.sleep(4)  # longer than the former session can live: nothing happens when it ends
    assert s.zookeeper.children(f"{s.root}/sync_tool/collector") == [s.collectors[0].endpoint]


def test_42_missing_hadoop_configuration(local, monkeypatch):
    """Without HADOOP_CONF_DIR everything but HDFS works, and what is missing is named."""
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    s = local
    s.make_table(1, "t", partitions=1)
    s.tablet.generate(1, 100, first_id=0)
    s.start()
    answer = s.helper("create", "-t", "db.t", "-m", "0", "-d", "/somewhere", status=1)
    assert "hadoop.conf.dir" in answer and "fs.defaultFS" in answer, answer
    s.create("t", 0)
    s.wait_gone()
    s.audit("t", range(100))


def test_41_42_what_can_not_start_says_so_and_ends(local, build):
    """The port is taken when other parts run already: they end in order, and the exit status is 1."""
    s = local
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        syncd = [
            build / "daemons/osync-syncd",
            "server.host=127.0.0.1",
            f"server.port={address.split(':')[1]}",
            f"zookeeper.cluster={s.zookeeper.address}",
            f"sync_task.progress_path={s.folder}/state",
        ]
        collectord = [
            build / "daemons/osync-collectord",
            f"--endpoint={address}",
            f"--zk_cluster={s.zookeeper.address}",
            f"--collector_datadir={s.folder}/data",
        ]
        for command in [syncd, collectord] * 10:
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, cwd=s.folder)
            assert run.returncode == 1, (command, run)
            assert f"{address} cannot be listened on: address already in use" in run.stderr, (command, run.stderr)


def test_46_partial_create_leaves_nothing(local):
    """One partition can't be linked: the other's collector lets go of its links too."""
    s = local
    s.make_table(1, "t", partitions=2)
    s.tablet.generate(1, 1000, first_id=0)
    s.tablet.snapshot(1)
    manifest = s.tablet.partition(1, 1) / "snapshot/MANIFEST"
    good = manifest.read_bytes()
    manifest.write_bytes(b"nonsense")
    s.start()
    assert "MANIFEST" in s.helper("create", "-t", "db.t", "-m", "0", "-d", s.dest("t"), status=1)
    assert s.tasks() == {} and not s.hidden("t")
    wait_for("the collector to let go", lambda: not [p for p in (s.folder / "collector-0").iterdir() if p.is_dir()])
    manifest.write_bytes(good)
    s.create("t", 0)
    s.wait_gone()
    s.audit("t", range(1000))


def test_48_49_names_and_addresses(build, tmp_path, zookeeper):
    """The tablet by name and its collector by address are one machine; a scheduler that listens everywhere gives
    collectors an address that they can reach."""
    s = System(build, tmp_path, zookeeper, conf={"syncd": {"server.host": "0.0.0.0"}})
    s.tablet.host = "localhost"
    with s:
        s.make_table(1, "t", partitions=1)
        s.tablet.generate(1, 500, first_id=0)
        s.start()
        s.create("t", 2)
        s.wait_rows("t", 500)
        s.audit("t", range(500))
        progress = s.tasks()[(1, 0)]["progress"]
        assert progress["tabletEndpoint"] == s.tablet.endpoint and progress["tabletEndpoint"].startswith("localhost:")
        assert progress["desEndpoint"] == f"127.0.0.1:{s.syncd_port}"


@pytest.mark.parametrize(
    "body, status",
    [
        (b"{", 400),
        (b'{"db": "db", "name": "t", "mode": 0', 400),
        (b"[]", 400),
        (b"text", 400),
        (b"", 200),
        (b"{}", 200),
        (b'{"db": {"a": 1}, "name": "t", "mode": 0}', 200),
    ],
)
def test_51_bad_requests_are_refused_with_a_reason(local, body, status):
    """What isn't JSON of an object is answered 400 with a text; where only fields are missing or unfit, the answer
    says what of it is wrong."""
    s = local
    s.make_table(1, "t", partitions=1)
    s.start()
    request = urllib.request.Request(
        f"http://127.0.0.1:{s.syncd_port}/openmldb.datasync.SyncTool/CreateSyncTask",
        body,
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            got, text = 200, answer.read()
            reply = json.loads(text)
            assert reply["code"] == -1 and reply["msg"]
    except urllib.error.HTTPError as e:
        got, text = e.code, e.read()
    assert got == status and text, (got, text)
    assert s.tasks() == {}


def test_52_nothing_piles_up(local):
    """Ended tasks leave no record and no file."""
    s = local
    s.make_table(1, "t")
    s.tablet.generate(1, 100, first_id=0)
    s.start()
    for n in range(5):
        s.create("t", 2, dest=f"t{n}")
        s.helper("delete", "-t", "db.t")
    s.create("t", 0)
    s.wait_gone()
    wait_for(
        "the collector's folder to be empty",
        lambda: not [p for p in (s.folder / "collector-0").iterdir() if p.is_dir()],
    )
    assert s.syncd.end() == 0
    db = sqlite3.connect(s.folder / "state/checkpoint.db")
    tables = [name for name, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert tables == ["kv"]
    assert db.execute("SELECT count(*) FROM kv").fetchone() == (0,)
    db.close()
    assert len(list((s.folder / "state").iterdir())) <= 3


def test_53_what_is_shown_survives_a_restart(local):
    s = local
    s.make_table(1, "t")
    s.tablet.generate(1, 1000, first_id=0)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.collectors[0].kill()
    wait_for("the reason", lambda: reasons(s).count("waits for a leader with a collector") == 2)

    def facts():
        return {
            k: (t["count"], t["status"], t["dataCollector"], t["progress"]["token"], t["progress"]["syncPoint"])
            for k, t in s.tasks().items()
        }

    before = facts()
    assert sum(int(f[0]) for f in before.values()) == 1000
    s.syncd.restart()
    s.wait_listening()
    wait_for("the stored tasks to be shown with their counts", lambda: facts_or_none(facts) == before)


def facts_or_none(facts):
    try:
        return facts()
    except KeyError:  # what is on the destination is being looked through
        return None


def test_55_many_packs_make_one_file(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper, conf={"syncd": {"roll.interval": "60s"}}) as s:
        s.make_table(1, "t", partitions=2)
        s.tablet.generate(1, 10_000, first_id=0)
        s.add_collector(max_pack_size="1K")
        s.start_syncd()
        s.wait_registered()
        s.create("t", 0)
        s.wait_gone(30)  # packs don't wait for a clock either
        s.audit("t", range(10_000))
        assert len(s.files("t")) == 2
