"""osync.read_table: the golden tables, written by OpenMLDB's own storage code, read by the Python package."""

import datetime
import os
import pathlib
import subprocess
import sys

import pytest

from test_golden import BROKEN, dump, lines, partitions
from test_golden import rows as dump_rows

PACKAGE = pathlib.Path(__file__).parents[2] / "bindings/python"


@pytest.fixture(scope="module")
def osync(build):
    """The package, on the library of the build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSYNC_LIBRARY", str(build / "libosync/libosync.so.1"))
        patch.syspath_prepend(PACKAGE)
        import osync

        return osync


def same(value, want):
    """Is it what the golden table says that was put? There dates and special numbers are text."""
    if want is None or value is None:
        return value is want
    if isinstance(value, datetime.datetime):
        return (value - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) / datetime.timedelta(
            milliseconds=1
        ) == want
    if isinstance(value, datetime.date):
        return value.isoformat() == want
    if isinstance(value, bool) or isinstance(want, bool):
        return value is want
    if isinstance(value, float):
        want = float(want)
        return value == want or (value != value and want != want) or abs(value - want) <= 1e-6 * abs(want)
    if isinstance(want, dict):
        return value.encode("utf-8", "surrogateescape").hex() == want["hex"]
    return value == want


def test_every_value(osync, golden):
    """Each put of each golden log, in order: every column is what was put, in its Python type."""
    count, types = 0, set()
    for name, folder, meta, expected, _ in partitions(golden):
        puts = [
            op
            for op in lines(expected)
            if op["op"] == "put" and any(d["idx"] == 0 for d in op.get("dims", [])) and op.get("row")
        ]
        with osync.read_table(folder, meta=meta, phase="binlog") as rows:
            names = [c.name for c in rows.columns]
            for row, op in zip(rows, puts):
                for column, value in zip(rows.columns, row):
                    assert same(value, op["row"].get(column.name)), (name, op["offset"], column, value)
                    types.add(type(value))
                count += 1
            assert rows.row_type._fields == tuple(names)
    print(f"{count} rows")
    assert count > 1000
    assert types == {bool, int, float, str, datetime.date, datetime.datetime, type(None)}


@pytest.mark.parametrize("phase", ["all", "snapshot", "binlog"])
def test_csv_is_what_osync_dump_prints(osync, build, golden, phase):
    total = 0
    for name, folder, meta, _, _ in partitions(golden):
        want = dump(build, meta, folder, "--phase", phase, "--timezone", "Asia/Shanghai").stdout
        got = b"".join(osync.read_table(folder, meta=meta, phase=phase, timezone="Asia/Shanghai").csv())
        assert got == want, name
        total += got.count(b"\n")
    assert total > 1000


def test_all_partitions_of_a_table(osync, build, golden):
    """Its folder is enough, with the description that the TabletServer keeps there."""
    case = golden / "case10_partitions"
    want = [dump(build, case / f"table_meta_p{p}.pb", case / f"db/10_{p}", "--timezone", "UTC") for p in range(4)]
    rows = osync.read_table(case / "db")
    assert [p.name for p in rows.partitions] == ["10_0", "10_1", "10_2", "10_3"]
    assert b"".join(rows.csv()) == b"".join(run.stdout for run in want)
    assert list(rows) == []  # read once


def test_a_description_in_text_is_that_in_bytes(osync, golden):
    found = 0
    for name, folder, meta, _, _ in partitions(golden):
        text, binary = osync.Table.from_file(folder / "table_meta.txt"), osync.Table.from_file(meta)
        assert (text.db, text.name, text.tid, text.columns) == (binary.db, binary.name, binary.tid, binary.columns)
        got = [list(osync.read_table(folder, meta=m, phase="snapshot")) for m in (text, binary)]
        assert repr(got[0]) == repr(got[1]), name  # NaN isn't itself
        found += 1
    assert found >= 20


@pytest.mark.parametrize("text", ["tid: 1 column_desc {", "name: }", "data: [1]]", "column_desc: 5", "tid 5", "\0"])
def test_a_broken_text_is_an_error(osync, tmp_path, text):
    (tmp_path / "table_meta.txt").write_text(text)
    with pytest.raises(osync.errors.CorruptError, match="table_meta.txt"):
        osync.Table.from_file(tmp_path / "table_meta.txt")


def test_time_zone_and_start(osync, golden):
    folder = golden / "case3_snapshot_binlog_rolled/db/3_0"
    rows = list(osync.read_table(folder, timezone="Asia/Shanghai"))
    assert {r.ts.utcoffset() for r in rows} == {datetime.timedelta(hours=8)}
    newest = max(r.ts for r in rows)
    late = list(osync.read_table(folder, start_ts=round(newest.timestamp() * 1000)))
    assert late and all(r.ts == newest for r in late)


def test_a_time_that_python_cannot_hold_is_a_number(osync, golden):
    rows = list(osync.read_table(golden / "case1_simple/db/1_0"))
    assert {type(r.ts) for r in rows} == {datetime.datetime, int}
    assert max(r.ts for r in rows if isinstance(r.ts, int)) > 2**60


def test_pandas(osync, golden):
    """case1 has a ts that pandas can't hold, case3 has not."""
    kinds = set()
    for name in ("case1_simple/db/1_0", "case3_snapshot_binlog_rolled/db/3_0", "case4a_empty/db/41_0"):
        rows = list(osync.read_table(golden / name))
        reader = osync.read_table(golden / name)
        frame = reader.to_pandas()
        assert list(frame.columns) == [c.name for c in reader.columns]
        assert len(frame) == len(rows)
        for column, type in zip(reader.columns, frame.dtypes):
            kinds.add((column.type, str(type)))
            for value, row in zip(frame[column.name], rows):
                want = getattr(row, column.name)
                if want is None:
                    assert value is None or str(value) in ("<NA>", "NaT", "nan"), (column, value)
                elif isinstance(want, float):
                    assert value == want or value != value, (column, value, want)
                else:
                    assert value == want, (column, value, want)
    assert kinds == {
        ("bool", "boolean"),
        ("smallint", "Int16"),
        ("int", "Int32"),
        ("bigint", "Int64"),
        ("float", "float32"),
        ("double", "float64"),
        ("date", "object"),
        ("timestamp", "object"),
        ("timestamp", "datetime64[ns, UTC]"),
        ("string", "object"),
        ("varchar", "object"),
    }


ARROW = """
import sys
import osync
for folder in sys.argv[1:]:
    rows = list(osync.read_table(folder))
    reader = osync.read_table(folder)
    table = reader.to_arrow()
    assert table.num_rows == len(rows)
    assert table.column_names == [c.name for c in reader.columns]
    for column in reader.columns:
        values = table.column(column.name)
        if column.type == "timestamp":
            assert str(values.type) == "timestamp[ms, tz=UTC]"
            values = values.cast("int64").to_pylist()
            wanted = [v if v is None or isinstance(v, int) else round(v.timestamp() * 1000) for v in
                      (getattr(r, column.name) for r in rows)]
        else:
            values = values.to_pylist()
            wanted = [getattr(r, column.name) for r in rows]
        for value, want in zip(values, wanted):
            if isinstance(value, bytes):
                want = want.encode("utf-8", "surrogateescape")
            assert value == want or (value != value and want != want), (folder, column, value, want)
    print(table.schema)
"""


def test_arrow(build, golden, tmp_path):
    """With pyarrow of PyPI, as Debian has none: case1 has text that isn't UTF-8, and times of any size."""
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", tmp_path], check=True)
    python = tmp_path / "bin/python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "pyarrow==14.0.2"]
    subprocess.run(install, check=True, timeout=300)
    folders = ["case1_simple/db/1_0", "case3_snapshot_binlog_rolled/db/3_0", "case4a_empty/db/41_0"]
    run = subprocess.run(
        [python, "-c", ARROW, *(golden / f for f in folders)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OSYNC_LIBRARY": str(build / "libosync/libosync.so.1"), "PYTHONPATH": str(PACKAGE)},
    )
    assert run.stdout.count("id: string") == len(folders)
    assert "c_string: binary" in run.stdout and "c_string: string" in run.stdout
    assert "c_float: float" in run.stdout and "c_date: date32[day]" in run.stdout


def test_without_pyarrow_the_error_names_the_fix(osync, golden, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        osync.read_table(golden / "case1_simple/db/1_0").to_arrow()


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"folder": "/nonexistent"}, FileNotFoundError, "nonexistent"),
        ({"folder": __file__}, NotADirectoryError, "test_python_table"),
        ({"folder": "GOLDEN"}, FileNotFoundError, "neither snapshot/"),
        ({"meta": "/nonexistent"}, FileNotFoundError, "nonexistent"),
        ({"meta": __file__}, "CorruptError", "test_python_table.py"),
        ({"meta": b"\xff"}, "CorruptError", ""),
        ({"timezone": "No/Where"}, "ConfigError", "No/Where"),
        ({"timezone": "../etc"}, "ConfigError", "../etc"),
        ({"phase": "some"}, ValueError, "phase is one of"),
        ({"base": "some"}, ValueError, "base is one of"),
        ({"from_": 3}, ValueError, "needs phase"),
        ({"start_ts": -1}, ValueError, "negative"),
        ({"folder": []}, ValueError, "no folder"),
    ],
)
def test_what_is_wrong_is_said(osync, golden, arguments, error, words):
    folder = arguments.pop("folder", golden / "case1_simple/db/1_0")
    error = getattr(osync.errors, error) if isinstance(error, str) else error
    with pytest.raises(error, match=words):
        osync.read_table(golden if folder == "GOLDEN" else folder, **arguments)


def test_damage_is_an_exception_that_names_the_file(osync, build, golden):
    case = golden / BROKEN
    meta, damaged = case / "table_meta.pb", 0
    for variant in sorted(p for p in case.iterdir() if (p / "7_0").is_dir()):
        got = []
        try:
            got.extend(osync.read_table(variant / "7_0", meta=meta, phase="binlog"))
        except osync.OsyncError as e:
            assert ".log" in str(e) and not isinstance(e, osync.errors.InvalidError), e
            damaged += 1
        assert len(got) <= len(dump_rows(build, meta, case / "db/7_0", "binlog"))
    assert damaged > 3


PROGRAM = """
import os, sys, tempfile
import osync
rows = osync.read_table(sys.argv[1])
next(rows)
assert os.listdir(os.environ["TMPDIR"])
{end}
assert not os.listdir(os.environ["TMPDIR"]), os.listdir(os.environ["TMPDIR"])
"""


@pytest.mark.parametrize("end", ["rows.close(); rows.close()", "del rows", "list(rows)", "rows.to_pandas()"])
def test_nothing_is_left_behind(build, golden, tmp_path, end):
    subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end), golden / "case3_snapshot_binlog_rolled/db/3_0"],
        check=True,
        timeout=60,
        env={
            **os.environ,
            "OSYNC_LIBRARY": str(build / "libosync/libosync.so.1"),
            "PYTHONPATH": str(PACKAGE),
            "TMPDIR": str(tmp_path),
        },
    )


def test_a_row_that_is_not_one_names_the_partition(osync, golden):
    """Rows of a table, read by another one's description."""
    folder, meta = golden / "case1_simple/db/1_0", golden / "case11_seam_overlap/table_meta.pb"
    with pytest.raises(osync.OsyncError, match="case1_simple/db/1_0"):
        list(osync.read_table(folder, meta=meta))
    with pytest.raises(osync.OsyncError, match="case1_simple/db/1_0"):
        list(osync.read_table(folder, meta=meta).csv())
