"""A sink for a stream of the caller's own: bytes put on HDFS or a local folder in whole files, each exactly once."""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Tuple, Type, Union

from . import _loop, _native, errors
from ._native import lib

Data = Union[bytes, bytearray, memoryview, str]

_AGAIN = errors.AgainError.CODE
BUFFER_BYTES = 1 << 20  # as much may wait for the sink before `write` waits


class Rewound(errors.OsyncError):
    """The sink went back to its committed `position`: what was written behind it is gone, and to be written again."""

    CODE = _AGAIN

    def __init__(self, message: str, code: Optional[int] = None, position: bytes = b"") -> None:
        super().__init__(message, code)
        self.position = position

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.message, self.code, self.position)


class Totals(NamedTuple):
    """`records`, `bytes`, `files`: committed, since the stream began; the others: taken, not yet committed."""

    records: int
    bytes: int
    files: int
    pending_records: int
    pending_bytes: int


class _Item(NamedTuple):
    data: bytes
    position: bytes
    records: int


class _Append(NamedTuple):
    sink: weakref.ref[Writer]
    era: int
    data: bytes  # the library's until the callback


# The library's callbacks, by the number of what they belong to.
_appends: _loop.Pending[_Append] = _loop.Pending()
_commits: _loop.Pending[_loop.Future[Any]] = _loop.Pending()
_writers: weakref.WeakValueDictionary[int, Writer] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


@_native.ReadyCb
def _on_ready(arg: int, position: Optional[int], size: int) -> None:
    writer = _writers.get(arg)
    if writer:
        writer._ready(ctypes.string_at(position, size) if position else b"")


@_native.TroubleCb
def _on_trouble(arg: int, permanent: bool, err: Any) -> None:
    writer = _writers.get(arg)
    if writer:
        writer._in_trouble(permanent, errors.of(err.contents) if err else errors.error(_AGAIN))


@_native.ReadyCb
def _on_commit(arg: int, position: Optional[int], size: int) -> None:
    writer = _writers.get(arg)
    if writer:
        writer._committed(ctypes.string_at(position, size) if position else b"")


@_native.StreamCb
def _on_taken(arg: int, status: int, err: Any) -> None:
    append = _appends.take(arg)
    writer = append.sink() if append else None
    if append and writer:
        writer._taken(status, append.era)


@_native.StreamCb
def _on_commit_done(arg: int, status: int, err: Any) -> None:
    future = _commits.take(arg)
    if future is None:
        return
    if status:
        future.set_exception(errors.of(err.contents, status) if err else errors.error(status))
    else:
        future.set_result(None)


class Writer:
    """What Sink and aio.Sink have in common. Nothing here waits: the `try_` methods give None, or the future of a
    change after which to try again.

    Records wait in `_queue` and are handed to the library in as few appends as there can be: one at a time, with all
    that has come meanwhile. A commit is a future in the queue. `_era` counts how often the stream has been made ready;
    what was written in an earlier one is gone.
    """

    def __init__(
        self,
        dest: str,
        name: str,
        state: Union[str, "os.PathLike[str]"],
        start: bytes = b"",
        suffix: str = "",
        roll_bytes: int = 128 << 20,
        roll_interval: float = 60.0,
        hadoop_conf_dir: Union[None, str, "os.PathLike[str]"] = None,
        hadoop_user: Optional[str] = None,
        on_commit: Optional[Callable[[bytes], None]] = None,
    ) -> None:
        self.name = name
        self._handle: Optional[ctypes.c_void_p] = None
        self._closed = False
        self._lock = threading.RLock()
        self._changed = _loop.running()
        self._queue: Deque[Union[_Item, _loop.Future[Any]]] = collections.deque()
        self._queued = 0  # bytes
        self._appending = False
        self._pump_due = False
        self._is_ready = False
        self._era = 0
        self._seen_era = 1  # the caller knows of
        self._position = b""
        self._trouble: Optional[errors.OsyncError] = None
        self._permanent = False
        self._user_failure: Optional[BaseException] = None
        self._user_on_commit = on_commit
        self._number = next(_numbers)
        _writers[self._number] = self
        config = _native.StreamConfig()
        lib.osync_stream_config_init(config, ctypes.sizeof(config))
        config.dest = _text(dest, "dest")
        config.name = _text(name, "name")
        config.state = _text(os.fspath(state), "state")
        config.hadoop_conf_dir = None if hadoop_conf_dir is None else _text(os.fspath(hadoop_conf_dir), "conf_dir")
        config.hadoop_user = None if hadoop_user is None else _text(hadoop_user, "hadoop_user")
        config.suffix = _text(suffix, "suffix")
        if not 0 < roll_bytes < 1 << 63:
            raise errors.InvalidError(f"roll_bytes is a number above 0, not {roll_bytes}")
        config.roll_bytes = roll_bytes
        config.roll_interval_ms = _native.milliseconds(roll_interval, "roll_interval")
        begin = ctypes.create_string_buffer(_as_bytes(start), max(1, len(start)))
        config.start = ctypes.addressof(begin)
        config.start_len = len(start)
        config.on_ready, config.on_trouble, config.on_commit = _on_ready, _on_trouble, _on_commit
        config.arg = self._number
        self.loop = _loop.get()
        self.loop.wait(self.loop.call(lambda: self._open(config, begin)))

    def _open(self, config: _native.StreamConfig, _start: Any) -> None:
        handle, err = ctypes.c_void_p(), _native.Error()
        errors.check(
            lib.osync_stream_open(ctypes.byref(handle), self.loop.address, ctypes.byref(config), ctypes.byref(err)),
            err,
        )
        self._handle = handle
        self.loop.opened(self)

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle and not self.loop.dead:
            self._handle = None
            try:
                self.loop.call(lambda: lib.osync_stream_close(handle, _loop.on_closed, 0))
            except errors.ClosedError:
                pass

    # ---- of the caller's threads ----

    @property
    def position(self) -> bytes:
        return self._position

    def try_ready(self) -> Optional[_loop.Future[Any]]:
        with self._lock:
            self._check()
            return None if self._is_ready else self._changed

    def try_write(self, data: Data, position: bytes, records: int) -> Optional[_loop.Future[Any]]:
        item = _Item(_as_bytes(data.encode() if isinstance(data, str) else data), _as_bytes(position), records)
        if len(item.data) > _native.APPEND_MAX:
            raise errors.TooBigError(f"{len(item.data)} bytes are too many for one write: {_native.APPEND_MAX}")
        if len(item.position) > _native.POSITION_MAX:
            raise errors.TooBigError(f"a position has {_native.POSITION_MAX} bytes at most, not {len(item.position)}")
        if not 0 <= records < 1 << 64:
            raise errors.InvalidError(f"there can't be {records} records")
        with self._lock:
            self._check()
            self._check_era()
            if not self._is_ready or self._queued >= BUFFER_BYTES:
                return self._changed
            self._queue.append(item)
            self._queued += len(item.data) + len(item.position)
            self._pump_soon()
        return None

    def commit_soon(self) -> _loop.Future[Any]:
        """AgainError: the stream isn't in the caller's era any more; once it is ready, `check_rewound` says so."""
        future = _loop.running()
        with self._lock:
            self._check()
            if self._era != self._seen_era or not self._is_ready:
                future.set_exception(errors.error(_AGAIN))
            else:
                self._queue.append(future)
                self._pump_soon()
        return future

    def check_rewound(self) -> None:
        """Once the stream is ready again."""
        with self._lock:
            self._check_era()

    def trouble_text(self) -> str:
        return f": {self._trouble}" if self._trouble else ""

    def totals_soon(self) -> _loop.Future[Totals]:
        def ask() -> Totals:
            totals = _native.StreamTotals()
            if not self._handle:
                raise errors.ClosedError(f"the sink {self.name} is closed")
            lib.osync_stream_totals(self._handle, ctypes.byref(totals))
            return Totals(*(getattr(totals, n) for n in Totals._fields))

        return self.loop.call(ask)

    def close_soon(self) -> _loop.Future[Any]:
        def begin(number: int) -> None:
            handle, self._handle = self._handle, None
            self.loop.closed(self)
            self._drop_queue(errors.CanceledError(f"the sink {self.name} was closed"))
            self._change()
            if handle:
                lib.osync_stream_close(handle, _loop.on_closed, number)
            else:
                _loop.on_closed(number)

        self._closed = True
        return self.loop.close(begin)

    def check_callback(self) -> None:
        failure, self._user_failure = self._user_failure, None
        if failure:
            raise failure

    def _check(self) -> None:
        self.check_callback()
        if self._closed or self.loop.dead:
            raise errors.ClosedError(f"the sink {self.name} is closed")
        if self._permanent and self._trouble:
            raise errors.error(self._trouble.code, self._trouble.message)

    def _check_era(self) -> None:
        if self._is_ready and self._era != self._seen_era:
            self._seen_era = self._era
            raise Rewound(
                f"the sink {self.name} went back to its committed position{self.trouble_text()}",
                position=self._position,
            )

    def _pump_soon(self) -> None:
        if not self._pump_due and not self._appending:
            self._pump_due = True
            self.loop.call(self._pump)

    # ---- of the loop's thread ----

    def _pump(self) -> None:
        """Hands over what waits, as far as it goes."""
        with self._lock:
            self._pump_due = False
        while self._handle and not self._appending:
            with self._lock:
                batch = self._next_batch()
            if batch is None:
                return
            if isinstance(batch, _Item):
                self._append(batch)
            else:
                self._commit(batch)

    def _next_batch(self) -> Union[None, _Item, _loop.Future[Any]]:
        items: List[_Item] = []
        size = 0
        while self._queue and isinstance(self._queue[0], _Item):
            if items and size + len(self._queue[0].data) > _native.APPEND_MAX:
                break
            item = self._queue.popleft()
            assert isinstance(item, _Item)
            size += len(item.data)
            self._queued -= len(item.data) + len(item.position)
            items.append(item)
        if items:
            records = sum(i.records for i in items)
            return _Item(b"".join(i.data for i in items), items[-1].position, records)
        return self._queue.popleft() if self._queue else None

    def _append(self, item: _Item) -> None:
        number = _appends.add(_Append(weakref.ref(self), self._era, item.data))
        self._appending = True
        code = lib.osync_stream_append(
            self._handle,
            item.data,
            len(item.data),
            item.records,
            item.position,
            len(item.position),
            _on_taken,
            number,
        )
        if code:
            _appends.take(number)
            self._taken(code, self._era)

    def _commit(self, future: _loop.Future[Any]) -> None:
        number = _commits.add(future)
        code = lib.osync_stream_commit(self._handle, _on_commit_done, number)
        if code:
            _commits.take(number)
            future.set_exception(errors.error(code))

    def _taken(self, code: int, era: int) -> None:
        self._appending = False
        if code and era == self._era and self._is_ready:  # nothing more of this era is handed over
            self._in_trouble(code != _AGAIN, errors.error(code))
        self._change()
        self._pump()

    def _ready(self, position: bytes) -> None:
        with self._lock:
            self._era += 1
            self._is_ready = True
            self._position = position
        self._change()

    def _in_trouble(self, permanent: bool, failure: errors.OsyncError) -> None:
        with self._lock:
            self._is_ready = False
            self._permanent = self._permanent or permanent
            self._trouble = failure
        self._drop_queue(errors.error(_AGAIN, failure.message))
        self._change()

    def _committed(self, position: bytes) -> None:
        self._position = position
        if self._user_on_commit:
            try:
                self._user_on_commit(position)
            except BaseException as e:  # the caller's next call raises it
                self._user_failure = e

    def _drop_queue(self, failure: errors.OsyncError) -> None:
        with self._lock:
            dropped, self._queue, self._queued = self._queue, collections.deque(), 0
        for entry in dropped:
            if not isinstance(entry, _Item):
                entry.set_exception(failure)

    def _change(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, _loop.running()
        changed.set_result(None)


def _as_bytes(data: Union[bytes, bytearray, memoryview]) -> bytes:
    """A copy, unless nobody can change it. (bytes(7) would be seven zeros.)"""
    return data if isinstance(data, bytes) else bytes(memoryview(data))


def _text(text: str, what: str) -> bytes:
    data = text.encode()
    if b"\0" in data:
        raise errors.InvalidError(f"{what} {text!r} holds a NUL")
    return data


class Sink:
    """Puts records on HDFS or a local folder exactly once, whatever is killed and when.

    Each record is written with the position that follows it: bytes that mean something to the caller, an offset or a
    cursor. Files and the position at their end are committed in one step; `position` is where the committed files end,
    also after a crash, and the caller goes on from there::

        with osync.Sink("hdfs:///warehouse/clicks", "clicks", state="clicks.db", suffix=".jsonl") as sink:
            while True:
                try:
                    for offset, line in read_from(int(sink.position or b"0")):
                        sink.write(line, str(offset + len(line)).encode())
                    sink.commit()
                    break
                except osync.Rewound:
                    pass  # the sink was away; what was written behind sink.position is gone

    Files are committed when they hold `roll_bytes`, `roll_interval` seconds after their first record, and by
    `commit`. Leaving the `with` block commits, unless by an exception; `close` alone doesn't.

    A sink is used by one thread at a time. Only one process has a stream (`dest` and `name`) open: when another one
    takes it over, each call raises ConflictError. A permanent failure is raised by each call.
    """

    def __init__(
        self,
        dest: str,
        name: str,
        *,
        state: Union[str, "os.PathLike[str]"],
        start: bytes = b"",
        suffix: str = "",
        roll_bytes: int = 128 << 20,
        roll_interval: float = 60.0,
        hadoop_conf_dir: Union[None, str, "os.PathLike[str]"] = None,
        hadoop_user: Optional[str] = None,
        on_commit: Optional[Callable[[bytes], None]] = None,
        timeout: Optional[float] = None,
    ) -> None:
        """Opens the stream and waits until it can be written.

        `dest`: "hdfs://[namenode]/path", "webhdfs://host:port/path", "file:///path", or a path on fs.defaultFS.
        `name`: of the stream, in every file's name. `state`: a file for the checkpoint, of this sink alone; if it is
        lost, the stream finds out from the files where it was. `start`: the position of a stream that has none yet.
        `on_commit` is called with each committed position, on osync's own thread; what it raises, the next call on
        the sink raises. `timeout`: seconds that a call waits while the destination is away before it raises
        TimedOutError (then nothing was written by it, and it may be called again); None is for ever.
        """
        self._timeout = timeout
        self._writer = Writer(
            dest, name, state, start, suffix, roll_bytes, roll_interval, hadoop_conf_dir, hadoop_user, on_commit
        )
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    @property
    def position(self) -> bytes:
        """The committed position: everything before it is in committed files."""
        return self._writer.position

    @property
    def totals(self) -> Totals:
        """How much was committed, and what is to be."""
        return self._writer.loop.wait(self._writer.totals_soon())

    def write(self, data: Data, position: bytes, records: int = 1) -> None:
        """Writes a record, or several that stay together (text as UTF-8), and moves to `position`. Waits while the
        sink can't take more. Raises Rewound."""
        self._again(lambda: self._writer.try_write(data, position, records))

    def commit(self) -> None:
        """Commits what was written, and returns when it is. Raises Rewound."""
        future = self._writer.commit_soon()
        try:
            self._result(future)
        except errors.AgainError:
            self._wait_ready()
            self._writer.check_rewound()
            raise

    roll = commit

    def close(self) -> None:
        """Ends the stream without committing what is pending. Twice is fine."""
        self._writer.loop.wait(self._writer.close_soon())
        self._writer.check_callback()

    def __enter__(self) -> "Sink":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], _e: Optional[BaseException], _tb: Optional[TracebackType]
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<osync.Sink {self._writer.name} at {self.position!r}>"

    def _wait_ready(self) -> None:
        self._again(self._writer.try_ready)

    def _again(self, attempt: Callable[[], Optional[_loop.Future[Any]]]) -> None:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while (change := attempt()) is not None:
            self._result(change, deadline)

    def _result(self, future: _loop.Future[Any], deadline: Optional[float] = None) -> None:
        if deadline is None and self._timeout is not None:
            deadline = time.monotonic() + self._timeout
        try:
            self._writer.loop.wait(future, None if deadline is None else max(0.0, deadline - time.monotonic()))
        except _loop.FutureTimeout:
            if future.done():  # it has failed by a time-out of its own, or was late by no more than this
                future.result()
                return
            text = f"the sink {self._writer.name} can't be reached in time{self._writer.trouble_text()}"
            raise errors.TimedOutError(text) from None
