"""Prototypes of the reading side: reader.h, row.h, table.h and csv.h."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_bool, c_char, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

from ._native import ErrorPtr, declare

PHASES = {"all": 0, "snapshot": 1, "binlog": 2}
BASES = {"auto": 0, "oldest": 1}
TYPES = {
    1: "bool",
    2: "smallint",
    3: "int",
    4: "bigint",
    5: "float",
    6: "double",
    7: "date",
    8: "timestamp",
    13: "varchar",
    14: "string",
}


class ReaderConfig(ctypes.Structure):
    """osync_reader_config_t"""

    _fields_ = [
        ("size", c_size_t),
        ("phase", c_int),
        ("base", c_int),
        ("binlog_dir", c_char_p),
        ("snapshot_dir", c_char_p),
        ("snapshot_name", c_char_p),
        ("snapshot_offset", c_uint64),
        ("snapshot_count", c_uint64),
        ("scratch_dir", c_char_p),
        ("from_", c_uint64),
        ("start_ts", c_uint64),
        ("point", c_void_p),
        ("point_len", c_size_t),
        ("cancel", POINTER(c_int)),
        ("pauses", c_bool),
    ]


class ReaderRow(ctypes.Structure):
    """osync_reader_row_t"""

    _fields_ = [
        ("phase", c_int),
        ("offset", c_uint64),
        ("pk", c_void_p),
        ("pk_len", c_size_t),
        ("ts", c_uint64),
        ("value", c_void_p),
        ("value_len", c_size_t),
    ]


class SnapshotName(ctypes.Structure):
    """osync_snapshot_name_t"""

    _fields_ = [("name", c_char * 256), ("offset", c_uint64), ("count", c_uint64)]


class _Text(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("len", c_size_t)]


class _Value(ctypes.Union):
    _fields_ = [("i64", c_int64), ("f64", c_double), ("text", _Text)]


class Cell(ctypes.Structure):
    """osync_cell_t"""

    _fields_ = [("null", c_bool), ("value", _Value)]


class CsvConfig(ctypes.Structure):
    """osync_csv_config_t"""

    _fields_ = [("size", c_size_t), ("timezone", c_char_p)]


declare(c_int, "osync_table_from_meta", POINTER(c_void_p), c_char_p, c_size_t, ErrorPtr)
declare(c_int, "osync_table_from_info", POINTER(c_void_p), c_char_p, c_size_t, ErrorPtr)
declare(None, "osync_table_free", c_void_p)
declare(c_char_p, "osync_table_db", c_void_p)
declare(c_char_p, "osync_table_name", c_void_p)
declare(c_uint32, "osync_table_tid", c_void_p)
declare(c_size_t, "osync_table_columns", c_void_p)
declare(c_char_p, "osync_table_column_name", c_void_p, c_size_t)
declare(c_int, "osync_table_column_type", c_void_p, c_size_t)
declare(c_int, "osync_row_cells", POINTER(Cell), c_size_t, c_void_p, c_void_p, c_size_t, ErrorPtr)

declare(c_int, "osync_snapshot_name", POINTER(SnapshotName), c_char_p, ErrorPtr)
declare(None, "osync_reader_config_init", POINTER(ReaderConfig), c_size_t)
declare(c_int, "osync_reader_open", POINTER(c_void_p), c_void_p, POINTER(ReaderConfig), ErrorPtr)
declare(None, "osync_reader_close", c_void_p)
declare(c_int, "osync_reader_next", c_void_p, POINTER(ReaderRow), ErrorPtr)

declare(None, "osync_csv_config_init", POINTER(CsvConfig), c_size_t)
declare(c_int, "osync_csv_new", POINTER(c_void_p), c_void_p, POINTER(CsvConfig), ErrorPtr)
declare(None, "osync_csv_free", c_void_p)
declare(c_int, "osync_csv_add", c_void_p, c_void_p, c_size_t, ErrorPtr)
declare(c_void_p, "osync_csv_data", c_void_p, POINTER(c_size_t))
declare(None, "osync_csv_reset", c_void_p)
