"""The test TabletServer writes what OpenMLDB writes: golden tables, put again, give the same bytes. And it keeps
what it has logged."""

import json
import os
import pathlib
import re
import subprocess
import tarfile
import time

import pytest

import openmldb
from tablet import Replicas, Tablet, TabletError, column, index, partition_of

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "fixtures/golden.tar.xz"
EOF_RECORD = bytes.fromhex("f0b91d31000005")

CASES = [
    "case1_simple",
    "case1_hdd",
    "case2a_inner_each_own_ts",
    "case2b_inner_many_ts",
    "case2c_latest_first_index",
    "case2d_no_ts_col",
    "case2e_abs_ttl",
    "case2f_absandlat",
    "case2g_absorlat",
    "case2h_first_index_is_second_ts",
    "case3_snapshot_binlog_rolled",
    "case3b_delete_all_keys",
    "case4a_empty",
    "case4b_binlog_only",
    "case4c_empty_snapshot",
    "case7_sst_off",
    "case8_row_snappy",
    "case9_added_columns",
]


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder)
    return folder


def operations(path):
    # "-0" is a float whose sign counts; JSON's own reading drops it.
    return [
        json.loads(line, parse_int=lambda text: -0.0 if text == "-0" else int(text))
        for line in path.read_text().split("\n")
        if line
    ]


def put_again(tablet, tid, op):
    version = int(op["value_hex"][2:4], 16)
    tablet.call("Put", tid=tid, rows=[json.dumps(op["row"])], put_time=op["put_time"], version=version)


def delete_again(tablet, tid, op):
    tablet.delete(
        tid,
        key=op.get("pk"),
        index=op.get("idx", 0),
        start_ts=op.get("ts"),
        end_ts=op.get("end_ts"),
        ts_name=op.get("ts_name"),
    )


def assert_same_binlog(theirs, ours):
    files = sorted(path.name for path in theirs.glob("*.log"))
    assert files == sorted(path.name for path in ours.glob("*.log"))
    for i, name in enumerate(files):
        wanted = (theirs / name).read_bytes()
        # Where OpenMLDB was restarted it left a file without its last record, which a roll writes.
        if i + 1 < len(files) and not wanted.endswith(EOF_RECORD):
            wanted += EOF_RECORD
        assert (ours / name).read_bytes() == wanted, f"{name} differs"


def rocksdb_options(checkpoint):
    """What matters for a reader, by section of the OPTIONS file."""
    text = next(checkpoint.glob("OPTIONS-*")).read_text()
    wanted = (
        "comparator",
        "prefix_extractor",
        "merge_operator",
        "compaction_filter",
        "compression",
        "filter_policy",
        "block_size",
        "whole_key_filtering",
        "memtable_prefix_bloom_size_ratio",
        "format_version",
        "level0_file_num_compaction_trigger",
        "level0_slowdown_writes_trigger",
        "level0_stop_writes_trigger",
        "optimize_filters_for_hits",
        "level_compaction_dynamic_level_bytes",
    )
    sections = {}
    for title, body in re.findall(r'^\[((?:CFOptions|TableOptions)[^\]]*)\]\n(.*?)(?=^\[|\Z)', text, re.M | re.S):
        pairs = dict(line.strip().split("=", 1) for line in body.splitlines() if "=" in line)
        # The default column family holds nothing, so how it would compress says nothing.
        keep = wanted if '"default"' not in title else ("comparator",)
        sections[title] = {key: pairs[key] for key in keep if key in pairs}
    return sections


def manifest(partition):
    text = (partition / "snapshot/MANIFEST").read_text()
    found = re.fullmatch(r'offset: (\d+)\nname: "(\d{12})"\ncount: (\d+)\nterm: (\d+)\n', text)
    assert found, text
    return int(found[1]), found[2], int(found[3]), int(found[4])


def dump(build, partition, *options):
    """What libosync's reader finds, as a list of rows."""
    program = build / "examples/osync-dump"
    run = subprocess.run(
        [program, "--meta", partition / "table_meta.pb", "--partition", partition, "--format", "jsonl", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def assert_same_snapshot(build, theirs, ours, expected_rows):
    offset, name, count, term = manifest(theirs)
    our_offset, our_name, our_count, our_term = manifest(ours)
    assert (our_offset, our_count, our_term) == (offset, count, term)
    assert sorted(os.listdir(ours / "snapshot")) == sorted([our_name, "MANIFEST"])
    assert rocksdb_options(ours / "snapshot" / our_name) == rocksdb_options(theirs / "snapshot" / name)
    assert [row["value_hex"] for row in dump(build, ours, "--phase", "snapshot")] == expected_rows


@pytest.mark.parametrize("case", CASES)
def test_golden_table_again(build, golden, tmp_path, case):
    folder = golden / case
    meta = openmldb.table_meta((folder / "table_meta.pb").read_bytes())
    tid = meta["tid"]
    theirs = folder / "db" / f"{tid}_0"
    with Tablet(build, tmp_path / "root") as tablet:
        tablet.call("CreateTable", meta=meta)
        file = None
        for op in operations(folder / "expected.jsonl"):
            if op.get("binlog", file) != file and file is not None:
                tablet.roll(tid)
            file = op.get("binlog", file)
            {
                "put": lambda: put_again(tablet, tid, op),
                "delete": lambda: delete_again(tablet, tid, op),
                "snapshot": lambda: tablet.snapshot(tid),
            }[op["op"]]()
        ours = tablet.partition(tid)
    assert_same_binlog(theirs / "binlog", ours / "binlog")
    if (theirs / "snapshot/MANIFEST").exists():
        dumped = folder / "dump/snapshot_collector.jsonl"
        assert_same_snapshot(build, theirs, ours, [row["value_hex"] for row in operations(dumped)])
    else:
        assert os.listdir(ours / "snapshot") == []


def test_golden_partitions_again(build, golden, tmp_path):
    """Each row goes to the partitions that its keys map to, with the dimensions that map there."""
    folder = golden / "case10_partitions"
    meta = openmldb.table_meta((folder / "table_meta.pb").read_bytes())
    queues = [
        [op for op in operations(folder / f"expected_p{pid}.jsonl") if op["op"] != "snapshot"] for pid in range(4)
    ]
    rows = operations(folder / "logical.jsonl")
    file = [None] * 4
    with Tablet(build, tmp_path / "root") as tablet:
        tablet.call("CreateTable", meta=meta, partitions=4)

        def take(pid):
            op = queues[pid].pop(0)
            if file[pid] not in (None, op["binlog"]):
                tablet.roll(10, pid)
            file[pid] = op["binlog"]
            return op

        for row in rows:
            for pid in range(4):
                while queues[pid] and queues[pid][0]["op"] == "delete":
                    delete_again(tablet, 10, take(pid))
            ops = [take(copy["pid"]) for copy in row["puts"]]
            assert {op["logical"] for op in ops} == {row["logical"]}
            put_again(tablet, 10, ops[0])
        for pid in range(4):
            while queues[pid]:
                delete_again(tablet, 10, take(pid))
        folders = [tablet.partition(10, pid) for pid in range(4)]
    for pid, ours in enumerate(folders):
        assert_same_binlog(folder / f"db/10_{pid}/binlog", ours / "binlog")


COLUMNS = [column("id", "bigint", True), column("k", "string"), column("ts", "timestamp"), column("note", "string")]
INDEXES = [index("idx0", ["k"], "ts")]


def make_table(tablet, tid=7, partitions=1):
    tablet.create_table(tid, "t", COLUMNS, INDEXES, partitions=partitions)


def ids(rows):
    """The BIGINT `id`, the first column: behind the header and one byte of NULL bits."""
    return sorted(int.from_bytes(bytes.fromhex(row["value_hex"])[7:15], "little") for row in rows)


def test_exact_bytes_of_a_delete_and_of_the_end(build, tmp_path):
    with Tablet(build, tmp_path / "root") as tablet:
        make_table(tablet)
        tablet.put(7, [{"id": 1, "k": "key1", "ts": 5}])
        tablet.delete(7, key="key1")
        tablet.roll(7)
        log = (tablet.partition(7) / "binlog/00000000.log").read_bytes()
    assert log.endswith(bytes.fromhex("4909253b100001" "0801100232080a046b657931100038 02") + EOF_RECORD)


def test_answers_to_a_collector(build, tmp_path):
    with Tablet(build, tmp_path / "root") as tablet:
        make_table(tablet, partitions=2)
        assert tablet.table_status(8) == []
        assert tablet.table_status(7, 2) == []
        assert tablet.table_schema(8) == {"code": 100, "msg": "table does not exist"}
        tablet.put(7, [{"id": i, "k": f"k{i}", "ts": i} for i in range(100)])
        status = tablet.table_status(7)
        assert [s["pid"] for s in status] == [0, 1]
        assert sum(s["offset"] for s in status) == 100
        for s in status:
            folder = tablet.partition(7, s["pid"])
            assert s["storage_mode"] == "kSSD"
            assert (s["snapshot_path"], s["binlog_path"]) == (f"{folder}/snapshot/", f"{folder}/binlog/")
        schema = tablet.table_schema(7, 1)
        assert schema["code"] == 0
        assert [c["name"] for c in schema["table_meta"]["column_desc"]] == ["id", "k", "ts", "note"]
        tablet.add_column(7, "more", "int")
        meta = tablet.table_schema(7)["table_meta"]
        assert meta["schema_versions"] == [{"id": 1, "field_count": 4}, {"id": 2, "field_count": 5}]
        with pytest.raises(TabletError, match="ts column"):
            tablet.put(7, [{"id": 1, "k": "a"}])
        with pytest.raises(TabletError, match="must not be NULL"):
            tablet.put(7, [{"k": "a", "ts": 1}])


def test_generated_rows_are_all_there_once(build, tmp_path):
    with Tablet(build, tmp_path / "root", binlog_max_bytes=1 << 20) as tablet:
        make_table(tablet, partitions=3)
        tablet.generate(7, 50000, first_id=1000, payload_bytes=30)
        tablet.generate(7, 5000)  # goes on
        tablet.snapshot(7)
        found = [row for pid in range(3) for row in dump(build, tablet.partition(7, pid), "--phase", "snapshot")]
        assert ids(found) == list(range(1000, 56000))
        entries = [openmldb.binlog(tablet.partition(7, pid) / "binlog") for pid in range(3)]
        assert sum(len(e) for e in entries) == 55000
        assert [len(e) for e in entries] == [p["puts"] for p in tablet.stats(7)["partitions"]]


def test_snapshot_replaces_the_former_and_purge_keeps_one_more_file(build, tmp_path):
    with Tablet(build, tmp_path / "root", binlog_max_bytes=100_000) as tablet:
        make_table(tablet)
        tablet.generate(7, 20000)
        tablet.snapshot(7, offset_skew=-5)
        folder = tablet.partition(7)
        assert manifest(folder)[0] == 19995
        tablet.generate(7, 20000)
        tablet.snapshot(7)
        offset, name, _, _ = manifest(folder)
        assert offset == 40000
        assert sorted(os.listdir(folder / "snapshot")) == sorted(["MANIFEST", name])
        before = sorted((folder / "binlog").iterdir())
        tablet.purge(7)
        assert sorted((folder / "binlog").iterdir()) == before[-2:]
        tablet.generate(7, 10)
        assert [e["log_index"] for e in openmldb.binlog(folder / "binlog")][-1] == 40010


def test_kill_loses_nothing_that_is_logged(build, tmp_path):
    tablet = Tablet(build, tmp_path / "root", binlog_max_bytes=200_000).start()
    try:
        make_table(tablet)
        folder = tablet.partition(7)
        tablet.generate(7, 3000)
        tablet.snapshot(7)
        tablet.purge(7)
        tablet.delete(7, key="k1")
        tablet.generate(7, 1_000_000, rate_per_s=20000)
        while tablet.stats(7)["generated"] < 4000:
            time.sleep(0.02)
        tablet.kill()
        last = sorted((folder / "binlog").glob("*.log"))[-1]
        whole = last.read_bytes()
        kept, _ = openmldb.records(whole)
        # As if the kill had come in the middle of a write.
        last.write_bytes(whole + bytes.fromhex("0102030440000101"))
        logged = openmldb.binlog(folder / "binlog")
        tablet.start()
        assert last.read_bytes()[len(whole) : len(whole) + 7] == EOF_RECORD
        assert openmldb.records(last.read_bytes()) == (kept, True)
        assert tablet.table_status(7)[0]["offset"] == logged[-1]["log_index"]

        tablet.generate(7, 1)
        entries = openmldb.binlog(folder / "binlog")
        assert [int.from_bytes(e["value"][7:15], "little") + 1 for e in logged[-1:]] == [
            int.from_bytes(e["value"][7:15], "little") for e in entries[-1:]
        ]
        assert [e["log_index"] for e in entries] == list(range(entries[0]["log_index"], logged[-1]["log_index"] + 2))
        assert sorted((folder / "binlog").glob("*.log"))[-1].name > last.name
        tablet.snapshot(7)
        deletes = [e["log_index"] for e in entries if e["delete"]]
        assert len(deletes) == 1
        in_snapshot = ids(dump(build, folder, "--phase", "snapshot"))
        after = sorted(int.from_bytes(e["value"][7:15], "little") for e in entries if e["log_index"] > deletes[0])
        assert in_snapshot[-len(after) :] == after
        assert in_snapshot[0] < 3000 <= after[0]
        assert 2900 < len(in_snapshot) - len(after) < 3000  # those with another key than the deleted one
    finally:
        tablet.kill()


def test_tables_in_zookeeper(build, tmp_path, zookeeper):
    tablet = Tablet(build, tmp_path / "root", zookeeper.address, zk_root="/tablet_test").start()
    try:
        make_table(tablet, tid=77, partitions=2)
        info = openmldb.fields(zookeeper.get("/tablet_test/table/db_table_data/77"))
        assert (info[1], info[4], info[5], info[13], info[17]) == ([b"t"], [77], [2], [b"db"], [2])
        for pid, raw in enumerate(info[3]):
            partition = openmldb.fields(raw)
            leader = openmldb.fields(partition[2][0])
            assert partition[1] == [pid]
            assert (leader[1], leader[2], leader[3]) == ([tablet.endpoint.encode()], [1], [1])
        notified = int(zookeeper.get("/tablet_test/table/notify"))
        tablet.add_column(77, "more", "int")
        assert int(zookeeper.get("/tablet_test/table/notify")) == notified + 1
        assert len(openmldb.fields(zookeeper.get("/tablet_test/table/db_table_data/77"))[11]) == 1
        written = zookeeper.get("/tablet_test/table/db_table_data/77")
        tablet.restart()  # who leads is read there, and nothing is written
        assert int(zookeeper.get("/tablet_test/table/notify")) == notified + 1
        assert zookeeper.get("/tablet_test/table/db_table_data/77") == written
        assert zookeeper.children("/tablet_test/table/db_table_data") == ["77"]
        assert tablet.stop() == 0
    finally:
        tablet.kill()


@pytest.fixture
def pair(build, tmp_path, zookeeper, request):
    """Two tablets on two hosts, with a table of three partitions that the first one leads."""
    root = f"/pair_{request.node.name}"
    tablets = [
        Tablet(build, tmp_path / name, zookeeper.address, root, host=host, binlog_max_bytes=size).start()
        for name, host, size in (("a", "127.0.0.1", 30_000), ("b", "127.0.0.2", 10_000))
    ]
    try:
        replicas = Replicas(tablets)
        replicas.create_table(7, "t", COLUMNS, INDEXES, partitions=3)
        replicas.info = lambda: openmldb.fields(zookeeper.get(f"{root}/table/db_table_data/7"))
        yield replicas
        assert [t.stop() for t in tablets] == [0, 0]
    finally:
        for t in tablets:
            t.kill()


def rows_of(numbers):
    return [{"id": i, "k": f"key{i % 50}", "ts": i, "note": "n" * 20} for i in numbers]


def entries_of(tablet, pid):
    return openmldb.binlog(tablet.partition(7, pid) / "binlog")


def said_of(info):
    """Of each partition: the leader, and who is alive."""
    out = []
    for raw in info[3]:
        replicas = [openmldb.fields(r) for r in openmldb.fields(raw)[2]]
        leaders = [r[1][0].decode() for r in replicas if r[2] == [1]]
        out.append((leaders, sorted(r[1][0].decode() for r in replicas if r[3] == [1])))
    return out


def test_copies_have_the_same_entries_in_other_files(pair):
    a, b = pair.tablets
    both = sorted([a.endpoint, b.endpoint])
    assert said_of(pair.info()) == [([a.endpoint], both)] * 3
    places = pair.put(7, rows_of(range(3000)), "k")
    assert all(partition_of(f"key{i % 50}", 3) == pid for i, (pid, _) in enumerate(places))
    a.delete(7, key="key1")
    pair.wait_copied(7)
    for pid in range(3):
        assert entries_of(a, pid) == entries_of(b, pid)
        assert len(list((a.partition(7, pid) / "binlog").iterdir())) < len(
            list((b.partition(7, pid) / "binlog").iterdir())
        )
        ours = {log_index: i for i, (p, log_index) in enumerate(places) if p == pid}
        for entry in entries_of(b, pid):
            if not entry["delete"]:
                assert int.from_bytes(entry["value"][7:15], "little") == ours[entry["log_index"]]
    assert [s["mode"] for s in a.table_status(7) + b.table_status(7)] == ["kTableLeader"] * 3 + ["kTableFollower"] * 3
    with pytest.raises(TabletError, match="is led by"):
        b.put(7, rows_of([1]))
    with pytest.raises(TabletError, match="is led by"):
        b.delete(7, key="key1")


def test_a_copy_stays_behind_and_catches_up(pair):
    a, b = pair.tablets
    pair.put(7, rows_of(range(1000)), "k")
    pair.wait_copied(7)
    b.follow(7, hold_back=10)
    pair.put(7, rows_of(range(1000, 2000)), "k")
    ends = a.last_entries(7)
    deadline = time.monotonic() + 10
    while [b.last_entries(7)[p][0] for p in range(3)] != [ends[p][0] - 10 for p in range(3)]:
        assert time.monotonic() < deadline
    b.follow(7, paused=True)
    pair.put(7, rows_of(range(2000, 2100)), "k")
    before = b.last_entries(7)
    b.follow(7)
    pair.wait_copied(7)
    assert all(b.last_entries(7)[p] > before[p] for p in range(3))
    assert [entries_of(a, pid) for pid in range(3)] == [entries_of(b, pid) for pid in range(3)]


def test_a_former_leader_is_made_anew(build, pair):
    """What only the dead leader had is gone; what its successor put has a higher term."""
    a, b = pair.tablets
    pair.put(7, rows_of(range(300)), "k")
    pair.wait_copied(7)
    b.follow(7, paused=True)
    pair.put(7, rows_of(range(300, 400)), "k")  # only a has them
    tails = [entries_of(a, pid) for pid in range(3)]
    a.kill()
    kept = pair.move(7, b, dead=[a])
    assert said_of(pair.info()) == [([b.endpoint], [b.endpoint])] * 3
    assert kept == {pid: len(entries_of(b, pid)) for pid in range(3)}
    pair.put(7, rows_of(range(1000, 1200)), "k")
    a.start()
    pair.back(7, a)
    pair.wait_copied(7)
    assert said_of(pair.info()) == [([b.endpoint], sorted([a.endpoint, b.endpoint]))] * 3
    assert [p["copies"] for p in a.stats(7)["partitions"]] == [1] * 3
    pair.put(7, rows_of(range(1200, 1300)), "k")
    pair.wait_copied(7)
    for pid in range(3):
        ours, theirs = entries_of(a, pid), entries_of(b, pid)
        assert ours == theirs[-len(ours) :] and {e["term"] for e in ours} == {2}
        assert [e["term"] for e in theirs] == sorted(e["term"] for e in theirs)
        assert theirs[: kept[pid]] == tails[pid][: kept[pid]] and theirs[kept[pid]] != tails[pid][kept[pid]]
        a.snapshot(7, pid)
        b.snapshot(7, pid)
        dumps = [dump(build, t.partition(7, pid), "--phase", "snapshot") for t in (a, b)]
        assert [row["value_hex"] for row in dumps[0]] == [row["value_hex"] for row in dumps[1]] != []
    # One partition alone, to the copy that was made anew; and both know who leads when they start again.
    pair.move(7, a, pid=1)
    b.restart()
    a.restart()
    assert [p.get("leader") for p in b.stats(7)["partitions"]] == [None, a.endpoint, None]
    assert [p.get("leader") for p in a.stats(7)["partitions"]] == [b.endpoint, None, b.endpoint]
    pair.put(7, rows_of(range(2000, 2100)), "k")
    pair.wait_copied(7)
    assert {e["term"] for e in entries_of(b, 1)} == {1, 2, 3}


def test_a_log_that_was_purged_makes_a_copy_anew(pair):
    a, b = pair.tablets
    pair.put(7, rows_of(range(2000)), "k")
    pair.wait_copied(7)
    b.follow(7, paused=True)
    pair.put(7, rows_of(range(2000, 6000)), "k")
    a.snapshot(7)
    a.purge(7)
    b.follow(7)
    pair.wait_copied(7)
    assert [p["copies"] for p in b.stats(7)["partitions"]] == [1] * 3


def test_a_clock_that_runs_fast(build, tmp_path):
    then = int(time.time() * 1000) - 10**11
    clock = f"{int(time.time() * 1000)}:{then}:600"
    with Tablet(build, tmp_path / "root", clock=clock) as tablet:
        make_table(tablet)
        folder = tablet.partition(7)
        tablet.put(7, rows_of(range(10)))
        names = set()
        for n in range(3):
            tablet.roll(7)
            time.sleep(0.11)  # more than a minute
            tablet.snapshot(7)
            name = manifest(folder)[1]
            names.add(name)
            ended = sorted((folder / "binlog").iterdir())[-2].stat().st_mtime
            began = time.mktime(time.strptime(name, "%Y%m%d%H%M"))
            made = (folder / "snapshot" / name / "CURRENT").stat().st_mtime
            assert then / 1000 < ended < began <= made < then / 1000 + 3600
        assert len(names) == 3
