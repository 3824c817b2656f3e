"""Exceptions: one class for each error code of libosync, all of them OsyncError."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, Type

from . import _native


class OsyncError(Exception):
    """Something that libosync refused or couldn't do. Its text names the thing, what went wrong and the cause.

    `code` is the OSYNC_E... number, `name` its name ("OSYNC_ENOENT"), `message` the text; `retriable` says that waiting
    or trying again can mend it. `answer` is what a scheduler answered when it refused, as a dict; else None.
    """

    CODE: int = 0
    answer: Optional[Dict[str, Any]] = None

    def __init__(self, message: str, code: Optional[int] = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.CODE if code is None else code

    @property
    def name(self) -> str:
        return str(_native.lib.osync_err_name(self.code).decode())

    @property
    def retriable(self) -> bool:
        return bool(_native.lib.osync_err_retriable(self.code))

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.message, self.code), {"answer": self.answer}


class NoMemoryError(OsyncError, MemoryError):
    """Out of memory."""

    CODE = -1


class InvalidError(OsyncError, ValueError):
    """An argument that makes no sense."""

    CODE = -2


class InputOutputError(OsyncError):
    """A read or a write failed."""

    CODE = -3


class NotFoundError(OsyncError, LookupError):
    """What was named isn't there."""

    CODE = -4


class ExistsError(OsyncError):
    """What was to be made is there already."""

    CODE = -5


class CorruptError(OsyncError, ValueError):
    """Bytes that aren't what they should be."""

    CODE = -6


class TooBigError(OsyncError, ValueError):
    """A limit was exceeded; the message names it."""

    CODE = -7


class TimedOutError(OsyncError, TimeoutError):
    """No answer in time."""

    CODE = -8


class ConnectError(OsyncError, ConnectionError):
    """The connection failed: nothing was done."""

    CODE = -9


class RpcError(OsyncError):
    """The scheduler has refused; the message is its own, `answer` what it sent."""

    CODE = -10


class CanceledError(OsyncError):
    """The object was closed while the call was under way."""

    CODE = -11


class ConflictError(OsyncError):
    """Another process has taken it over."""

    CODE = -12


class CrossDeviceError(OsyncError):
    """Two paths that aren't on one file system."""

    CODE = -13


class NotSupportedError(OsyncError, NotImplementedError):
    """Not supported."""

    CODE = -14


class SchemaError(OsyncError):
    """A row has a schema version that the table's description doesn't know."""

    CODE = -15


class GapError(OsyncError):
    """The log doesn't hold what is needed."""

    CODE = -16


class DivergedError(OsyncError):
    """It isn't the log that was read before."""

    CODE = -17


class AgainError(OsyncError):
    """Not now; try again."""

    CODE = -18


class DeniedError(OsyncError, PermissionError):
    """The file system or the server doesn't allow it."""

    CODE = -19


class NoSpaceError(OsyncError):
    """No space left."""

    CODE = -20


class ConfigError(OsyncError, ValueError):
    """The configuration is wrong; the message names the key."""

    CODE = -21


class UnknownOutcomeError(OsyncError):
    """The connection broke after the request had gone: it may have been done."""

    CODE = -22


class ClosedError(OsyncError):
    """The object is closed."""

    CODE = -23


class EndOfDataError(OsyncError, EOFError):
    """Nothing more for now."""

    CODE = _native.OSYNC_EOF


BY_CODE: Dict[int, Type[OsyncError]] = {c.CODE: c for c in OsyncError.__subclasses__()}


def error(code: int, message: str = "") -> OsyncError:
    """The exception of an error code; without a message it has the code's own text."""
    text = message or _native.lib.osync_strerror(code).decode()
    return BY_CODE.get(code, OsyncError)(text, code)


def of(err: "_native.Error", code: Optional[int] = None) -> OsyncError:
    """The exception of a filled osync_error_t; `code` is what the call returned."""
    return error(err.code if code is None else code, err.message.decode(errors="replace"))


def check(code: int, err: Optional["_native.Error"] = None) -> None:
    """Raises the exception of a non-zero return code."""
    if code == 0:
        return
    raise of(err, code) if err is not None else error(code)
