"""Reads the rows of a table from the files of a TabletServer: `read_table`."""

from __future__ import annotations

import collections
import ctypes
import datetime
import errno
import itertools
import os
import pathlib
import re
import struct
import tempfile
import threading
import zoneinfo
from typing import Any, Callable, Dict, Generator, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from typing import Union

from . import _meta, _native, _reader, errors
from ._native import lib

Path = Union[str, "os.PathLike[str]"]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_TEXT = ("string", "varchar")
_META_NAMES = ("table_meta.pb", "table_meta.txt")
_BATCH_ROWS = 65536
_CHUNK_BYTES = 1 << 16


class Column(NamedTuple):
    """A column of a table. `type`: bool, smallint, int, bigint, float, double, date, timestamp, varchar or string."""

    name: str
    type: str


class Table:
    """A table's description: what is needed to understand its rows. Any number of threads may use one.

    `db`, `name`, `tid`; `columns`, in the order of the rows: the base columns, then the added ones.
    """

    def __init__(self, meta: bytes, info: bool = False) -> None:
        """`meta` is a serialized api::TableMeta, or with `info` a nameserver::TableInfo as ZooKeeper has it."""
        self._handle = handle = ctypes.c_void_p()
        err = _native.Error()
        make = lib.osync_table_from_info if info else lib.osync_table_from_meta
        errors.check(make(ctypes.byref(handle), meta, len(meta), ctypes.byref(err)), err)
        self.db = lib.osync_table_db(handle).decode(errors="replace")
        self.name = lib.osync_table_name(handle).decode(errors="replace")
        self.tid: int = lib.osync_table_tid(handle)
        self.columns: Tuple[Column, ...] = tuple(
            Column(
                lib.osync_table_column_name(handle, i).decode(errors="replace"),
                _reader.TYPES[lib.osync_table_column_type(handle, i)],
            )
            for i in range(lib.osync_table_columns(handle))
        )

    def __del__(self, free: Callable[[ctypes.c_void_p], None] = lib.osync_table_free) -> None:
        free(self._handle)  # not earlier: a reader borrows it, also when the interpreter ends

    @classmethod
    def from_file(cls, path: Path) -> "Table":
        """From a file that holds a serialized api::TableMeta or, if its name ends with .txt, one in protobuf's text
        format: the table_meta.txt of a partition's folder."""
        path = pathlib.Path(path)
        data = path.read_bytes()
        if path.suffix == ".txt":
            try:
                data = _meta.from_text(data.decode())
            except ValueError as e:
                raise errors.CorruptError(f"{path}: {e}") from e
        try:
            return cls(data)
        except errors.OsyncError as e:
            raise errors.error(e.code, f"{path}: {e}") from e

    def __repr__(self) -> str:
        return f"<osync.Table {self.db}.{self.name}: {', '.join(f'{c.name} {c.type}' for c in self.columns)}>"


def _date(packed: int) -> datetime.date:
    """Lenient as OpenMLDB's own tool: month 13 is the next January, and day 0 the last one of the month before.
    OverflowError: a year that no date can have."""
    years, month = divmod(packed >> 8 & 255, 12)
    try:
        first = datetime.date(1900 + (packed >> 16) + years, month + 1, 1)
    except ValueError as e:
        raise OverflowError(str(e)) from e
    return first + datetime.timedelta((packed & 255) - 1)


def _or_number(convert: Callable[[int], Any]) -> Callable[[int], Any]:
    def converted(value: int) -> Any:
        try:
            return convert(value)
        except OverflowError:
            return value

    return converted


def _timestamp(zone: datetime.tzinfo) -> Callable[[int], datetime.datetime]:
    delta = datetime.timedelta
    if zone is datetime.timezone.utc:
        return lambda ms: _EPOCH + delta(0, 0, 0, ms)
    return lambda ms: (_EPOCH + delta(0, 0, 0, ms)).astimezone(zone)


def _zone(name: str) -> datetime.tzinfo:
    if name == "UTC":
        return datetime.timezone.utc
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as e:
        raise errors.ConfigError(f"the time zone '{name}' isn't known: it is an IANA name, or UTC") from e


def _utf8(data: bytes) -> str:
    return str(data, "utf-8", "surrogateescape")


class _Place:
    """Where the reading is: the partition, and the row that was read last, valid until the next one."""

    def __init__(self) -> None:
        self.folder = pathlib.Path()
        self.row = _reader.ReaderRow()
        self.err = _native.Error()

    def check(self, code: int) -> None:
        """Raises the exception of a non-zero code; its message names the partition."""
        if code:
            message = str(errors.of(self.err, code))
            raise errors.error(code, message if str(self.folder) in message else f"{self.folder}: {message}")


class _Values:
    """Takes rows apart. `of_type`: what makes the value of a column of that type from a number, or from the bytes of a
    string; where it has nothing they stay as they are."""

    def __init__(self, table: Table, of_type: Dict[str, Callable[[Any], Any]]) -> None:
        types = [c.type for c in table.columns]
        self.table = table
        self.texts = [t in _TEXT for t in types]
        self.converters = [of_type.get(t) for t in types]
        self.cells = (_reader.Cell * len(types))()
        # Of each cell: whether it is NULL, and the two words of its union.
        words = {"float": "dN", "double": "dN", **dict.fromkeys(_TEXT, "PN")}
        gap = _reader.Cell.value.offset - _reader.Cell.null.size
        layout = struct.Struct("@" + "".join(f"?{gap}x{words.get(t, 'qN')}" for t in types))
        assert layout.size == ctypes.sizeof(self.cells)
        self.unpack = layout.unpack

    def of(self, at: _Place) -> List[Any]:
        cells, base, length = self.cells, at.row.value, at.row.value_len
        at.check(lib.osync_row_cells(cells, len(cells), self.table._handle, base, length, at.err))
        words = self.unpack(cells)
        data = ctypes.string_at(base, length)
        out: List[Any] = []
        for null, first, second, text, convert in zip(
            words[0::3], words[1::3], words[2::3], self.texts, self.converters
        ):
            if null:
                out.append(None)
                continue
            if text:
                first = data[first - base : first - base + second] if second else b""
            out.append(convert(first) if convert else first)
        return out


def _open(table: Table, config: _reader.ReaderConfig, cancel: ctypes.c_int, at: _Place) -> ctypes.c_void_p:
    """In a thread, so that Ctrl-C ends it: a window may take long to replay."""
    reader, codes, lock, done = ctypes.c_void_p(), [], threading.Lock(), threading.Event()
    begun = False

    def run() -> None:
        nonlocal begun
        with lock:
            if cancel.value:
                return
            begun = True
        try:
            codes.append(lib.osync_reader_open(ctypes.byref(reader), table._handle, config, at.err))
        finally:
            done.set()

    try:
        threading.Thread(target=run, name="osync-open", daemon=True).start()
        done.wait()
    except BaseException:
        with lock:  # an exception in the midst of start() doesn't tell whether there is a thread
            cancel.value = 1
        if begun:
            done.wait()
        lib.osync_reader_close(reader)
        raise
    at.check(codes[0])
    return reader


def _read(
    table: Table, partitions: Sequence[pathlib.Path], options: Dict[str, Any], at: _Place
) -> Generator[None, None, None]:
    """Each row once; it is where `at` says until the next one is asked for."""
    row, err = at.row, at.err
    for folder in partitions:
        at.folder = folder
        config, cancel = _reader.ReaderConfig(), ctypes.c_int(0)
        lib.osync_reader_config_init(config, ctypes.sizeof(config))
        config.phase, config.base = _reader.PHASES[options["phase"]], _reader.BASES[options["base"]]
        config.from_, config.start_ts = options["from_"], options["start_ts"]
        config.cancel, config.pauses = ctypes.pointer(cancel), True
        config.binlog_dir = os.fsencode(folder / "binlog")
        found = _reader.SnapshotName()
        rc = lib.osync_snapshot_name(found, os.fsencode(folder / "snapshot"), err)
        if rc == 0:
            config.snapshot_name = found.name
            config.snapshot_dir = os.fsencode(folder / "snapshot") + b"/" + found.name
            config.snapshot_offset, config.snapshot_count = found.offset, found.count
        elif rc != errors.NotFoundError.CODE:
            at.check(rc)
        elif options["phase"] == "snapshot":
            continue  # without a snapshot it has no rows
        with tempfile.TemporaryDirectory(prefix="osync-", dir=options["scratch"]) as scratch:
            config.scratch_dir = os.fsencode(scratch)
            reader = _open(table, config, cancel, at)
            try:
                while True:
                    rc = lib.osync_reader_next(reader, row, err)
                    if rc == 0:
                        yield
                    elif rc == _native.OSYNC_EOF:
                        break
                    elif rc != errors.AgainError.CODE:
                        at.check(rc)
            finally:
                lib.osync_reader_close(reader)


def _tuples(
    raw: Generator[None, None, None], values: _Values, make: Callable[[List[Any]], Any], at: _Place
) -> Generator[Any, None, None]:
    of = values.of
    for _ in raw:
        yield make(of(at))


class TableReader(Iterator[Any]):
    """An iterator of the rows of a table's partitions: named tuples, one field a column. Made by `read_table`.

    Like a file it is read once, from the beginning to the end: what `csv`, `to_arrow` and `to_pandas` give are the rows
    that weren't read yet. One thread at a time. `close`, or the end of a `with` block, frees what it holds; so does its
    last row. A column whose name can't be a field's name is called `_0`, `_1`...: by its place.

    `table` is the description, `partitions` the folders that are read, one after the other.
    """

    def __init__(self, table: Table, partitions: Sequence[pathlib.Path], options: Dict[str, Any]) -> None:
        self.table, self.partitions = table, tuple(partitions)
        self._options = options
        self._zone: datetime.tzinfo = options["zone"]
        self._at = _Place()
        # Generators that don't know this object: so they end with it, not when a cycle is found.
        self._raw = _read(table, self.partitions, options, self._at)
        names = [c.name for c in table.columns]
        row_type: Any = collections.namedtuple("Row", names, rename=True)  # type: ignore[misc]
        self.row_type = row_type
        text = {t: _utf8 for t in _TEXT}
        times = {"date": _or_number(_date), "timestamp": _or_number(_timestamp(self._zone))}
        values = _Values(table, {"bool": bool, **text, **times})
        self._rows = _tuples(self._raw, values, self.row_type._make, self._at)

    @property
    def columns(self) -> Tuple[Column, ...]:
        return self.table.columns

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def __next__(self) -> Any:
        return next(self._rows)

    def __enter__(self) -> "TableReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the reading. May be called again."""
        self._rows.close()
        self._raw.close()

    def csv(self, timezone: Optional[str] = None) -> Iterator[bytes]:
        """The rows as lines of CSV, byte for byte as they stand in the files of a sync task (docs/formats.md); some
        lines at a time. `timezone`: of timestamps; by default that of the reader."""
        at, config, csv, length = self._at, _reader.CsvConfig(), ctypes.c_void_p(), ctypes.c_size_t()
        lib.osync_csv_config_init(config, ctypes.sizeof(config))
        config.timezone = (timezone or self._options["timezone"]).encode()
        errors.check(lib.osync_csv_new(ctypes.byref(csv), self.table._handle, config, at.err), at.err)
        failed: Optional[errors.OsyncError] = None
        try:
            try:
                for _ in self._raw:
                    at.check(lib.osync_csv_add(csv, at.row.value, at.row.value_len, at.err))
                    data = lib.osync_csv_data(csv, ctypes.byref(length))
                    if length.value >= _CHUNK_BYTES:
                        yield ctypes.string_at(data, length.value)
                        lib.osync_csv_reset(csv)
            except errors.OsyncError as e:  # after the rows that came before
                failed = e
            data = lib.osync_csv_data(csv, ctypes.byref(length))
            if length.value:
                yield ctypes.string_at(data, length.value)
            if failed:
                raise failed
        finally:
            lib.osync_csv_free(csv)

    # ---- tables ----

    def _batches(self, of_type: Dict[str, Callable[[Any], Any]]) -> Iterator[List[Sequence[Any]]]:
        """Some thousand rows at a time, as a list of columns."""
        values = _Values(self.table, {"bool": bool, "date": _date, **of_type}).of
        rows = (values(self._at) for _ in self._raw)
        while True:
            batch = list(itertools.islice(rows, _BATCH_ROWS))
            if not batch:
                return
            yield list(zip(*batch))

    def to_arrow(self) -> Any:
        """The rows as a pyarrow.Table: DATE is date32, TIMESTAMP timestamp[ms] in the reader's time zone, a string is
        string; binary if a value of its column isn't UTF-8. OverflowError: a DATE that can't be one."""
        try:
            import pyarrow
        except ImportError as e:
            raise ImportError("to_arrow needs pyarrow: pip install pyarrow") from e
        types = {
            "bool": pyarrow.bool_(),
            "smallint": pyarrow.int16(),
            "int": pyarrow.int32(),
            "bigint": pyarrow.int64(),
            "float": pyarrow.float32(),
            "double": pyarrow.float64(),
            "date": pyarrow.date32(),
            "timestamp": pyarrow.timestamp("ms", self._options["timezone"]),
        }
        columns = self.table.columns
        schema = pyarrow.schema([(c.name, types.get(c.type, pyarrow.binary())) for c in columns])
        batches = [
            pyarrow.record_batch([pyarrow.array(v, f.type) for v, f in zip(batch, schema)], schema=schema)
            for batch in self._batches({})
        ]
        out = pyarrow.Table.from_batches(batches, schema)
        for i, column in enumerate(columns):
            if column.type in _TEXT:
                try:
                    out = out.set_column(i, column.name, out.column(i).cast(pyarrow.string()))
                except pyarrow.ArrowInvalid:
                    pass
        return out

    def to_pandas(self) -> Any:
        """The rows as a pandas.DataFrame. Integers and BOOL are of pandas' types that have NULL (Int64, boolean), FLOAT
        and DOUBLE have NaN for NULL, TIMESTAMP is datetime64 in the reader's time zone, or holds datetimes if one of
        its values is beyond that type's years; DATE holds dates. OverflowError: a DATE that can't be one."""
        try:
            import pandas
        except ImportError as e:
            raise ImportError("to_pandas needs pandas: pip install pandas (Debian: python3-pandas)") from e
        types = {"bool": "boolean", "smallint": "Int16", "int": "Int32", "bigint": "Int64"}
        types.update({"float": "float32", "double": "float64"})
        parts: List[List[Any]] = [[] for _ in self.table.columns]
        for batch in self._batches({t: _utf8 for t in _TEXT}):
            for part, values in zip(parts, batch):
                part.extend(values)
        names = [c.name for c in self.table.columns]
        series = []
        for column, values in zip(self.table.columns, parts):
            if column.type == "timestamp":
                numbers = pandas.Series(values, dtype="Int64")
                try:
                    made = pandas.to_datetime(numbers, unit="ms", utc=True).dt.tz_convert(self._options["timezone"])
                except (pandas.errors.OutOfBoundsDatetime, OverflowError):
                    convert = _or_number(_timestamp(self._zone))
                    made = pandas.Series([None if v is None else convert(v) for v in values], dtype=object)
            else:
                made = pandas.Series(values, dtype=types.get(column.type, object))
            series.append(made)
            values.clear()
        out = pandas.concat(series, axis=1) if series else pandas.DataFrame()
        out.columns = names
        return out


_PARTITION = re.compile(r"\d+_\d+")


def _is_partition(folder: pathlib.Path) -> bool:
    empty = _PARTITION.fullmatch(folder.name) and (folder / "table_meta.txt").exists()
    return (folder / "snapshot").is_dir() or (folder / "binlog").is_dir() or bool(empty)


def _find_partitions(folder: pathlib.Path) -> List[pathlib.Path]:
    """The partition itself, or those that a table's (or a TabletServer's) folder holds."""
    if _is_partition(folder):
        return [folder]
    found = [p for p in folder.iterdir() if _PARTITION.fullmatch(p.name) and _is_partition(p)]
    if not found:
        raise FileNotFoundError(
            errno.ENOENT, "neither snapshot/ nor binlog/, nor folders <tid>_<pid> that have them", str(folder)
        )
    return sorted(found, key=lambda p: [int(n) for n in p.name.split("_")])


def _find_table(meta: Union[Table, bytes, Path, None], places: Iterable[pathlib.Path]) -> Table:
    if isinstance(meta, Table):
        return meta
    if isinstance(meta, (bytes, bytearray)):
        return Table(bytes(meta))
    if meta is not None:
        return Table.from_file(meta)
    for place in places:
        for name in _META_NAMES:
            if (place / name).is_file():
                return Table.from_file(place / name)
    raise FileNotFoundError(
        errno.ENOENT,
        f"no {' or '.join(_META_NAMES)}: name the table's description with meta=",
        str(next(iter(places))),
    )


def read_table(
    folder: Union[Path, Sequence[Path]],
    *,
    meta: Union[Table, bytes, Path, None] = None,
    phase: str = "all",
    base: str = "auto",
    timezone: str = "UTC",
    start_ts: int = 0,
    from_: int = 0,
    scratch: Optional[Path] = None,
) -> TableReader:
    """Reads the rows of a table from its files. No TabletServer need run, and nothing is written to what is read.

        for row in osync.read_table("/data/openmldb/disk/10_0"):
            print(row.id, row.ts)
        frame = osync.read_table("/data/openmldb/disk", meta="trades.pb").to_pandas()

    folder: of a partition, with snapshot/ and binlog/ in it; or one that has folders <tid>_<pid>, of which those of the
    table are read; or a list of such folders. A partition's rows come in the reader's order; then comes the next one.

    meta: the table's description: a Table, a serialized api::TableMeta, or a file's name (see Table.from_file). By
    default the table_meta.pb, or the TabletServer's own table_meta.txt, in the folder or the partition or beside it.

    phase: "all", what a full sync delivers; "snapshot", the traverse of the snapshot; "binlog", every put of the log
    that is there, from log index `from_` on. base: "oldest" trusts that the log begins before the snapshot, which the
    times of copied files don't prove. start_ts: rows whose ts (of the first index) is below are left out. scratch:
    where the temporary database of "all" is made; by default Python's folder for temporary files.

    Values: BOOL is bool; SMALLINT, INT and BIGINT int; FLOAT and DOUBLE float; DATE datetime.date; TIMESTAMP an aware
    datetime.datetime in `timezone` (an IANA name); VARCHAR and STRING str, where bytes that aren't UTF-8 are kept as
    surrogateescape has it (value.encode("utf-8", "surrogateescape") gives them back); NULL None. A date or time that
    Python's type can't hold is left as the number that is stored.

    What is wrong with a file is an OsyncError that names it, while the rows are read: CorruptError, GapError...
    """
    if phase not in _reader.PHASES:
        raise ValueError(f"phase is one of {', '.join(_reader.PHASES)}, not {phase!r}")
    if base not in _reader.BASES:
        raise ValueError(f"base is one of {', '.join(_reader.BASES)}, not {base!r}")
    if from_ and phase != "binlog":
        raise ValueError("from_ needs phase='binlog'")
    if from_ < 0 or start_ts < 0:
        raise ValueError("from_ and start_ts can't be negative")
    folders = [pathlib.Path(folder)] if isinstance(folder, (str, os.PathLike)) else [pathlib.Path(f) for f in folder]
    if not folders:
        raise ValueError("no folder is named")
    found = [(f, _find_partitions(f)) for f in folders]
    first, partitions = found[0]
    table = _find_table(meta, [first, *partitions, first.resolve().parent])
    read = []
    for top, partitions in found:
        mine = [p for p in partitions if p == top or p.name.split("_")[0] == str(table.tid)]
        if not mine:
            raise FileNotFoundError(errno.ENOENT, f"no folder {table.tid}_<pid>: no partition of the table", str(top))
        read += mine
    options = {"phase": phase, "base": base, "from_": from_, "start_ts": start_ts, "timezone": timezone}
    return TableReader(table, read, {**options, "zone": _zone(timezone), "scratch": scratch})
