"""The package's own libuv loop, in a thread of its own, and what crosses between it and other threads.

All calls of libosync that belong to a loop are made on its thread: `Loop.call` brings them there. Their callbacks come
on it too; they find what they belong to by a number that goes through C as `arg` (`Pending`), so nothing that C holds
can be freed under it, and a late or a double callback finds nothing.

The loop is started at its first use. It ends when the interpreter does, after everything that is open on it was closed.
A child of a fork has no loop thread: it begins anew, with nothing open.
"""

from __future__ import annotations

import atexit
import collections
import concurrent.futures
import ctypes
import itertools
import logging
import os
import queue
import threading
import weakref
from typing import Any, Callable, Deque, Dict, Generic, List, Optional, Tuple, TypeVar

from . import _native, errors
from ._native import lib

T = TypeVar("T")
Future = concurrent.futures.Future
FutureTimeout = concurrent.futures.TimeoutError

EXIT_S = 10.0  # what is open gets so long to close when the interpreter ends
PARK_S = 1.0  # a fork waits so long for the loop to stand still

logger = logging.getLogger("osync")
logger.addHandler(logging.NullHandler())


class Pending(Generic[T]):
    """What callbacks of C belong to, by number."""

    def __init__(self) -> None:
        self._entries: Dict[int, T] = {}
        self._numbers = itertools.count(1)

    def add(self, entry: T) -> int:
        number = next(self._numbers)
        self._entries[number] = entry
        return number

    def take(self, number: int) -> Optional[T]:
        return self._entries.pop(number, None)


def running() -> Future[Any]:
    """A future that can't be canceled by one of those who wait for it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


closings: Pending[Future[Any]] = Pending()


@_native.ClosedCb
def on_closed(arg: int) -> None:
    """The end of an object that was closed under a number of `closings`."""
    future = closings.take(arg)
    if future:
        future.set_result(None)


class Loop:
    """One libuv loop and its thread. `call` may be used from any thread."""

    def __init__(self) -> None:
        self.dead = False  # it has ended, or this process is a child of the one that it runs in
        self._todo: Deque[Tuple[Future[Any], Callable[[], Any]]] = collections.deque()
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.RLock()  # a __del__ may come in the middle
        self._loop = ctypes.create_string_buffer(lib.uv_loop_size())
        self._wake = ctypes.create_string_buffer(lib.uv_handle_size(_native.UV_ASYNC))
        self._on_wake = _native.AsyncCb(self._run_todo)
        self.address = ctypes.addressof(self._loop)
        code = lib.uv_loop_init(self.address)
        if code:
            raise errors.NoMemoryError(f"a libuv loop can't be made: {lib.uv_strerror(code).decode()}")
        code = lib.uv_async_init(self.address, ctypes.addressof(self._wake), self._on_wake)
        if code:
            lib.uv_loop_close(self.address)
            raise errors.InputOutputError(f"a libuv loop can't be made: {lib.uv_strerror(code).decode()}")
        self.thread = threading.Thread(target=self._run, name="osync", daemon=True)
        self.thread.start()

    # ---- from any thread ----

    def call(self, fn: Callable[[], T]) -> Future[T]:
        """Calls fn on the loop's thread; the future has its result, or what it raised."""
        future: Future[Any] = Future()
        with self._lock:
            if self.dead:
                raise errors.ClosedError("the process was forked, or is ending: what was opened before is gone")
            self._todo.append((future, fn))
            lib.uv_async_send(ctypes.addressof(self._wake))
        return future

    def ask(self, pending: Pending[Future[Any]], begin: Callable[[int], None]) -> Future[Any]:
        """A future that a callback fulfils: begin is called on the loop's thread with the number under which it is
        pending."""
        answer = running()

        def start() -> None:
            number = pending.add(answer)
            try:
                begin(number)
            except BaseException as e:
                pending.take(number)
                answer.set_exception(e)

        self.call(start)
        return answer

    def close(self, begin: Callable[[int], None]) -> Future[Any]:
        """The same for the end of an object; those of a loop that has ended have ended with it."""
        try:
            return self.ask(closings, begin)
        except errors.ClosedError:
            answer = running()
            answer.set_result(None)
            return answer

    def wait(self, future: Future[T], timeout: Optional[float] = None) -> T:
        """The future's result. Ctrl-C ends the wait, not the work."""
        if threading.current_thread() is self.thread:
            raise RuntimeError("a callback of osync can't wait for osync: it runs on the thread that does the work")
        return future.result(timeout)

    # ---- on its thread ----

    def opened(self, thing: Any) -> None:
        """`thing.close_soon()` gives a future; it is closed before the loop ends."""
        self._open.add(thing)

    def closed(self, thing: Any) -> None:
        self._open.discard(thing)

    def _run(self) -> None:
        lib.uv_run(self.address, _native.UV_RUN_DEFAULT)
        lib.uv_loop_close(self.address)

    def _run_todo(self, _handle: Any) -> None:
        while self._todo:
            future, fn = self._todo.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(fn())
            except BaseException as e:  # it is the caller's, whatever it is
                future.set_exception(e)

    # ---- its end ----

    def end(self) -> None:
        """Closes what is open, then the loop."""
        try:
            things = self.call(lambda: list(self._open)).result(EXIT_S)
            concurrent.futures.wait([thing.close_soon() for thing in things], EXIT_S)
            self.call(self._close).result(EXIT_S)
            self.thread.join(EXIT_S)
        except (FutureTimeout, errors.OsyncError) as e:
            logger.warning("the loop doesn't end: %s", e or type(e).__name__)
            _abandoned.append(self)

    def _close(self) -> None:
        with self._lock:
            self.dead = True
        lib.uv_close(ctypes.addressof(self._wake), None)

    def park(self) -> threading.Event:
        """Lets the loop stand still until the event is set, so that a fork finds none of its locks held."""
        parked, go_on = threading.Event(), threading.Event()

        def stand_still() -> None:
            parked.set()
            go_on.wait(10 * PARK_S)

        try:
            self.call(stand_still)
            parked.wait(PARK_S)
        except errors.ClosedError:
            pass
        return go_on


_abandoned: List[Loop] = []  # a thread, or the parent process, still uses their memory
_loop: Optional[Loop] = None
_ended = False  # with the interpreter
_loop_lock = threading.Lock()


def get() -> Loop:
    """The process's loop."""
    global _loop
    with _loop_lock:
        if _ended:
            raise errors.ClosedError("the interpreter is ending")
        if _loop is None:
            _log.start()
            _loop = Loop()
        return _loop


# ---- logging ----

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


class _Log:
    """libosync's messages to Python's logging. A thread hands them over: the library holds a lock while it calls its
    hook, and what a handler does (it may use osync itself) mustn't happen under it."""

    def __init__(self) -> None:
        self._hook = _native.LogCb(self._on_message)
        self._messages: queue.SimpleQueue[Optional[Tuple[int, str]]] = queue.SimpleQueue()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        self._messages = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(self._messages,), name="osync-log", daemon=True)
        self._thread.start()
        self.hook(True)

    def hook(self, on: bool) -> None:
        """When it was set to off, no thread is in the hook any more."""
        lib.osync_log_set(ctypes.cast(self._hook, ctypes.c_void_p) if on else None, None, 0)

    def end(self) -> None:
        if self._thread:
            self.hook(False)
            self._messages.put(None)
            self._thread.join(EXIT_S)
            self._thread = None

    def _on_message(self, level: int, message: bytes, _arg: Any) -> None:
        number = _LEVELS[level] if 0 <= level < len(_LEVELS) else logging.ERROR
        if logger.isEnabledFor(number):
            self._messages.put((number, message.decode(errors="replace")))

    @staticmethod
    def _run(messages: queue.SimpleQueue[Optional[Tuple[int, str]]]) -> None:
        while (message := messages.get()) is not None:
            logger.log(message[0], "%s", message[1])


_log = _Log()

# ---- the interpreter's end, and forks ----


def _at_exit() -> None:
    global _loop, _ended
    with _loop_lock:
        loop, _loop, _ended = _loop, None, True
    if loop:
        loop.end()
        _log.end()


_parked: Optional[threading.Event] = None


def _before_fork() -> None:
    global _parked
    _loop_lock.acquire()
    if _loop and threading.current_thread() is not _loop.thread:
        _parked = _loop.park()
    if _loop:
        _log.hook(False)


def _after_fork_in_parent() -> None:
    global _parked
    if _loop:
        _log.hook(True)
    if _parked:
        _parked.set()
        _parked = None
    _loop_lock.release()


def _after_fork_in_child() -> None:
    global _loop, _loop_lock, _parked
    if _loop:
        _loop._lock = threading.RLock()
        _loop.dead = True
        _abandoned.append(_loop)
    _loop, _parked, _loop_lock = None, None, threading.Lock()


atexit.register(_at_exit)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
