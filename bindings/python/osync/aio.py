"""Client and Sink for asyncio: the same calls, awaited. The work is done on the package's own loop; a coroutine that is
canceled stops waiting for it."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Any, Awaitable, Callable, List, Optional, Type, TypeVar, Union

from . import _loop, errors
from .client import Answer, Collectors, Point, Progress, Requests, Status, TaskStatus, Verified, Wait, report_of
from .sink import Data, Totals, Writer

__all__ = ["Client", "Sink"]

T = TypeVar("T")


def _await(future: _loop.Future[T]) -> Awaitable[T]:
    return asyncio.wrap_future(future)


class Client:
    """osync.Client for asyncio; see there."""

    def __init__(
        self, scheduler: str = "127.0.0.1:8848", timeout: float = 120.0, long_timeout: float = 86400.0
    ) -> None:
        self._requests = Requests(scheduler, timeout, long_timeout)

    async def close(self) -> None:
        await _await(self._requests.close_soon())

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, _t: Optional[Type[BaseException]], _e: Optional[BaseException], _tb: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def create(
        self,
        table: str,
        dest: str,
        mode: Union[int, str] = 0,
        start_ts: int = 0,
        start: str = "default",
        task_id: Optional[str] = None,
        points: Union[None, str, List[Point]] = None,
    ) -> Answer:
        """As osync.Client.create."""
        return await _await(self._requests.create(table, dest, mode, start_ts, start, task_id, points))

    async def delete(self, table: str) -> Answer:
        """As osync.Client.delete."""
        return await _await(self._requests.delete(table))

    async def status(self) -> Status:
        """As osync.Client.status."""
        return await _await(self._requests.status())

    async def task_status(self) -> TaskStatus:
        """As osync.Client.task_status."""
        return await _await(self._requests.task_status())

    async def collectors(self) -> Collectors:
        """As osync.Client.collectors."""
        return await _await(self._requests.collectors())

    async def retry(self, table: str) -> Answer:
        """As osync.Client.retry."""
        return await _await(self._requests.retry(table))

    async def verify(self, table: str, dest: str, quick: bool = False) -> Verified:
        """As osync.Client.verify."""
        try:
            return await _await(self._requests.verify(table, dest, quick))
        except errors.RpcError as e:
            return report_of(e)

    async def recover(self, table: str, dest: str, task_id: Optional[str] = None, start_over: bool = False) -> Answer:
        """As osync.Client.recover."""
        return await _await(self._requests.recover(table, dest, task_id, start_over))

    async def points(self, table: str) -> List[Point]:
        """As osync.Client.points."""
        return await _await(self._requests.points(table))

    async def wait(self, table: str, progress: Progress = True, timeout: Optional[float] = None) -> None:
        """As osync.Client.wait."""
        wait = Wait(table, progress, timeout)
        try:
            while True:
                try:
                    page = await self.status()
                except errors.OsyncError as e:
                    wait.trouble(e)
                else:
                    if wait.look(page):
                        return
                await asyncio.sleep(Wait.POLL_S)
        finally:
            wait.stop()


class Sink:
    """osync.Sink for asyncio; see there. Opened by `async with`, or by awaiting `open`::

        async with osync.aio.Sink("file:///tmp/out", "clicks", state="clicks.db") as sink:
            await sink.write(line, position)

    A write that is canceled has written nothing.
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
    ) -> None:
        self._writer = Writer(
            dest, name, state, start, suffix, roll_bytes, roll_interval, hadoop_conf_dir, hadoop_user, on_commit
        )

    async def open(self) -> "Sink":
        """Waits until the stream can be written; `position` is known then."""
        await self._again(self._writer.try_ready)
        return self

    @property
    def position(self) -> bytes:
        """The committed position: everything before it is in committed files."""
        return self._writer.position

    async def totals(self) -> Totals:
        """How much was committed, and what is to be."""
        return await _await(self._writer.totals_soon())

    async def write(self, data: Data, position: bytes, records: int = 1) -> None:
        """As osync.Sink.write."""
        await self._again(lambda: self._writer.try_write(data, position, records))

    async def commit(self) -> None:
        """As osync.Sink.commit."""
        try:
            await _await(self._writer.commit_soon())
        except errors.AgainError:
            await self._again(self._writer.try_ready)
            self._writer.check_rewound()
            raise

    roll = commit

    async def close(self) -> None:
        """As osync.Sink.close."""
        await _await(self._writer.close_soon())
        self._writer.check_callback()

    async def __aenter__(self) -> "Sink":
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], _e: Optional[BaseException], _tb: Optional[TracebackType]
    ) -> None:
        try:
            if kind is None:
                await self.commit()
        finally:
            await self.close()

    @staticmethod
    async def _again(attempt: Callable[[], Optional[_loop.Future[Any]]]) -> None:
        while (change := attempt()) is not None:
            await _await(change)
