"""The golden tables, written by OpenMLDB's own storage code, read back by osync-dump."""

import collections
import json
import subprocess

import pytest

BROKEN = "case7_broken_binlog"


def partitions(golden):
    """Every partition of the golden tables: (name, folder, meta, expected, snapshot dump)."""
    for case in sorted(golden.iterdir()):
        if case.name == BROKEN:
            continue
        for db in sorted(case.glob("db*")):
            for folder in sorted(p for p in db.iterdir() if p.is_dir()):
                suffix = f"_p{folder.name.split('_')[1]}" if case.name == "case10_partitions" else ""
                meta = case / f"table_meta{suffix}.pb"
                dump = (
                    case
                    / "dump"
                    / ("snapshot_collector_n.jsonl" if db.name == "db_n" else f"snapshot_collector{suffix}.jsonl")
                )
                yield f"{case.name}/{db.name}/{folder.name}", folder, meta, case / f"expected{suffix}.jsonl", dump


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def dump(build, meta, folder, *options, status=0):
    run = subprocess.run(
        [build / "examples/osync-dump", "--meta", meta, "--partition", folder, *options],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == status, run.stderr.decode()
    return run


def rows(build, meta, folder, phase, *options):
    return [
        json.loads(line)
        for line in dump(build, meta, folder, "--phase", phase, "--format", "jsonl", *options).stdout.splitlines()
    ]


def base_dim(op):
    return next((d for d in op.get("dims", []) if d["idx"] == 0), None)


@pytest.fixture(scope="module")
def all_partitions(golden):
    found = list(partitions(golden))
    assert len(found) >= 20
    return found


def test_snapshot(build, all_partitions):
    total = 0
    for name, folder, meta, _, snapshot in all_partitions:
        want = [(r["pk"].encode().hex(), r["ts"], r["value_hex"]) for r in lines(snapshot)]
        got = [(r["pk_hex"], r["ts"], r["value_hex"]) for r in rows(build, meta, folder, "snapshot")]
        assert got == want, name
        total += len(got)
    print(f"{len(all_partitions)} partitions, {total} rows of snapshots")
    assert total > 1000


def test_binlog(build, all_partitions):
    total = 0
    for name, folder, meta, expected, _ in all_partitions:
        want = [
            (op["offset"], base_dim(op)["ts"], op["value_hex"])
            for op in lines(expected)
            if op["op"] == "put" and base_dim(op)
        ]
        got = [(r["offset"], r["ts"], r["value_hex"]) for r in rows(build, meta, folder, "binlog")]
        if "/db_n/" in name:  # the log as it was at the earlier snapshot
            want = want[: len(got)]
        assert got == want, name
        total += len(got)
    print(f"{len(all_partitions)} partitions, {total} puts of binlogs")
    assert total > 1000


def test_binlog_from(build, all_partitions):
    name, folder, meta, _, _ = next(p for p in all_partitions if p[0].startswith("case3_snapshot"))
    every = rows(build, meta, folder, "binlog")
    for n in (1, 2, 101, 102, 132, 133, 170, 171, every[-1]["offset"]):  # among them each file's first and last entry
        got = rows(build, meta, folder, "binlog", "--from", str(n))
        assert got == [r for r in every if r["offset"] >= n], (name, n)


def superseded(ops, ts_name):
    """The offsets of index 0 puts that a later put or delete has replaced."""
    live, gone = {}, set()
    for op in ops:
        if op["op"] == "put" and base_dim(op):
            d = base_dim(op)
            key = (d["pk"], d["ts"])
            if key in live:
                gone.add(live[key])
            live[key] = op["offset"]
        elif op["op"] == "delete":
            start, end = op.get("ts", 2**64 - 1), op.get("end_ts", 0)
            wide = "idx" not in op and (not ts_name or op.get("ts_name") == ts_name)
            for key in [
                k for k in live if start >= k[1] > end and (wide or (op.get("idx") == 0 and op.get("pk") == k[0]))
            ]:
                gone.add(live.pop(key))
    return gone


# Where rows expire: the puts that a full sync may leave out, though nothing replaced them.
EXPIRING = ("case2c", "case2e", "case2f", "case2g")


@pytest.mark.parametrize("base", ["auto", "oldest"])
def test_all(build, all_partitions, base):
    puts_checked = 0
    for name, folder, meta, expected, _ in all_partitions:
        ops = lines(expected)
        got = rows(build, meta, folder, "all", "--base", base)
        window, got = got[0], got[1:]
        assert window["phase"] == "window" and window["base"] <= window["tail"], name
        if "/db_n/" in name:
            ops = [op for op in ops if op.get("offset", 0) <= window["tail"]]
        ts_name = next((d.get("ts_name") for op in ops for d in [op] if op["op"] == "delete"), None)
        gone = superseded(ops, ts_name)
        puts = [op for op in ops if op["op"] == "put" and base_dim(op)]
        count = collections.Counter((r["ts"], r["value_hex"]) for r in got)
        most = collections.Counter((base_dim(op)["ts"], op["value_hex"]) for op in puts)
        least = collections.Counter((base_dim(op)["ts"], op["value_hex"]) for op in puts if op["offset"] not in gone)
        assert not count - most, f"{name}: rows twice, or rows that were never put"
        if not name.startswith(EXPIRING):
            assert not least - count, f"{name}: rows lost"
        puts_checked += len(puts)
    print(f"base {base}: {len(all_partitions)} partitions, {puts_checked} puts")


def test_partitions_together(build, golden):
    """case10: one table in four partitions: each logical row once, from the partition that has its index 0 key."""
    case = golden / "case10_partitions"
    logical = [row for row in lines(case / "logical.jsonl") if row["in_full_sync"]]
    deleted_in_window = [row for row in logical if row["deleted_after"] is not None]
    got = collections.Counter()
    want = collections.Counter()
    for pid in range(4):
        offsets = {op["offset"]: op["value_hex"] for op in lines(case / f"expected_p{pid}.jsonl") if op["op"] == "put"}
        got.update(
            r["value_hex"] for r in rows(build, case / f"table_meta_p{pid}.pb", case / f"db/10_{pid}", "all")[1:]
        )
        want.update(offsets[row["offset"]] for row in logical if row["pid"] == pid)
    assert not got - want
    assert sum((want - got).values()) <= len(deleted_in_window)
    print(f"{sum(got.values())} rows of {sum(want.values())}; {len(deleted_in_window)} were deleted inside the window")


def test_seam(build, golden):
    """case11: the checkpoint holds entries beyond MANIFEST's offset."""
    case = golden / "case11_seam_overlap"
    facts = json.loads((case / "seam_facts.json").read_text())
    ops = lines(case / "expected.jsonl")
    rid_of = {op["value_hex"]: op["row"]["rid"] for op in ops if op["op"] == "put"}
    folder = next((case / "db").iterdir())
    got = collections.Counter(rid_of[r["value_hex"]] for r in rows(build, case / "table_meta.pb", folder, "all")[1:])
    assert max(got.values()) == 1
    assert set(got) <= set(facts["exactly_once_rids_of_a_full_sync"])
    gone = superseded(ops, None)
    alive = {op["row"]["rid"] for op in ops if op["op"] == "put" and base_dim(op) and op["offset"] not in gone}
    assert alive <= set(got)


def test_broken_binlogs(build, golden):
    """Damage is an error that names file and offset; what is only unfinished is not."""
    case = golden / BROKEN
    whole = [r["offset"] for r in rows(build, case / "table_meta.pb", case / "db/7_0", "binlog")]
    for variant in sorted(p for p in case.iterdir() if (p / "7_0").is_dir() and p.name != "db"):
        run = subprocess.run(
            [
                build / "examples/osync-dump",
                "--meta",
                case / "table_meta.pb",
                "--partition",
                variant / "7_0",
                "--phase",
                "binlog",
                "--format",
                "jsonl",
            ],
            capture_output=True,
            check=False,
            timeout=60,
        )
        got = [json.loads(line)["offset"] for line in run.stdout.splitlines()]
        assert got == whole[: len(got)], variant.name
        if variant.name in ("truncated_last", "truncated_header", "no_eof_mark"):
            assert run.returncode == 0, run.stderr
            assert len(got) >= len(whole) - 1
        else:
            assert run.returncode == 1, variant.name
            assert b"0000000" in run.stderr and b".log" in run.stderr, run.stderr
        print(f"{variant.name}: {len(got)} of {len(whole)} entries, {run.stderr.decode().strip() or 'no error'}")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--meta", "/nonexistent"], "No such file"),
        (["--partition", "/nonexistent"], "No such file"),
        (["--partition", __file__], "Not a directory"),
        (["--timezone", "No/Where"], "No/Where"),
        (["--phase", "some"], "--phase can't be 'some'"),
        (["--from", "x", "--phase", "binlog"], "--from can't be 'x'"),
        (["--from", "3"], "--from needs --phase binlog"),
        (["--nonsense"], "--nonsense"),
        (["more"], "'more' is not an option"),
    ],
)
def test_bad_input(build, golden, options, message):
    case = golden / "case1_simple"
    run = dump(build, case / "table_meta.pb", case / "db/1_0", *options, status=1)
    assert message in run.stderr.decode()


def test_csv(build, golden):
    case = golden / "case1_simple"
    text = dump(build, case / "table_meta.pb", case / "db/1_0", "--timezone", "UTC").stdout.decode("ascii")
    assert text.count("\n") == len(rows(build, case / "table_meta.pb", case / "db/1_0", "all")) - 1
    assert (
        '"id0",false,-100,-5,-9,-3.25,0.0,"str 0","v0",2000-01-01,2020-09-13 12:26:40.0,2023-11-14 22:13:20.0' in text
    )
