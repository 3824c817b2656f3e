"""libosync by ctypes: where it is found, its types and its prototypes. Nothing here decides anything.

Calls release the GIL, callbacks take it. `lib` has the functions of libosync and, by its dependency, of the very libuv
that it runs on.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import sysconfig
from ctypes import POINTER, c_bool, c_char, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

SONAME = "libosync.so.1"
MAJOR = "1"


def _candidates() -> list[str]:
    """Where the library may be: by OSYNC_LIBRARY, by the loader, in the lib folder that this package is below."""
    named = os.environ.get("OSYNC_LIBRARY")
    if named:
        return [named]
    beside = []
    for folder in pathlib.Path(__file__).resolve().parents:
        if folder.name in ("lib", "lib64"):
            multiarch = sysconfig.get_config_var("MULTIARCH")
            for place in [folder, *([folder / multiarch] if multiarch else []), folder.parent / "lib64"]:
                if (place / SONAME).exists():
                    beside.append(str(place / SONAME))
    return [SONAME, *beside]


def _load() -> ctypes.CDLL:
    reasons = []
    for name in _candidates():
        try:
            found = ctypes.CDLL(name)
            found.osync_version.restype = c_char_p
            version = found.osync_version().decode()
        except (OSError, AttributeError) as e:
            reasons.append(str(e))
            continue
        if version.split(".")[0] != MAJOR:
            reasons.append(f"{name} is version {version}, this package needs {MAJOR}.x")
            continue
        return found
    raise ImportError(
        f"libosync can't be loaded: {'; '.join(reasons)}. Install the package libosync1, or name the file in "
        f"OSYNC_LIBRARY (OSYNC_LIBRARY=/opt/osync/lib/{SONAME})."
    )


lib = _load()


def declare(result: Any, name: str, *arguments: Any) -> Any:
    """A function of the library, with its prototype; `lib.NAME` is the same from then on."""
    try:
        function = getattr(lib, name)
    except AttributeError:
        version = lib.osync_version().decode()
        raise ImportError(f"libosync {version} doesn't have {name}: install the version of this package") from None
    function.restype = result
    function.argtypes = list(arguments)
    return function


# ---- error.h, log.h, version.h ----

OSYNC_EOF = -1000


class Error(ctypes.Structure):
    """osync_error_t"""

    _fields_ = [("code", c_int), ("message", c_char * 1020)]


ErrorPtr = POINTER(Error)

declare(c_char_p, "osync_version")
declare(c_char_p, "osync_strerror", c_int)
declare(c_char_p, "osync_err_name", c_int)
declare(c_bool, "osync_err_retriable", c_int)

LogCb = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
declare(None, "osync_log_set", c_void_p, c_void_p, c_int)


def milliseconds(seconds: float, what: str) -> int:
    """As the library takes it."""
    if not 0.001 <= seconds <= 0xFFFFFFFF / 1000:
        raise ValueError(f"{what} is a number of seconds above 0, not {seconds}")
    return int(seconds * 1000)


# ---- libuv ----

UV_ASYNC = 1
UV_RUN_DEFAULT = 0

AsyncCb = ctypes.CFUNCTYPE(None, c_void_p)
declare(c_size_t, "uv_loop_size")
declare(c_size_t, "uv_handle_size", c_int)
declare(c_int, "uv_loop_init", c_void_p)
declare(c_int, "uv_loop_close", c_void_p)
declare(c_int, "uv_run", c_void_p, c_int)
declare(c_int, "uv_async_init", c_void_p, c_void_p, AsyncCb)
declare(c_int, "uv_async_send", c_void_p)
declare(None, "uv_close", c_void_p, c_void_p)
declare(c_char_p, "uv_strerror", c_int)

# ---- client.h ----


class ClientConfig(ctypes.Structure):
    """osync_client_config_t"""

    _fields_ = [("size", c_size_t), ("scheduler", c_char_p), ("timeout_ms", c_uint32), ("long_timeout_ms", c_uint32)]


class CreateOptions(ctypes.Structure):
    """osync_create_options_t"""

    _fields_ = [
        ("size", c_size_t),
        ("mode", c_int),
        ("start_ts", c_uint64),
        ("dest", c_char_p),
        ("start", c_int),
        ("task_id", c_char_p),
        ("points", c_char_p),
    ]


ClosedCb = ctypes.CFUNCTYPE(None, c_void_p)
ClientCb = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_size_t, ErrorPtr)
_ANSWER = (ClientCb, c_void_p, ErrorPtr)

declare(None, "osync_client_config_init", POINTER(ClientConfig), c_size_t)
declare(c_int, "osync_client_new", POINTER(c_void_p), c_void_p, POINTER(ClientConfig), ErrorPtr)
declare(None, "osync_client_close", c_void_p, ClosedCb, c_void_p)
declare(None, "osync_create_options_init", POINTER(CreateOptions), c_size_t)
declare(c_int, "osync_client_create", c_void_p, c_char_p, c_char_p, POINTER(CreateOptions), *_ANSWER)
declare(c_int, "osync_client_delete", c_void_p, c_char_p, c_char_p, *_ANSWER)
declare(c_int, "osync_client_status", c_void_p, *_ANSWER)
declare(c_int, "osync_client_task_status", c_void_p, *_ANSWER)
declare(c_int, "osync_client_collectors", c_void_p, *_ANSWER)
declare(c_int, "osync_client_retry", c_void_p, c_char_p, c_char_p, *_ANSWER)
declare(c_int, "osync_client_verify", c_void_p, c_char_p, c_char_p, c_char_p, c_bool, *_ANSWER)
declare(c_int, "osync_client_recover", c_void_p, c_char_p, c_char_p, c_char_p, c_char_p, c_bool, *_ANSWER)
declare(c_int, "osync_client_points", c_void_p, c_char_p, c_char_p, *_ANSWER)

# ---- stream.h ----

POSITION_MAX = 64 << 10
APPEND_MAX = 64 << 20

ReadyCb = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_size_t)
TroubleCb = ctypes.CFUNCTYPE(None, c_void_p, c_bool, ErrorPtr)
StreamCb = ctypes.CFUNCTYPE(None, c_void_p, c_int, ErrorPtr)


class StreamConfig(ctypes.Structure):
    """osync_stream_config_t"""

    _fields_ = [
        ("size", c_size_t),
        ("dest", c_char_p),
        ("name", c_char_p),
        ("state", c_char_p),
        ("sink", c_void_p),
        ("checkpoint", c_void_p),
        ("hadoop_conf_dir", c_char_p),
        ("hadoop_user", c_char_p),
        ("suffix", c_char_p),
        ("roll_bytes", c_uint64),
        ("roll_interval_ms", c_uint32),
        ("start", c_void_p),
        ("start_len", c_size_t),
        ("on_ready", ReadyCb),
        ("on_trouble", TroubleCb),
        ("on_commit", ReadyCb),
        ("arg", c_void_p),
    ]


class StreamTotals(ctypes.Structure):
    """osync_stream_totals_t"""

    _fields_ = [(n, c_uint64) for n in ("records", "bytes", "files", "pending_records", "pending_bytes")]


declare(None, "osync_stream_config_init", POINTER(StreamConfig), c_size_t)
declare(c_int, "osync_stream_open", POINTER(c_void_p), c_void_p, POINTER(StreamConfig), ErrorPtr)
declare(c_int, "osync_stream_append", c_void_p, c_char_p, c_size_t, c_uint64, c_char_p, c_size_t, StreamCb, c_void_p)
declare(c_int, "osync_stream_commit", c_void_p, StreamCb, c_void_p)
declare(None, "osync_stream_totals", c_void_p, POINTER(StreamTotals))
declare(None, "osync_stream_close", c_void_p, ClosedCb, c_void_p)
