"""The Python package without servers: run by test_python.py, as it is and with a sanitized library. Wants OSYNC_LIBRARY
and the package on its path."""

import asyncio
import contextlib
import gc
import http.server
import io
import json
import logging
import os
import pathlib
import pickle
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock

import osync
import osync.aio
from osync import _loop, errors
from osync._native import lib


class Answering(http.server.ThreadingHTTPServer):
    """A scheduler that answers with what `answer(path, message)` gives: a dict, bytes, or None for nothing at all."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer, port=0):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self, message):
                got = answer(self.path, message)
                if got is None:
                    time.sleep(0.5)
                    self.close_connection = True
                    return
                body = got if isinstance(got, bytes) else json.dumps(got).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def do_GET(self):
                self.reply(None)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


def page(*partitions, mode=0, ready=True):
    known = {"reason": None, "rows": 0, "staged_rows": 0, "snapshot_rows": 100, "status": "RUNNING"}
    parts = [{**known, "pid": i, **p} for i, p in enumerate(partitions)]
    tasks = [{"db": "db", "table": "t", "mode": mode, "state": "active", "partitions": parts}] if parts else []
    return {"ready": ready, "tasks": tasks, "not_taken_over": []}


class Errors(unittest.TestCase):
    def test_every_code_has_a_class_of_its_own(self):
        codes = [*range(-1, -24, -1), -1000]
        self.assertEqual(lib.osync_err_name(-24), b"OSYNC_?", "libosync has a new code: give it a class")
        self.assertEqual(sorted(errors.BY_CODE), sorted(codes))
        for code in codes:
            e = errors.error(code, "what went wrong")
            self.assertEqual((e.code, e.name, str(e)), (code, lib.osync_err_name(code).decode(), "what went wrong"))
            self.assertEqual(e.retriable, lib.osync_err_retriable(code))
            copy = pickle.loads(pickle.dumps(e))
            self.assertEqual((type(copy), copy.code, copy.message), (type(e), code, "what went wrong"))
        self.assertEqual(len({type(errors.error(c)) for c in codes}), len(codes))

    def test_they_are_pythons_own_too_where_that_is_natural(self):
        for code, kind in [(-8, TimeoutError), (-9, ConnectionError), (-19, PermissionError), (-1, MemoryError)]:
            self.assertIsInstance(errors.error(code), kind)

    def test_a_library_that_is_missing_names_the_fix(self):
        run = subprocess.run(
            [sys.executable, "-c", "import osync"],
            env={**os.environ, "OSYNC_LIBRARY": "/nowhere/libosync.so.1"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(run.returncode, 1)
        self.assertRegex(run.stderr, "ImportError: libosync can't be loaded: .*/nowhere/.* OSYNC_LIBRARY")


class Client(unittest.TestCase):
    def test_answers_and_refusals(self):
        def answer(path, message):
            if path.endswith("CreateSyncTask"):
                return (
                    {"code": -1, "msg": "sync task already exists"}
                    if message["mode"]
                    else {"code": 0, "got": message}
                )
            return {"response": {"code": 0}}

        with Answering(answer) as server, osync.Client(server.address) as client:
            got = client.create("db.t", "/d", start="append")["got"]
            self.assertEqual((got["db"], got["name"], got["dest"], got["start"]), ("db", "t", "/d", "kStartAppend"))
            with self.assertRaises(errors.RpcError) as caught:
                client.create("db.t", "/d", mode="continuous")
            self.assertEqual(str(caught.exception), "sync task already exists")
            self.assertEqual(caught.exception.answer, {"code": -1, "msg": "sync task already exists"})
            self.assertEqual(client.collectors(), {"response": {"code": 0}})
        with self.assertRaises(errors.ClosedError):
            client.status()
        client.close()  # twice is fine

    def test_arguments_that_make_no_sense(self):
        with self.assertRaises(errors.ConfigError):
            osync.Client("nonsense")
        with self.assertRaises(ValueError):
            osync.Client(timeout=0)
        with osync.Client() as client:
            for wrong in [
                lambda: client.delete("t"),
                lambda: client.delete("a.b.c"),
                lambda: client.create("db.t", ""),
                lambda: client.create("db.t", "/d\0"),
                lambda: client.create("db.t", "/d", mode=7),
                lambda: client.create("db.t", "/d", start="sometime"),
                lambda: client.create("db.t", "/d", start_ts=-1),
                lambda: client.create("db.t", "/d", points="no JSON"),
            ]:
                self.assertRaises(errors.InvalidError, wrong)

    def test_no_answer_and_nonsense(self):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            with osync.Client(f"127.0.0.1:{nobody.getsockname()[1]}") as client:
                self.assertRaises(errors.ConnectError, client.status)
        with Answering(lambda *_: b"<html>") as server, osync.Client(server.address) as client:
            self.assertRaises(errors.RpcError, client.task_status)
            self.assertRaises(errors.UnknownOutcomeError, client.delete, "db.t")
        with Answering(lambda *_: None) as server, osync.Client(server.address, timeout=0.1) as client:
            self.assertRaises(TimeoutError, client.task_status)

    def test_threads_share_one(self):
        with Answering(lambda path, message: {"code": 0, "db": message["db"]}) as server:
            with osync.Client(server.address) as client:
                wrong = []

                def ask(n):
                    for i in range(20):
                        if client.delete(f"db{n}x{i}.t")["db"] != f"db{n}x{i}":
                            wrong.append((n, i))

                threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join()
                self.assertEqual(wrong, [])

    def test_closing_cancels_what_others_wait_for(self):
        asked, caught = threading.Event(), []
        with Answering(lambda *_: asked.set()) as server:
            client = osync.Client(server.address)

            def ask():
                try:
                    client.task_status()
                except errors.OsyncError as e:
                    caught.append(type(e))

            thread = threading.Thread(target=ask)
            thread.start()
            asked.wait()
            client.close()
            thread.join()
        self.assertEqual(caught, [errors.CanceledError])

    def test_control_c_ends_the_wait(self):
        def answer(path, _message):
            if path.endswith("TaskStatus"):
                os.kill(os.getpid(), signal.SIGINT)
                return None
            return {"response": {"code": 0}}

        with Answering(answer) as server, osync.Client(server.address) as client:
            self.assertRaises(KeyboardInterrupt, client.task_status)
            client.collectors()

    def test_awaited(self):
        async def main(address):
            async with osync.aio.Client(address) as client:
                answers = await asyncio.gather(*(client.delete(f"d{i}.t") for i in range(30)))
                self.assertEqual([a["db"] for a in answers], [f"d{i}" for i in range(30)])
                slow = asyncio.ensure_future(client.task_status())
                await asyncio.sleep(0.05)
                slow.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await slow
                with self.assertRaises(errors.InvalidError):
                    await client.delete("nonsense")
                await client.delete("d.t")

        with Answering(lambda path, m: {"code": 0, "db": m["db"]} if "Delete" in path else None) as server:
            asyncio.run(main(server.address))

    def test_dropped_without_close(self):
        with Answering(lambda *_: {"response": {"code": 0}}) as server:
            for _ in range(20):
                osync.Client(server.address).collectors()
        gc.collect()
        loop = _loop.get()
        loop.wait(loop.call(lambda: None))
        self.assertEqual(len(loop._open), 0)


class Wait(unittest.TestCase):
    def setUp(self):
        patch = unittest.mock.patch("osync.client.Wait.POLL_S", 0.01)
        patch.start()
        self.addCleanup(patch.stop)

    def pages(self, *pages):
        left = list(pages)
        return Answering(lambda *_: left.pop(0) if len(left) > 1 else left[0])

    def test_until_the_task_is_gone(self):
        seen = []
        with self.pages(page({"rows": 50}, {}), page({"status": "SUCCESS"}, {}), page(ready=False), page()) as server:
            with osync.Client(server.address) as client:
                client.wait("db.t", progress=lambda task: seen.append(osync.client.fraction(task)))
        self.assertEqual(seen, [0.25, 0.5])

    def test_failures(self):
        with self.pages(page({"status": "FAILED", "reason": "the log has a gap"})) as server:
            with osync.Client(server.address) as client, self.assertRaises(osync.TaskFailedError) as caught:
                client.wait("db.t", progress=False)
        self.assertEqual(str(caught.exception), "db.t, partition 0: the log has a gap")
        with self.pages(page({}, mode=2)) as server, osync.Client(server.address) as client:
            self.assertRaises(errors.InvalidError, client.wait, "db.t", progress=False)
        with self.pages(page({})) as server, osync.Client(server.address) as client:
            self.assertRaises(TimeoutError, client.wait, "db.t", progress=False, timeout=0.1)
        self.assertRaises(errors.ConnectError, osync.Client("127.0.0.1:1").wait, "db.t", progress=False)

    def test_a_scheduler_that_is_started_again(self):
        looks = []

        def tell(task):
            looks.append(task)
            if len(looks) == 1:
                threading.Thread(target=restart).start()

        def restart():
            first.__exit__()
            servers.append(Answering(lambda *_: page(), port))

        first = self.pages(page({}))
        servers, port = [], first.server_port
        with osync.Client(first.address) as client:
            client.wait("db.t", progress=tell, timeout=30)
        servers[0].__exit__()

    def test_awaited(self):
        async def main(address):
            async with osync.aio.Client(address) as client:
                await client.wait("db.t", progress=False)

        with self.pages(page({}), page()) as server:
            asyncio.run(main(server.address))

    def test_what_is_shown(self):
        pages = [page({"rows": 50}), page({"status": "SUCCESS", "rows": 1234}), page()]
        with self.pages(*pages) as server, osync.Client(server.address) as client:
            with contextlib.redirect_stderr(io.StringIO()) as out:
                client.wait("db.t")
        self.assertEqual(out.getvalue(), "db.t: 50%, 50 rows committed, 0 of 1 partitions done\ndb.t: done\n")
        parent, child = pty.openpty()
        with self.pages(*pages) as server, osync.Client(server.address) as client, os.fdopen(child, "w") as terminal:
            with contextlib.redirect_stderr(terminal):
                client.wait("db.t")
            text = ""
            while not text.endswith("\rdb.t: done\r\n"):
                text += os.read(parent, 10000).decode()
        os.close(parent)
        self.assertIn("\rdb.t [############............]  50%, 50 rows", text)
        self.assertIn("\rdb.t [########################] 100%, 1,234 rows committed, 1 of 1 partitions", text)


class Sink(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.out = self.folder / "out"

    def open(self, name="s", state="state.db", kind=osync.Sink, **more):
        return kind(f"file://{self.out}", name, state=self.folder / state, suffix=".txt", **more)

    def lines(self, name="s"):
        files = sorted(p for p in self.out.glob(f"{name}-*.txt"))
        return [line for p in files for line in p.read_text().splitlines()]

    def put(self, sink, numbers):
        for n in numbers:
            sink.write(f"{n}\n", str(n).encode())

    def numbers(self, n):
        return [str(i) for i in range(1, n + 1)]

    def test_goes_on_where_it_stood(self):
        committed = []
        with self.open(start=b"0", on_commit=committed.append) as sink:
            self.assertEqual(sink.position, b"0")
            self.put(sink, range(1, 1001))
            sink.commit()
            self.assertEqual(sink.position, b"1000")
            self.put(sink, range(1001, 1011))
            self.assertEqual(sink.totals.records, 1000)
        self.assertEqual(committed, [b"1000", b"1010"])
        sink = self.open()
        self.assertEqual(sink.position, b"1010")
        self.put(sink, range(1011, 1021))
        sink.close()  # without a commit
        sink.close()
        with self.assertRaises(errors.ClosedError):
            sink.write("x", b"")
        with self.assertRaises(ZeroDivisionError), self.open() as sink:
            self.assertEqual(sink.position, b"1010")
            self.put(sink, range(1011, 1021))
            1 / 0
        with self.open() as sink:
            self.assertEqual(sink.position, b"1010")
        self.assertEqual(self.lines(), self.numbers(1010))

    def test_lost_state(self):
        with self.open() as sink:
            self.put(sink, range(1, 11))
        os.remove(self.folder / "state.db")
        with self.open() as sink:
            self.assertEqual(sink.position, b"10")
            self.put(sink, range(11, 21))
        self.assertEqual(self.lines(), self.numbers(20))

    def test_rolls_by_itself(self):
        done = threading.Event()
        with self.open(roll_interval=0.05, on_commit=lambda _: done.set()) as sink:
            sink.write("1\n", b"1")
            self.assertTrue(done.wait(30))
            self.assertEqual(self.lines(), ["1"])
        with self.open("t", "t.db", roll_bytes=1000) as sink:
            self.put(sink, range(1, 20001))
            sink.commit()
            self.assertGreater(sink.totals.files, 1)
        self.assertEqual(self.lines("t"), self.numbers(20000))

    def test_kinds_of_data(self):
        with self.open() as sink:
            sink.write("\u00e4\n", b"1")
            sink.write(b"b\n", bytearray(b"2"))
            sink.write(memoryview(b"c\nd\n"), b"\0\xff", records=2)
            for data, position in [(1, b""), ("", "text"), ("", 1), (None, b"")]:
                self.assertRaises(TypeError, sink.write, data, position)
            self.assertRaises(errors.TooBigError, sink.write, b"", bytes((64 << 10) + 1))
            self.assertRaises(errors.TooBigError, sink.write, bytes((64 << 20) + 1), b"")
            self.assertRaises(errors.InvalidError, sink.write, b"", b"", -1)
            sink.commit()
            self.assertEqual((sink.position, sink.totals.records), (b"\0\xff", 4))
            sink.write(b"", bytes(64 << 10))
        self.assertEqual(self.lines(), ["\u00e4", "b", "c", "d"])
        with self.open() as sink:
            self.assertEqual(sink.position, bytes(64 << 10))

    def test_what_cannot_be_opened(self):
        for wrong in [{"dest": "ftp://x/y"}, {"dest": ""}, {"name": "_x"}, {"name": ""}, {"suffix": "a/b"}]:
            with self.assertRaises(errors.OsyncError) as caught:
                osync.Sink(**{"dest": f"file://{self.out}", "name": "s", "state": self.folder / "s", **wrong})
            self.assertIn(caught.exception.code, (-21, -14, -2), wrong)
        for wrong in [{"roll_bytes": 0}, {"roll_interval": 0}, {"start": bytes(65537)}, {"name": "a\0b"}]:
            self.assertRaises(ValueError, self.open, **{"name": "s", **wrong})

    def test_another_takes_it_over(self):
        first = self.open()
        self.put(first, range(1, 11))
        first.commit()
        with self.assertRaises(errors.ConflictError):
            self.open()  # the state is in use
        with self.open(state="other.db") as second:
            self.assertEqual(second.position, b"10")
            self.put(second, range(11, 21))
        with self.assertRaises(errors.ConflictError):
            self.put(first, range(11, 21))
            first.commit()
        with self.assertRaises(errors.ConflictError):
            first.write("x", b"")
        first.close()
        self.assertEqual(self.lines(), self.numbers(20))

    def test_the_destination_is_away(self):
        """Its folder is somewhere else for a while, and a file in its place."""
        sink = self.open(timeout=60)
        self.put(sink, range(1, 11))
        sink.commit()
        self.put(sink, range(11, 21))
        away = self.folder / "away"
        self.out.rename(away)
        self.out.write_text("")

        def come_back():
            self.out.unlink()
            away.rename(self.out)

        threading.Timer(0.3, come_back).start()
        with self.assertLogs("osync", "WARNING"), self.assertRaises(osync.Rewound) as caught:
            sink.commit()
        self.assertEqual(caught.exception.position, b"10")
        self.put(sink, range(11, 31))
        sink.commit()
        sink.close()
        self.assertEqual(self.lines(), self.numbers(30))

    def test_no_longer_than_the_timeout(self):
        self.out.write_text("")
        with self.assertRaises(TimeoutError) as caught:
            self.open(timeout=0.2)
        self.assertRegex(str(caught.exception), "the sink s can't be reached in time: .*out")

    def test_what_a_callback_raises_is_not_lost(self):
        def fail(position):
            raise LookupError(position)

        sink = self.open(on_commit=fail)
        sink.write("1\n", b"1")
        sink.commit()
        with self.assertRaisesRegex(LookupError, "b'1'"):
            sink.write("2\n", b"2")
        sink.write("2\n", b"2")  # once
        sink.commit()
        with self.assertRaisesRegex(LookupError, "b'2'"):
            sink.commit()
        sink.write("3\n", b"3")
        sink.commit()
        with self.assertRaisesRegex(LookupError, "b'3'"):
            sink.close()
        sink.close()
        with self.assertRaisesRegex(LookupError, "b'4'"), self.open(on_commit=fail) as sink:
            sink.write("4\n", b"4")
        self.assertEqual(self.lines(), ["1", "2", "3", "4"])

    def test_a_callback_cannot_wait_for_itself(self):
        caught = []

        def fail(_position):
            try:
                sink.commit()
            except RuntimeError as e:
                caught.append(e)

        with self.open(on_commit=fail) as sink:
            sink.write("1\n", b"1")
            sink.commit()
        self.assertEqual(len(caught), 1)

    def test_awaited(self):
        async def main():
            async with self.open(kind=osync.aio.Sink) as sink, self.open("t", "t.db", kind=osync.aio.Sink) as other:
                for n in range(1, 5001):
                    await asyncio.gather(sink.write(f"{n}\n", b"%d" % n), other.write(f"{n}\n", b"%d" % n))
                await asyncio.gather(sink.commit(), other.roll())
                self.assertEqual((sink.position, (await other.totals()).records), (b"5000", 5000))

        asyncio.run(main())
        self.assertEqual(self.lines(), self.numbers(5000))
        self.assertEqual(self.lines("t"), self.numbers(5000))

    def test_large_records_wait_for_the_sink(self):
        with self.open(roll_bytes=8 << 20) as sink:
            for n in range(20):
                sink.write(b"x" * (3 << 20) + b"\n", b"%d" % n)
                self.assertLessEqual(sink._writer._queued, (4 << 20) + 64)
        self.assertEqual([len(line) for line in self.lines()], [3 << 20] * 20)

    def test_dropped_without_close(self):
        sink = self.open()
        sink.write("1\n", b"1")
        del sink
        gc.collect()
        deadline = time.monotonic() + 30
        while True:  # it lets go of its state
            try:
                with self.open() as sink:
                    self.assertEqual(sink.position, b"")
                break
            except errors.ConflictError:
                self.assertLess(time.monotonic(), deadline)

    def test_fork(self):
        """The parent goes on; its child begins anew."""
        with self.open() as sink:
            self.put(sink, range(1, 11))
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    with self.assertRaises(errors.ClosedError):
                        sink.write("x\n", b"x")
                    sink.close()
                    with self.open("child", "child.db") as mine:
                        self.put(mine, range(1, 6))
                    status = 0
                finally:
                    os._exit(status)
            self.put(sink, range(11, 21))
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(self.lines(), self.numbers(20))
        self.assertEqual(self.lines("child"), self.numbers(5))

    def test_the_end_of_the_interpreter(self):
        """With a sink open, a record pending and a thread that writes; what was logged last is still handed on."""
        program = f"""
import logging, osync, threading, time
logging.basicConfig(level=logging.INFO)
sink = osync.Sink("file://{self.out}", "s", state="{self.folder}/state.db", suffix=".txt")
client = osync.Client()
def write():
    n = 0
    while True:
        n += 1
        sink.write(str(n) + "\\n", str(n).encode())
        if n % 1000 == 0:
            sink.commit()
threading.Thread(target=write, daemon=True).start()
while int(sink.position or b"0") < 2000:
    time.sleep(0.01)
print("end")
"""
        run = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False
        )
        self.assertEqual((run.returncode, run.stdout), (0, "end\n"), run.stderr)
        with self.open() as sink:
            self.assertEqual(self.lines(), self.numbers(int(sink.position)))


class Logging(unittest.TestCase):
    def test_a_handler_may_use_osync(self):
        """It runs on a thread of its own, without a lock of the library."""
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        handled = threading.Event()

        class Handler(logging.Handler):
            def emit(self, record):
                if handled.is_set():
                    return
                with osync.Sink(f"file://{folder}/log", "log", state=folder / "log.db") as sink:
                    sink.write(record.getMessage(), b"1")
                handled.set()

        handler = Handler()
        _loop.logger.addHandler(handler)
        try:
            (folder / "out").write_text("")
            with self.assertRaises(TimeoutError):
                osync.Sink(f"file://{folder}/out", "s", state=folder / "s.db", timeout=0.1)
            self.assertTrue(handled.wait(30))
        finally:
            _loop.logger.removeHandler(handler)
        self.assertIn("out", next((folder / "log").glob("log-*")).read_text())


if __name__ == "__main__":
    unittest.main()
