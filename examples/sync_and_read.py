#!/usr/bin/env python3
"""Copies a table to files and reads them with pandas. A script, and a notebook: editors that know `# %%` run it cell by
cell.

    examples/sync_and_read.py demo.trades file:///data/trades /data/openmldb/disk/1_0/table_meta.txt

The scheduler (osync-syncd) is the one that OSYNC_SCHEDULER names, or 127.0.0.1:8848. The last argument is the table's
description, for the names and types of its columns: the table_meta.txt in the folder of any of its partitions. Needs
the packages osync and pandas.
"""

# %% What is copied, and to where
import os
import pathlib
import sys
import urllib.parse

import pandas

import osync

SCHEDULER = os.environ.get("OSYNC_SCHEDULER", "127.0.0.1:8848")
TABLE, DEST, META = sys.argv[1:4]

# %% Copy the table as it is now, and wait until everything is in committed files
with osync.Client(SCHEDULER) as client:
    client.create(TABLE, DEST, mode="full")
    client.wait(TABLE)

# %% Each file is whole, and each row is in one of them
folder = pathlib.Path(urllib.parse.urlsplit(DEST).path)
files = sorted(folder.glob("part-*.csv"))
print(f"{len(files)} files, {sum(f.stat().st_size for f in files)} bytes")

# %% Read them: NULL is null, strings are in quotes with JSON's escapes
columns = osync.Table.from_file(META).columns
TYPES = {"bool": "boolean", "smallint": "Int16", "int": "Int32", "bigint": "Int64"}
TYPES.update({"float": "float32", "double": "float64"})
frame = pandas.concat(
    pandas.read_csv(
        file,
        header=None,
        names=[c.name for c in columns],
        dtype={c.name: TYPES.get(c.type, "string") for c in columns},
        na_values=["null"],
        keep_default_na=False,
        escapechar="\\",
    )
    for file in files
)
for column in columns:
    if column.type in ("date", "timestamp"):
        frame[column.name] = pandas.to_datetime(frame[column.name])

# %% How many values each column has, and how many different ones
summary = pandas.DataFrame({"type": [c.type for c in columns]}, index=[c.name for c in columns])
summary["values"] = frame.count()
summary["different"] = frame.nunique()
print(f"{len(frame)} rows")
print(summary)
