"""The admin client: what an operator asks of osync-syncd (or, for create, delete and task_status, of SyncTool)."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, TextIO, Tuple, Type, TypedDict, Union, cast

from . import _loop, _native, errors
from ._native import lib

# ---- what the answers hold ----


class Answer(TypedDict, total=False):
    """Of create, delete, retry and recover. A message that begins with "warning: " is one."""

    code: int
    msg: str


class Held(TypedDict):
    """A collector that keeps a partition's log, to take over."""

    collector: str
    tablet: Optional[str]
    first_entry: int
    last_entry: int
    pinned_bytes: int
    error: Optional[str]


class Partition(TypedDict):
    """What is known of one partition of a task. `status`: INIT, RUNNING, SUCCESS or FAILED, with its `reason`."""

    pid: int
    status: str
    reason: Optional[str]
    phase: Optional[str]
    destination_ready: bool
    rows: int
    bytes: int
    files: int
    staged_rows: int
    staged_bytes: int
    snapshot_rows: int
    log_tail: int
    collector: Optional[str]
    tablet: Optional[str]
    last_update_ms: int
    held_by: List[Held]


class Task(TypedDict):
    """A sync task. `state`: creating, active or being removed."""

    task_id: str
    db: str
    table: str
    tid: int
    mode: int
    state: str
    dest: str
    created_ms: int
    partitions: List[Partition]


class NotTakenOver(TypedDict):
    """A folder of SyncTool's that this scheduler hasn't taken over yet."""

    folder: str
    reason: Optional[str]


class Status(TypedDict):
    """`ready`: it has read its checkpoint, so that `tasks` are all that there are."""

    ready: bool
    checkpoint: str
    tasks: List[Task]
    not_taken_over: List[NotTakenOver]


class TaskStatus(TypedDict, total=False):
    """TaskStatus in OpenMLDB's own form: `task` and `readableInfo` have one entry for each partition."""

    response: Answer
    task: List[Dict[str, Any]]
    readableInfo: List[str]


class Collector(TypedDict, total=False):
    """`registered`: in ZooKeeper. `lastSeen`: ms. `tasks` and `holds`: "tid-pid"."""

    endpoint: str
    host: str
    registered: bool
    kind: str
    lastSeen: Union[int, str]
    tasks: List[str]
    holds: List[str]


class Collectors(TypedDict, total=False):
    """What is known of collectors; `collectors` is absent if there is none."""

    response: Answer
    collectors: List[Collector]


class Verified(TypedDict, total=False):
    """What an audit found. `response.code` 0: nothing is missing; `report`: line by line."""

    response: Answer
    report: List[str]
    files: Union[int, str]
    rows: Union[int, str]
    bytes: Union[int, str]
    holes: Union[int, str]


class Point(TypedDict):
    """A partition's committed point: `exact` counts, `point` is for people."""

    pid: int
    point: Dict[str, Any]
    exact: str


class TaskFailedError(errors.OsyncError):
    """A partition of the task that is waited for is FAILED: the message has its reason, `partition` what is known."""

    CODE = -10

    def __init__(self, message: str, code: Optional[int] = None, partition: Optional[Partition] = None) -> None:
        super().__init__(message, code)
        self.partition = partition


MODES = {"full": 0, "incremental": 1, "continuous": 2}
STARTS = {"default": 0, "append": 1, "restart": 2, "continue": 3, "points": 4}

Progress = Union[bool, Callable[[Task], None]]

# ---- requests ----

_pending: _loop.Pending[_loop.Future[Any]] = _loop.Pending()


@_native.ClientCb
def _on_answer(arg: int, status: int, text: Optional[int], size: int, err: Any) -> None:
    future = _pending.take(arg)
    if future is None:
        return
    try:
        answer = json.loads(ctypes.string_at(text, size)) if text else None
        if status:
            failure = errors.of(err.contents, status)
            failure.answer = answer
            raise failure
        future.set_result(answer)
    except BaseException as e:
        future.set_exception(e)


def _bytes(text: Optional[str]) -> Optional[bytes]:
    if text is None:
        return None
    data = text.encode()
    if b"\0" in data:
        raise errors.InvalidError(f"{text!r} holds a NUL")
    return data


def _table(name: str) -> Tuple[bytes, bytes]:
    parts = name.split(".")
    if len(parts) != 2 or not all(parts):
        raise errors.InvalidError(f"a table is named as 'db.table', not {name!r}")
    return parts[0].encode(), parts[1].encode()


def _number(value: Union[int, str], names: Dict[str, int], what: str) -> int:
    if isinstance(value, str) and value in names:
        return names[value]
    if isinstance(value, int) and value in names.values():
        return int(value)
    raise errors.InvalidError(f"{what} is one of {', '.join(names)}, not {value!r}")


def report_of(refusal: errors.RpcError) -> Verified:
    """An audit that found something missing comes as a refusal."""
    if refusal.answer and refusal.answer.get("report"):
        return cast(Verified, refusal.answer)
    raise refusal


class Requests:
    """What Client and aio.Client have in common: each method begins a request and gives its future."""

    def __init__(self, scheduler: str, timeout: float, long_timeout: float) -> None:
        self.scheduler = scheduler
        self._handle: Optional[ctypes.c_void_p] = None
        config = _native.ClientConfig()
        lib.osync_client_config_init(config, ctypes.sizeof(config))
        config.scheduler = _bytes(scheduler)
        config.timeout_ms = _native.milliseconds(timeout, "timeout")
        config.long_timeout_ms = _native.milliseconds(long_timeout, "long_timeout")
        self.loop = _loop.get()
        self.loop.wait(self.loop.call(lambda: self._open(config)))

    def _open(self, config: _native.ClientConfig) -> None:
        handle, err = ctypes.c_void_p(), _native.Error()
        errors.check(
            lib.osync_client_new(ctypes.byref(handle), self.loop.address, ctypes.byref(config), ctypes.byref(err)),
            err,
        )
        self._handle = handle
        self.loop.opened(self)

    def close_soon(self) -> _loop.Future[Any]:
        def begin(number: int) -> None:
            handle, self._handle = self._handle, None
            self.loop.closed(self)
            if handle:
                lib.osync_client_close(handle, _loop.on_closed, number)
            else:
                _loop.on_closed(number)

        return self.loop.close(begin)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) and not self.loop.dead:
            handle, self._handle = self._handle, None
            try:
                self.loop.call(lambda: lib.osync_client_close(handle, _loop.on_closed, 0))
            except errors.ClosedError:
                pass

    def _ask(self, function: Any, *arguments: Any) -> _loop.Future[Any]:
        def begin(number: int) -> None:
            if not self._handle:
                raise errors.ClosedError("the client is closed")
            err = _native.Error()
            errors.check(function(self._handle, *arguments, _on_answer, number, ctypes.byref(err)), err)

        return self.loop.ask(_pending, begin)

    def create(
        self,
        table: str,
        dest: str,
        mode: Union[int, str] = 0,
        start_ts: int = 0,
        start: str = "default",
        task_id: Optional[str] = None,
        points: Union[None, str, List[Point]] = None,
    ) -> _loop.Future[Answer]:
        options = _native.CreateOptions()
        lib.osync_create_options_init(options, ctypes.sizeof(options))
        options.mode = _number(mode, MODES, "the mode")
        if not 0 <= start_ts < 1 << 63:
            raise errors.InvalidError(f"start_ts is a timestamp in milliseconds, not {start_ts}")
        options.start_ts = start_ts
        options.dest = _bytes(dest)
        if points is not None and start == "default":
            start = "points"
        options.start = _number(start, STARTS, "start")
        options.task_id = _bytes(task_id)
        options.points = _bytes(points if points is None or isinstance(points, str) else json.dumps(points))
        return self._ask(lib.osync_client_create, *_table(table), options)

    def delete(self, table: str) -> _loop.Future[Answer]:
        return self._ask(lib.osync_client_delete, *_table(table))

    def status(self) -> _loop.Future[Status]:
        return self._ask(lib.osync_client_status)

    def task_status(self) -> _loop.Future[TaskStatus]:
        return self._ask(lib.osync_client_task_status)

    def collectors(self) -> _loop.Future[Collectors]:
        return self._ask(lib.osync_client_collectors)

    def retry(self, table: str) -> _loop.Future[Answer]:
        return self._ask(lib.osync_client_retry, *_table(table))

    def verify(self, table: str, dest: str, quick: bool) -> _loop.Future[Verified]:
        return self._ask(lib.osync_client_verify, *_table(table), _bytes(dest), quick)

    def recover(self, table: str, dest: str, task_id: Optional[str], start_over: bool) -> _loop.Future[Answer]:
        return self._ask(lib.osync_client_recover, *_table(table), _bytes(dest), _bytes(task_id), start_over)

    def points(self, table: str) -> _loop.Future[List[Point]]:
        return self._ask(lib.osync_client_points, *_table(table))


# ---- waiting for the end of a task ----


def fraction(task: Task) -> float:
    """How much of a full sync is done, from 0 to 1: an estimate, since RocksDB's number of rows is one."""
    done = 0.0
    for p in task["partitions"]:
        rows = p["rows"] + p["staged_rows"]
        if p["status"] == "SUCCESS":
            done += 1
        elif p["snapshot_rows"]:
            done += min(0.99, rows / p["snapshot_rows"])
    return done / max(1, len(task["partitions"]))


class _Bar:
    """Progress for people: a bar that moves on a terminal, else a line now and then."""

    LINE_S = 10.0

    def __init__(self, table: str, out: TextIO) -> None:
        self.table, self.out, self.moves = table, out, out.isatty()
        self.width = 0  # of what stands on the terminal's line
        self.said: Tuple[float, str] = (-self.LINE_S, "")

    def show(self, task: Task) -> None:
        rows = sum(p["rows"] for p in task["partitions"])
        ended = sum(p["status"] == "SUCCESS" for p in task["partitions"])
        share, of = fraction(task), len(task["partitions"])
        text = f"{share:4.0%}, {rows:,} rows committed, {ended} of {of} partitions done"
        if self.moves:
            filled = int(share * 24)
            self._replace(f"{self.table} [{'#' * filled}{'.' * (24 - filled)}] {text}")
        else:
            self._line(text.strip())

    def trouble(self, failure: Exception) -> None:
        if self.moves:
            self._replace(f"{self.table}: {failure}")
        else:
            self._line(str(failure))

    def done(self) -> None:
        self.clear()
        self.out.write(f"{self.table}: done\n")
        self.out.flush()

    def clear(self) -> None:
        """Leaves the line to whoever writes next."""
        if self.width:
            self._replace("")
            self.out.write("\r")
            self.out.flush()

    def _replace(self, text: str) -> None:
        try:
            columns = os.get_terminal_size(self.out.fileno()).columns
        except OSError:
            columns = 0
        text = text[: (columns or 80) - 1]  # a line that is broken can't be written over
        self.out.write("\r" + text + " " * max(0, self.width - len(text)))
        self.out.flush()
        self.width = len(text)

    def _line(self, text: str) -> None:
        now = time.monotonic()
        if text != self.said[1] and now - self.said[0] >= self.LINE_S:
            self.said = (now, text)
            self.out.write(f"{self.table}: {text}\n")
            self.out.flush()


class Wait:
    """Waiting for a task, one look after another: `look` is given each page and says whether that was the end."""

    POLL_S = 0.5

    def __init__(self, table: str, progress: Progress, timeout: Optional[float]) -> None:
        _table(table)
        self.table = table
        self.seen = False  # an answer has come
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.tell = progress if callable(progress) else None
        self.bar = _Bar(table, sys.stderr) if progress is True else None

    def look(self, page: Status) -> bool:
        self.seen = True
        tasks = [t for t in page["tasks"] if f"{t['db']}.{t['table']}" == self.table]
        if not tasks:
            if page["ready"] and self.bar:
                self.bar.done()
            return page["ready"]
        task = tasks[0]
        if task["mode"] != 0:
            raise errors.InvalidError(f"{self.table}: a task of mode {task['mode']} doesn't end")
        if self.tell:
            self.tell(task)
        if self.bar:
            self.bar.show(task)
        for p in task["partitions"]:
            if p["status"] == "FAILED":
                reason = p["reason"] or "the scheduler doesn't say why"
                raise TaskFailedError(f"{self.table}, partition {p['pid']}: {reason}", partition=p)
        self._check_time("isn't done")
        return False

    def trouble(self, failure: errors.OsyncError) -> None:
        """Passes a failure on if waiting can't mend it; a scheduler that is started again is waited for."""
        if not self.seen or not failure.retriable or isinstance(failure, errors.RpcError):
            raise failure
        if self.bar:
            self.bar.trouble(failure)
        self._check_time(str(failure))

    def stop(self) -> None:
        if self.bar:
            self.bar.clear()

    def _check_time(self, what: str) -> None:
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise errors.TimedOutError(f"{self.table}: {what}, and the time to wait for it is over")


class Client:
    """A scheduler's client. Any number of threads may use one.

    ::

        with osync.Client("127.0.0.1:8848") as client:
            client.create("db.t1", "hdfs:///warehouse/t1")
            client.wait("db.t1")

    Every failure is an OsyncError: RpcError if the scheduler refuses, with its own words and its `answer`;
    UnknownOutcomeError if the connection broke after a request had gone, so that it may have been done. Ctrl-C ends
    the wait for an answer. Tables are named "db.table".
    """

    def __init__(
        self, scheduler: str = "127.0.0.1:8848", timeout: float = 120.0, long_timeout: float = 86400.0
    ) -> None:
        """Nothing is sent. `timeout`: seconds for an answer; `long_timeout`: for one that takes a look at many files
        (create with `start`, recover, verify)."""
        self._requests = Requests(scheduler, timeout, long_timeout)
        self._wait = self._requests.loop.wait

    def close(self) -> None:
        """Ends what is under way: other threads that wait for an answer get a CanceledError."""
        self._wait(self._requests.close_soon())

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, _t: Optional[Type[BaseException]], _e: Optional[BaseException], _tb: Optional[TracebackType]
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"osync.Client({self._requests.scheduler!r})"

    def create(
        self,
        table: str,
        dest: str,
        mode: Union[int, str] = 0,
        start_ts: int = 0,
        start: str = "default",
        task_id: Optional[str] = None,
        points: Union[None, str, List[Point]] = None,
    ) -> Answer:
        """Creates a sync task.

        `dest`: "hdfs://[namenode]/path", "webhdfs://host:port/path", "file:///path", or a path. `mode`: 0 or "full",
        1 or "incremental" (rows from `start_ts` milliseconds on, and what is put later), 2 or "continuous" (all, and
        what is put later). `start`: what to do if `dest` holds rows of the table already: "default" (warns),
        "append", "restart" (removes them first), "continue" (of `task_id`, if there are several), "points" (begins at
        `points`, which the method of that name gave).
        """
        return self._wait(self._requests.create(table, dest, mode, start_ts, start, task_id, points))

    def delete(self, table: str) -> Answer:
        """Ends the sync; committed files stay."""
        return self._wait(self._requests.delete(table))

    def status(self) -> Status:
        """What every task and partition is doing."""
        return self._wait(self._requests.status())

    def task_status(self) -> TaskStatus:
        """The same as OpenMLDB's helper gets it; SyncTool has it too."""
        return self._wait(self._requests.task_status())

    def collectors(self) -> Collectors:
        """Where collectors are, what each has and keeps for others, and when it was last heard of."""
        return self._wait(self._requests.collectors())

    def retry(self, table: str) -> Answer:
        """Starts what is FAILED again, from its committed point."""
        return self._wait(self._requests.retry(table))

    def verify(self, table: str, dest: str, quick: bool = False) -> Verified:
        """Is a file of `dest` missing, or not what its label says? Then `response.code` isn't 0, and `report` says
        which. `quick` doesn't read the rows."""
        try:
            return self._wait(self._requests.verify(table, dest, quick))
        except errors.RpcError as e:
            return report_of(e)

    def recover(self, table: str, dest: str, task_id: Optional[str] = None, start_over: bool = False) -> Answer:
        """Takes a task up whose checkpoint is lost, from its files' labels. `task_id`: of which task, if there are
        several; `start_over`: partitions without any file begin anew."""
        return self._wait(self._requests.recover(table, dest, task_id, start_over))

    def points(self, table: str) -> List[Point]:
        """The committed points of a table's task, for `create`: exact once the task is at rest."""
        return self._wait(self._requests.points(table))

    def wait(self, table: str, progress: Progress = True, timeout: Optional[float] = None) -> None:
        """Waits until a table's full sync is done, which is when it has no task any more.

        `progress`: True shows a bar on standard error if that is a terminal, else lines; a function is called with
        the Task at each look. Raises TaskFailedError with the reason when a partition is FAILED, TimedOutError when
        `timeout` seconds are over, InvalidError if the task's mode has no end. A scheduler that goes away meanwhile
        is waited for.
        """
        wait = Wait(table, progress, timeout)
        try:
            while True:
                try:
                    page = self.status()
                except errors.OsyncError as e:
                    wait.trouble(e)
                else:
                    if wait.look(page):
                        return
                time.sleep(Wait.POLL_S)
        finally:
            wait.stop()
