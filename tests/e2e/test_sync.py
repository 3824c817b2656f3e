"""The main job, end to end: a disk table's rows as CSV on a real HDFS (and on file://), in all three modes."""

import os
import random
import re
import shutil
import threading
import time

import pytest

from system import System, wait_for
from tablet import TabletError, column, index
from zookeeper import ZooKeeper


@pytest.fixture
def system(build, tmp_path, zookeeper, hdfs):
    with System(build, tmp_path, zookeeper, hdfs) as s:
        yield s


@pytest.fixture
def local(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper) as s:
        yield s


@pytest.mark.parametrize("where", ["hdfs", "file"])
def test_mode0(where, request):
    s = request.getfixturevalue("system" if where == "hdfs" else "local")
    s.make_table(1, "t", partitions=4)
    ids = s.fill(1, 20000, 0)
    s.start()
    assert s.create("t", 0) == '{\n  "code": 0\n}\n'
    s.wait_gone()
    s.audit("t", ids)
    assert not s.hidden("t"), "a finished task leaves nothing behind"
    wait_for(
        "the collector's folder to be empty",
        lambda: not [p for p in (s.folder / "collector-0").iterdir() if p.is_dir()],
    )


def test_mode1(system):
    s = system
    s.make_table(1, "t")
    base = 1_700_000_000_000
    rows = [{"id": i, "k": f"k{i % 50}", "ts": base + i * 1000, "v": i / 4, "payload": "x"} for i in range(2000)]
    s.tablet.put(1, rows[:1000])
    s.tablet.snapshot(1)
    s.tablet.put(1, rows[1000:1500])
    s.start()
    s.create("t", 1, ts=base + 400 * 1000)
    s.wait_rows("t", 1100)
    s.audit("t", range(400, 1500))
    # Its ts is what counts, in both phases, and not when it was put: an old row that comes late is left out, and so
    # it stays after a restart.
    s.tablet.put(1, [{**rows[3], "id": 9001, "k": "late"}, *rows[1500:]])
    s.syncd.restart()
    s.collectors[0].restart()
    s.wait_listening()
    s.wait_rows("t", 1600)
    s.audit("t", range(400, 2000))
    s.wait_running()


def test_mode2(system):
    s = system
    s.make_table(1, "t", partitions=3)
    ids = s.fill(1, 6000, 0)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 6000)
    s.audit("t", ids)
    for n in range(3):  # it goes on: rows, a new log file, a snapshot and a purge meanwhile
        s.tablet.generate(1, 1000, first_id=6000 + n * 1000)
        s.tablet.roll(1)
        s.tablet.snapshot(1)
        s.tablet.purge(1)
        s.wait_rows("t", 7000 + n * 1000)
    s.audit("t", range(9000))
    s.wait_running()
    assert s.helper("delete", "-t", "db.t") == '{\n  "code": 0\n}\n'
    assert s.tasks() == {} and not s.hidden("t")
    s.audit("t", range(9000))
    wait_for(
        "the collector to forget the task",
        lambda: not [p for p in (s.folder / "collector-0").iterdir() if p.is_dir()],
    )


def test_every_type(local):
    s = local
    kinds = ["bool", "smallint", "int", "bigint", "float", "double", "date", "timestamp", "varchar", "string"]
    s.make_table(
        1,
        "t",
        partitions=1,
        columns=[column("id", "bigint"), *(column(f"c_{k}", k) for k in kinds)],
        indexes=[index("i", ["id"])],
    )
    s.tablet.put(
        1,
        [
            {
                "id": 1,
                "c_bool": True,
                "c_smallint": -7,
                "c_int": 8,
                "c_bigint": -9,
                "c_float": 1.5,
                "c_double": 1e7,
                "c_date": "2023-04-11",
                "c_timestamp": 1681200000120,
                "c_varchar": "a\"/\\\né",
                "c_string": "",
            },
            {"id": 2},
        ],
    )
    s.start()
    s.create("t", 0)
    s.wait_gone()
    assert sorted(s.lines("t")) == [
        '1,true,-7,8,-9,1.5,1.0E7,2023-04-11,2023-04-11 08:00:00.12,"a\\"\\/\\\\\\n\\u00E9",""',
        "2," + ",".join(["null"] * 10),
    ]


def test_several_indexes(local):
    """One logical row is logged in several partitions: it comes once (defect 19)."""
    s = local
    s.make_table(
        1,
        "t",
        partitions=4,
        indexes=[index("a", ["k"], ts="ts"), index("b", ["payload"], ts="ts"), index("c", ["id"])],
    )
    s.tablet.put(1, [{"id": i, "k": f"k{i}", "ts": 1_700_000_000_000 + i, "payload": f"p{i}"} for i in range(1000)])
    s.tablet.snapshot(1)
    s.tablet.put(
        1, [{"id": i, "k": f"k{i}", "ts": 1_700_000_000_000 + i, "payload": f"p{i}"} for i in range(1000, 2000)]
    )
    s.start()
    s.create("t", 0)
    s.wait_gone()
    s.audit("t", range(2000))


def test_snappy_and_added_column(local):
    """Values of compressed tables are rows in both phases (defect 16), and added columns come out (defects 14, 15)."""
    s = local
    s.make_table(1, "t", partitions=1, snappy=True)
    row = {"k": "k", "v": 0.5, "payload": "x" * 200}
    s.tablet.put(1, [{**row, "id": i, "ts": 1_700_000_000_000 + i} for i in range(100)])
    s.tablet.snapshot(1)
    s.tablet.put(1, [{**row, "id": i, "ts": 1_700_000_000_000 + i} for i in range(100, 200)])
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 200)
    s.tablet.add_column(1, "extra", "int")
    s.tablet.put(1, [{**row, "id": i, "ts": 1_700_000_000_000 + i, "extra": i} for i in range(200, 300)])
    s.wait_rows("t", 300)
    s.audit("t", range(300))
    for data in s.files("t").values():  # one file has one schema
        assert len({line.count(b",") for line in data.splitlines()}) == 1
    assert sum(line.endswith(f",{line.split(',')[0]}") for line in s.lines("t")) == 100


def test_large_row_goes_alone(local):
    """Defect 12: a row larger than a pack."""
    s = local
    s.make_table(1, "t", partitions=1)
    s.tablet.put(
        1,
        [
            {"id": i, "k": "k", "ts": 1_700_000_000_000 + i, "payload": "x" * (3 << 20 if i == 5 else 10)}
            for i in range(10)
        ],
    )
    s.add_collector(max_pack_size="64K")
    s.start_syncd()
    s.wait_registered()
    s.create("t", 0)
    s.wait_gone()
    s.audit("t", range(10))


def test_refusals(local):
    """What can't be done is said, and leaves nothing behind."""
    s = local
    s.make_table(1, "t")
    s.make_table(2, "m", storage_mode="kMemory")
    s.start()
    assert "--db_root_path must name" in s.helper("create", "-t", "db.m", "-m", "0", "-d", s.dest("m"), status=1)
    assert "db.nosuch" in s.helper("create", "-t", "db.nosuch", "-m", "0", "-d", s.dest("x"), status=1)  # defect 45
    assert "-1" in s.helper("create", "-t", "db.t", "-m", "0", "-d", "relative/path", status=1)
    assert "-1" in s.helper("create", "-t", "db.t", "-m", "0", "-d", "file:///a/../etc", status=1)
    assert s.tasks() == {}
    s.create("t", 2)
    assert "already exists" in s.helper("create", "-t", "db.t", "-m", "2", "-d", s.dest("t"), status=1)
    assert "-1" in s.helper("delete", "-t", "db.nosuch", status=1)  # defect 44
    assert len(s.tasks()) == 2


def test_other_file_system(local):
    """Links need the TabletServer's file system: refused, with both paths named."""
    s = local
    other = f"/dev/shm/osync-{os.getpid()}"
    s.make_table(1, "t", partitions=1)
    s.fill(1, 100, 0)
    s.add_collector(collector_datadir=other)
    s.start_syncd()
    s.wait_registered()
    try:
        answer = s.helper("create", "-t", "db.t", "-m", "0", "-d", s.dest("t"), status=1)
        assert "Invalid cross-device link" in answer
        assert other in answer.replace("\\/", "/") and "tablet" in answer
        assert s.tasks() == {}
    finally:
        s.collectors[0].end()
        shutil.rmtree(other)


def test_no_collector_then_one(local):
    """It says what it waits for when the machine has no collector, and goes on by itself when there is one (defect
    29)."""
    s = local
    s.make_table(1, "t")
    s.fill(1, 1000, 0)
    s.start()
    s.create("t", 2)
    s.wait_rows("t", 1000)
    s.collectors[0].kill()
    wait_for(
        "the reason", lambda: str(s.rpc("TaskStatus")["readableInfo"]).count("waits for a leader with a col") == 2
    )
    assert set(s.states().values()) == {"REASSIGNING"}
    s.tablet.generate(1, 1000, first_id=1000)
    s.add_collector()  # another one, with an empty folder, takes over
    s.wait_rows("t", 2000)
    s.audit("t", range(2000))
    s.wait_running()


def test_another_collector_takes_over(local):
    s = local
    s.make_table(1, "t")
    s.fill(1, 4000, 0)
    s.add_collector()
    s.add_collector()
    s.start_syncd()
    s.wait_registered()
    s.create("t", 2)
    s.wait_rows("t", 4000)
    first = {t["dataCollector"] for t in s.tasks().values()}
    victim = next(c for c in s.collectors if c.endpoint in first)
    victim.kill()
    s.tablet.generate(1, 4000, first_id=4000)
    s.wait_rows("t", 8000)
    s.audit("t", range(8000))
    assert victim.endpoint not in {t["dataCollector"] for t in s.tasks().values()}


def test_zookeeper_restarts(build, tmp_path, hdfs):
    """The collector registers again after a lost session, and running tasks go on meanwhile."""
    own = ZooKeeper(tmp_path / "own-zookeeper").start()
    try:
        with System(build, tmp_path, own, hdfs) as s:
            s.make_table(1, "t")
            s.fill(1, 1000, 0)
            s.start()
            s.create("t", 2)
            s.wait_rows("t", 1000)
            own.kill()
            s.tablet.generate(1, 500, first_id=1000)
            s.wait_rows("t", 1500)
            before = s.collectors[0].text().count("registered")
            time.sleep(4)  # longer than every session: there is no event for an expiry at a server that is down
            own.start()
            wait_for("the collector to register again", lambda: s.collectors[0].text().count("registered") > before)

            def made():
                try:
                    s.make_table(2, "u")
                except TabletError as e:
                    assert "connection" in str(e) or "exists" in str(e)
                    return "exists" in str(e)
                return True

            wait_for("the TabletServer to be connected again", made)
            s.fill(2, 1000, 0)
            wait_for(
                "create to work again",
                lambda: s.rpc("CreateSyncTask", db="db", name="u", mode=0, dest=s.dest("u")).get("code") == 0,
            )
            wait_for("the task to end", lambda: not [k for k in s.tasks() if k[0] == 2], 120)
            s.audit("u", range(1000))
            s.audit("t", range(1500))
    finally:
        own.stop()


def test_two_tables_two_destinations(local):
    """Defect 31: after a restart each task still knows its own destination."""
    s = local
    s.make_table(1, "t")
    s.make_table(2, "u")
    s.fill(1, 500, 0)
    s.fill(2, 700, 10_000)
    s.start()
    s.create("t", 2)
    s.create("u", 2)
    s.wait_rows("t", 500)
    s.syncd.restart()
    s.wait_listening()
    s.tablet.generate(1, 100, first_id=500)
    s.tablet.generate(2, 100, first_id=10_700)
    s.wait_rows("t", 600)
    s.wait_rows("u", 800)
    s.audit("t", range(600))
    s.audit("u", range(10_000, 10_800))


def test_helper(system):
    s = system
    s.make_table(7, "t")
    s.fill(7, 1000, 0)
    s.start()
    assert s.helper("status") == "no task\n"
    s.create("t", 2)
    s.wait_rows("t", 1000)
    out = s.helper("status").split("\n")
    assert out[0] == "2 tasks(tid-pid)"
    task = (
        r"\{'lastUpdateTime': '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?', 'progressPath': '[^']+', 'tid': 7, 'pid': %d, "
        r"'mode': 'kFullAndContinuous', 'startTs': '0', 'syncPoint': \{'type': 'kBINLOG', 'offset': '\d+'\}, "
        r"'tabletEndpoint': '[\d.:]+', 'desEndpoint': '[\d.:]+', 'token': '[0-9a-f-]{36}', 'dest': '%s', "
        r"'dataCollector': '[\d.:]+', 'count': '\d+', 'status': 'RUNNING'\}"
    )
    for pid in (0, 1):
        assert re.fullmatch(task % (pid, re.escape(s.dest("t"))), out[1 + pid]), out[1 + pid]
    assert out[3:] == [
        "table scope",
        "running tasks:",
        "tid 7 task is running, pid parts: dict_keys([0, 1])",
        "all tasks are running",
        "",
    ]
    conf = s.helper("tool-status", "-f", str(s.folder / "synctool.properties"))
    assert "sync task progress in sync tool fs" in conf and "checkpoint.db" in conf  # defect 50


def test_destinations(system):
    """hdfs://namenode/path, hdfs:///path, webhdfs://host:port/path and a bare path are all the same HDFS."""
    s = system
    prefixes = [f"hdfs://{s.hdfs.rpc_address}", "hdfs://", f"webhdfs://{s.hdfs.http_address}", ""]
    for tid, prefix in enumerate(prefixes, 1):
        s.make_table(tid, f"t{tid}")
        s.fill(tid, 100, 0)
    s.start()
    for tid, prefix in enumerate(prefixes, 1):
        s.helper("create", "-t", f"db.t{tid}", "-m", "0", "-d", prefix + s.dest(f"out/t{tid}/"))
    s.wait_gone()
    for tid in range(1, len(prefixes) + 1):
        s.audit(f"out/t{tid}", range(100))


def test_hadoop_conf_dir_of_the_environment(build, tmp_path, zookeeper, hdfs, monkeypatch):
    monkeypatch.setenv("HADOOP_CONF_DIR", str(hdfs.conf_dir))
    with System(build, tmp_path, zookeeper) as s:
        s.make_table(1, "t")
        s.fill(1, 100, 0)
        s.start()
        s.helper("create", "-t", "db.t", "-m", "0", "-d", f"/env{s.root}")
        s.wait_gone()
        assert sum(hdfs.read(f).count(b"\n") for f in hdfs.list(f"/env{s.root}")) == 100


def test_hdfs_away_for_a_while(system, numbers):
    """A NameNode and a DataNode that are killed in the middle: rows wait, and come once each."""
    s = system
    s.make_table(1, "t", partitions=4)
    s.fill(1, 20_000, 0)
    s.start()
    s.create("t", 2)
    s.tablet.generate(1, 40_000, first_id=20_000, rate_per_s=10_000)
    s.wait_rows("t", 1)
    s.hdfs.kill_datanode()
    s.hdfs.restart_datanode()
    s.hdfs.kill_namenode()
    wait_for("a reason in the status", lambda: "reason=" in str(s.rpc("TaskStatus")["readableInfo"]))
    s.hdfs.restart_namenode()
    s.tablet.wait_generated(1)
    s.wait_rows("t", 60_000, 180)
    lost, twice = s.audit("t", range(60_000))
    print(f"\none kill of the DataNode, one of the NameNode; 60000 rows checked, {lost} lost, {twice} twice")
    numbers.add("kills", 2)
    numbers.audited(60_000, lost, twice)
    s.wait_running()


@pytest.mark.parametrize("mode", [0, 2])
def test_kills(mode, system, numbers):
    """SIGKILL of each daemon at random moments while rows come in."""
    s, rng = system, random.Random(mode)
    kills, phases = {"collector": 0, "syncd": 0}, set()
    s.make_table(1, "t", partitions=4)
    total, first = (800_000, 800_000) if mode == 0 else (120_000, 40_000)
    s.fill(1, first)
    s.add_collector(max_pack_size="8K", max_read_rate="16M" if mode == 0 else 0)
    s.start_syncd()
    s.wait_registered()
    s.create("t", mode)
    stop = threading.Event()
    if mode == 2:
        s.tablet.generate(1, total - first, first_id=first, rate_per_s=6000)

    def snapshots():
        while mode == 2 and not stop.wait(rng.uniform(0.5, 1.5)):
            s.tablet.snapshot(1)

    def watch():
        while not stop.wait(0.05):
            try:
                points = [t["progress"].get("syncPoint", {}) for t in s.tasks().values()]
            except OSError:
                continue  # it has just been killed
            phases.update(p["type"] for p in points if "pk" in p or "offset" in p)

    threads = [threading.Thread(target=snapshots), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            for who, daemon in (("collector", s.collectors[0]), ("syncd", s.syncd)):
                time.sleep(rng.uniform(0.02, 0.4))
                assert any(
                    (s.folder / "collector-0").glob("1-*")
                ), "the task is over: the kill would find nobody at work"
                if rng.random() < 0.5:  # else the kill may come while it starts
                    s.wait_listening()
                daemon.restart()
                kills[who] += 1
        s.wait_listening()
        if mode == 2:
            s.tablet.wait_generated(1)
            s.wait_rows("t", total, 180)
        else:
            s.wait_gone(180)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    lost, twice = s.audit("t", range(total))
    assert mode == 2 or "kSNAPSHOT" in phases
    print(
        f"\nmode {mode}: {kills['collector']} kills of the collector, {kills['syncd']} of the scheduler, all while "
        f"rows were missing (committed points in {sorted(phases)}); {total} rows checked in {len(s.files('t'))} files, "
        f"{lost} lost, {twice} twice"
    )
    numbers.add("kills", sum(kills.values()))
    numbers.audited(total, lost, twice)


def test_a_million_rows_in_little_memory(build, tmp_path, zookeeper, hdfs):
    conf = {"syncd": {"roll.interval": "10s"}}
    with System(build, tmp_path, zookeeper, hdfs, conf) as s:
        s.make_table(1, "t", partitions=8)
        s.fill(1, 1_000_000, payload_bytes=150)
        s.start()
        start = time.monotonic()
        s.create("t", 0)
        peaks = [0, 0]
        while s.tasks():
            peaks = [s.collectors[0].peak_rss(), s.syncd.peak_rss()]
            time.sleep(0.1)
        seconds = time.monotonic() - start
        s.audit("t", range(1_000_000))
        print(
            f"\n1,000,000 rows in {seconds:.1f} s; most resident memory: collector {peaks[0] >> 20} MiB, "
            f"scheduler {peaks[1] >> 20} MiB; {len(s.files('t'))} files"
        )
        assert max(peaks) < 200 << 20
