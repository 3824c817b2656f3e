"""libosync for Python: OpenMLDB online tables to offline storage, each row exactly once.

- `Client`: what an operator asks of a scheduler; `Sink`: a stream of one's own on HDFS or a local folder, exactly once;
  both awaited in `osync.aio`.
- `read_table`: the rows of a table from a TabletServer's files, as a `TableReader`; `Table`: its columns.
- `errors`: an exception for each error code; all of them are `OsyncError`.

libosync's messages go to the logger "osync". The package runs libosync in a thread of its own, which is started by the
first Client or Sink and ends with the interpreter. After a fork a child begins anew, with nothing open.
"""

from . import errors
from ._native import lib as _lib
from .client import Client, TaskFailedError
from .errors import OsyncError
from .sink import Rewound, Sink
from .table import Column, Table, TableReader, read_table

try:
    from ._version import VERSION as __version__
except ImportError:  # a source tree
    __version__ = _lib.osync_version().decode()

__all__ = [
    "Client",
    "Column",
    "OsyncError",
    "Rewound",
    "Sink",
    "Table",
    "TableReader",
    "TaskFailedError",
    "errors",
    "read_table",
]
