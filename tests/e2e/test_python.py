"""The Python package: its client against a real osync-syncd, its sink on a real HDFS and on file://, killed at random
moments; python_suite.py as it is and with a sanitized library; and the wheel, from an empty folder. (Tables and the
command have tests of their own.)"""

import asyncio
import os
import pathlib
import platform
import random
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from system import System, wait_for

TOP = pathlib.Path(__file__).parents[2]
PACKAGE = TOP / "bindings/python"
SUITE = pathlib.Path(__file__).parent / "python_suite.py"
CONF = {"syncd": {"roll.interval": "100ms", "roll.size": "512K"}}

PUT = """
import sys
import osync

dest, state, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
say = lambda position: print("committed", flush=True)
with osync.Sink(
    dest, "numbers", state=state, suffix=".txt", roll_bytes=100_000, roll_interval=0.2, on_commit=say
) as sink:
    while True:
        try:
            number = int(sink.position or b"0")
            print(number, flush=True)
            while number < last:
                number += 1
                sink.write(f"{number}\\n", str(number).encode())
            sink.commit()
            break
        except osync.Rewound:
            pass
"""

LEAK = """
import ctypes
from osync._native import lib

handle = ctypes.c_void_p()
assert lib.osync_config_new(ctypes.byref(handle), 0, None) == 0
handle.value = None
"""


def environment(build, **more):
    return {
        **os.environ,
        "OSYNC_LIBRARY": str(build / "libosync/libosync.so.1"),
        "PYTHONPATH": str(PACKAGE),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


def run(*arguments, env, timeout=300, **more):
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=False, timeout=timeout, **more
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[:6000]}"
    return done


def test_suite(build):
    run("-X", "dev", SUITE, env=environment(build))


# ---- with a sanitized library ----


def sanitized(build, **more):
    """Wants a build by clang with -Db_sanitize=address."""
    library = build / "libosync/libosync.so.1"
    assert b"__asan_init" in library.read_bytes(), f"{library} is not sanitized: name a build that is (see check.sh)"
    name = f"libclang_rt.asan-{platform.machine()}.so"
    runtime = subprocess.run(
        ["clang", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return environment(
        build,
        LD_PRELOAD=runtime,
        ASAN_OPTIONS="fast_unwind_on_malloc=0:detect_leaks=1",
        LSAN_OPTIONS="exitcode=0:report_objects=1",
        UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
        **more,
    )


def leaks(text):
    """Of libosync, that is: the interpreter has its own, which it leaves to the operating system."""
    records = re.split(r"\n(?=(?:Direct|Indirect) leak of )", text)[1:]
    return [r for r in records if "libosync" in r]


def test_suite_sanitized(fault_build):
    done = run(SUITE, env=sanitized(fault_build))
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert leaks(done.stderr) == []


def test_a_leak_is_seen(fault_build):
    done = run("-c", LEAK, env=sanitized(fault_build))
    assert any("osync_config_new" in r for r in leaks(done.stderr)), "not in LeakSanitizer's report"


# ---- the client ----


@pytest.fixture
def osync(fault_build, build, monkeypatch):
    """The package, in this process."""
    monkeypatch.setenv("OSYNC_LIBRARY", str(build / "libosync/libosync.so.1"))
    monkeypatch.syspath_prepend(PACKAGE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import osync.aio

    return osync


def test_client(osync, build, tmp_path, zookeeper):
    errors = osync.errors
    with System(build, tmp_path, zookeeper, conf=CONF) as s:
        s.make_table(1, "t")
        s.make_table(2, "u")
        rows = s.fill(1, 2000)
        s.start()
        scheduler = f"127.0.0.1:{s.syncd_port}"
        with osync.Client(scheduler) as client:
            # a full sync
            looks = []
            assert client.create("db.t", s.dest("t"))["code"] == 0
            client.wait("db.t", progress=looks.append, timeout=60)
            s.audit("t", rows)
            assert all(task["db"] == "db" and len(task["partitions"]) == 2 for task in looks)
            assert [c["registered"] for c in client.collectors()["collectors"]] == [True]
            audit = client.verify("db.t", s.dest("t"))
            assert audit["response"]["code"] == 0 and int(audit["rows"]) == len(rows)
            assert client.create("db.t", s.dest("t"), start="restart")["code"] == 0
            client.wait("db.t", progress=False, timeout=60)
            s.audit("t", rows)

            # a file isn't what its label says
            with open(sorted(s.files("t"))[0], "a", encoding="ascii") as file:
                file.write("more")
            audit = client.verify("db.t", s.dest("t"), quick=True)
            assert audit["response"]["code"] == -1 and audit["report"]

            # refusals, in the scheduler's words
            with pytest.raises(errors.RpcError, match="db.nothing doesn't exist") as caught:
                client.create("db.nothing", s.dest("x"))
            assert caught.value.answer["code"] == -1
            for call in [lambda: client.retry("db.t"), lambda: client.recover("db.u", s.dest("u"))]:
                with pytest.raises(errors.RpcError):
                    call()
            with pytest.raises(errors.OsyncError):
                client.points("db.t")

            # one that goes on; all of it awaited, and by several threads at once
            first = s.fill(2, 500)

            async def begin():
                async with osync.aio.Client(scheduler) as c:
                    await c.create("db.u", s.dest("u"), mode="continuous")
                    status, tasks, found = await asyncio.gather(c.status(), c.task_status(), c.collectors())
                    assert [t["table"] for t in status["tasks"]] == ["u"]
                    assert len(tasks["task"]) == 2 and len(found["collectors"]) == 1
                    with pytest.raises(errors.InvalidError):
                        await c.wait("db.u")

            asyncio.run(begin())
            s.wait_rows("u", 500)
            pages = []
            threads = [
                threading.Thread(target=lambda: pages.extend(client.status()["ready"] for _ in range(20)))
                for _ in range(4)
            ]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            assert pages == [True] * 80

            # from its points, into another folder
            points = wait_for("exact points", lambda: known(client, "db.u", errors))
            assert [p["pid"] for p in points] == [0, 1]
            assert client.delete("db.u")["code"] == 0
            wait_for("the task to be gone", lambda: not client.status()["tasks"])
            s.tablet.generate(2, 100, first_id=500)
            client.create("db.u", s.dest("v"), mode=2, points=points)
            s.wait_rows("v", 100)
            client.delete("db.u")
            s.audit("u", first)
            s.audit("v", range(500, 600))

            # its checkpoint is lost
            wait_for("the task to be gone", lambda: not client.status()["tasks"])
            s.syncd.kill()
            shutil.rmtree(s.folder / "state")
            s.syncd.start()
            s.wait_listening()

            def recovered():
                try:
                    return client.recover("db.u", s.dest("v"))
                except errors.RpcError:  # it isn't connected to ZooKeeper yet
                    return None

            assert wait_for("recover", recovered)["code"] == 0
            assert client.status()["tasks"][0]["table"] == "u"
            s.syncd.kill()
            with pytest.raises(ConnectionError):
                client.status()


def known(client, table, errors):
    try:
        return client.points(table)
    except errors.AgainError:
        return None


# ---- the sink ----


@pytest.mark.parametrize("where", ["hdfs", "file"])
def test_sink_that_is_killed(request, where, build, tmp_path, numbers):
    """After its first commit, and then again and again at random moments, also in the middle of its recovery: each
    number is there once."""
    last = 400_000
    if where == "hdfs":
        hdfs = request.getfixturevalue("hdfs")
        folder, kills = f"/{tmp_path.name}", 5
        dest, env = f"hdfs://{folder}", environment(build, HADOOP_CONF_DIR=str(hdfs.conf_dir))
    else:
        dest, env, kills = f"file://{tmp_path}/out", environment(build), 8
    begun = []
    for run_number in range(kills + 1):
        with subprocess.Popen(
            [sys.executable, "-c", PUT, dest, tmp_path / "state.db", str(last)],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            lines = []
            if run_number == 0:
                for line in process.stdout:
                    lines.append(line)
                    if line == "committed\n":
                        break
            elif run_number < kills:
                time.sleep(0.2 + random.uniform(0, 0.7))
            else:
                assert process.wait(120) == 0
            process.kill()
            lines += process.stdout
            begun += [int(line) for line in lines if line != "committed\n"]
    assert begun == sorted(begun)
    assert begun[0] == 0 < begun[-1]
    if where == "hdfs":
        files = [hdfs.read(p) for p in hdfs.list(folder) if p.endswith(".txt") and not re.search(r"/[._]", p)]
    else:
        files = [p.read_bytes() for p in (tmp_path / "out").glob("numbers-*.txt")]
    got = sorted(int(line) for data in files for line in data.split())
    assert got == list(range(1, last + 1)), f"{len(got)} lines, {len(set(got))} numbers, of {last}"
    numbers.audited(last)
    numbers.add("kills", kills)


# ---- the wheel ----


def test_wheel(build, tmp_path):
    """An sdist, a wheel made of it, and both the module and the command used from an empty folder, in a venv."""
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source / "bindings/python", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(TOP / "meson.build", source)
    env = {k: v for k, v in environment(build).items() if k != "PYTHONPATH"}
    run("-m", "build", "--no-isolation", "-o", tmp_path / "dist", source / "bindings/python", env=env)
    version = re.search(r" version: '([^']+)'", (TOP / "meson.build").read_text()).group(1)
    wheel = tmp_path / f"dist/osync-{version}-py3-none-any.whl"
    assert sorted(os.listdir(tmp_path / "dist")) == [wheel.name, f"osync-{version}.tar.gz"]
    run("-m", "venv", tmp_path / "venv", env=env)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-index", wheel], check=True, env=env, timeout=120)
    empty = tmp_path / "empty"
    empty.mkdir()
    program = f"""
import osync
assert "venv" in osync.__file__, osync.__file__
assert osync.__version__ == "{version}"
with osync.Sink("file://{tmp_path}/out", "s", state="{tmp_path}/s.db", suffix=".txt") as sink:
    sink.write("text\\n", b"1")
"""
    subprocess.run([python, "-c", program], check=True, env=env, cwd=empty, timeout=60)
    assert [p.read_text() for p in (tmp_path / "out").glob("s-*.txt")] == ["text\n"]
    subprocess.run([tmp_path / "venv/bin/osync", "--help"], check=True, env=env, cwd=empty, timeout=60, stdout=-3)
    assert os.listdir(empty) == []
