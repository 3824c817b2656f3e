"""A whole system for a test: test TabletServer, collectors, scheduler, on a ZooKeeper root and a destination of its
own."""

import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

from tablet import Replicas, Tablet, column, index
from zookeeper import free_port

HELPER = pathlib.Path(__file__).parents[2] / "bindings/python/synctool_helper.py"
FAST = {  # for tests: the shipped values are made for days, not for seconds
    "collector": {"sync_task_long_interval_ms": 200, "snapshot_settle_ms": 0, "request_timeout_ms": 5000},
    "syncd": {"sync_task.check_period": "500ms", "request.timeout": "5s", "roll.interval": "300ms"},
}


def wait_for(what, condition, timeout=60):
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {what}")
        time.sleep(0.02)
    return answer


class Daemon:
    """One of our two programs as a process."""

    def __init__(self, program, arguments, log, env=None):
        self.program, self.arguments, self.log, self.env = program, arguments, log, env
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(self.env or {})},
            )
        return self

    def end(self, how=signal.SIGTERM):
        if how == signal.SIGTERM:  # one that was only just started doesn't catch it yet
            wait_for("the daemon to catch SIGTERM", lambda: self.process.poll() is not None or self._catches(how))
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)

    def _catches(self, signum):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.M)
        return caught and int(caught.group(1), 16) & 1 << (signum - 1)

    def kill(self):
        self.end(signal.SIGKILL)

    def restart(self):
        self.kill()
        return self.start()

    def peak_rss(self):
        """Most resident memory so far, bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024

    def text(self):
        return self.log.read_text(errors="replace")


CLOCK_SPEED = 600  # a minute, the unit of a snapshot's name, is a tenth of a second


def fast_clock():
    """For Tablet: begins three years ago. What it stamps is older than anything the file system stamps itself, so a
    birth time, which can't be set, proves nothing; the time of the last write does."""
    now = int(time.time() * 1000)
    return f"{now}:{now - 3 * 365 * 86_400_000}:{CLOCK_SPEED}"


class System:
    """`hdfs`: an Hdfs, or None for file://. `hosts`: a TabletServer each; the first of them is `tablet`. `clock`: of
    the TabletServers (see fast_clock; the time zone must be UTC). `data_path`: the scheduler's "direct" (collectors
    write staged files themselves) or "proxy" (rows go by way of the scheduler); else OSYNC_DATA_PATH, or what is the
    default."""

    COLUMNS = [
        column("id", "bigint"),
        column("k", "string"),
        column("ts", "timestamp"),
        column("v", "double"),
        column("payload", "string"),
    ]
    INDEXES = [index("idx0", ["k"], ts="ts")]

    def __init__(
        self, build, folder, zookeeper, hdfs=None, conf=None, hosts=("127.0.0.1",), clock=None, data_path=None
    ):
        self.build, self.folder, self.zookeeper, self.hdfs = build, pathlib.Path(folder), zookeeper, hdfs
        self.root = f"/root-{os.path.basename(folder)}-{free_port()}"
        self.conf = {
            "collector": {**FAST["collector"], **(conf or {}).get("collector", {})},
            "syncd": {**FAST["syncd"], **(conf or {}).get("syncd", {})},
        }
        self.data_path = data_path or os.environ.get("OSYNC_DATA_PATH")
        if self.data_path:
            self.conf["syncd"].setdefault("data_path", self.data_path)
        self.tablets = [
            Tablet(
                build,
                self.folder / ("tablet" if n == 0 else f"tablet-{n}"),
                zookeeper.address,
                self.root,
                host=host,
                binlog_max_bytes=1 << 20,
                clock=clock,
            )
            for n, host in enumerate(hosts)
        ]
        self.tablet = self.tablets[0]
        self.replicas = Replicas(self.tablets)
        self.env = {"collector": {}, "syncd": {}}  # of the daemons, beside this process's own
        self.collectors = []
        self.syncd = None
        self.syncd_port = free_port()

    def __enter__(self):
        for tablet in self.tablets:
            tablet.start()
        return self

    def __exit__(self, *_):
        statuses = [d.end() for d in [*self.collectors, self.syncd] if d and d.process]
        for tablet in self.tablets:
            tablet.stop()
        assert all(s in (0, -signal.SIGKILL) for s in statuses), f"exit statuses {statuses}; logs in {self.folder}"

    # ---- processes ----

    def add_collector(self, host="127.0.0.1", **flags):
        n = len(self.collectors)
        values = {
            "endpoint": f"{host}:{free_port()}",
            "zk_cluster": self.zookeeper.address,
            "zk_root_path": self.root,
            "collector_datadir": self.folder / f"collector-{n}",
            **self.conf["collector"],
            **flags,
        }
        file = self.folder / f"collector-{n}.flags"
        file.write_text("".join(f"--{k}={v}\n" for k, v in values.items()))
        daemon = Daemon(
            self.build / "daemons/osync-collectord",
            [f"--flagfile={file}"],
            self.folder / f"collector-{n}.log",
            self.env["collector"],
        )
        daemon.endpoint = values["endpoint"]
        self.collectors.append(daemon.start())
        return daemon

    def start_syncd(self):
        values = {
            "server.host": "127.0.0.1",
            "server.port": self.syncd_port,
            "zookeeper.cluster": self.zookeeper.address,
            "zookeeper.root_path": self.root,
            "sync_task.progress_path": self.folder / "state",
            "csv.timezone": "UTC",
            **self.conf["syncd"],
        }
        if self.hdfs:
            values["hadoop.conf.dir"] = self.hdfs.conf_dir
        file = self.folder / "synctool.properties"
        file.write_text("".join(f"{k}={v}\n" for k, v in values.items()))
        self.syncd = Daemon(
            self.build / "daemons/osync-syncd", ["-c", str(file)], self.folder / "syncd.log", self.env["syncd"]
        )
        self.syncd.start()
        self.wait_listening()

    def start(self):
        for tablet in self.tablets:
            self.add_collector(tablet.host)
        self.start_syncd()
        self.wait_registered()
        return self

    def wait_listening(self):
        def answers():
            try:
                return self.rpc("TaskStatus")
            except OSError:
                assert self.syncd.process.poll() is None, self.syncd.text()
                return None

        return wait_for("osync-syncd to listen", answers)

    def wait_registered(self):
        for c in self.collectors:
            wait_for(
                f"{c.endpoint} to register", lambda c=c: "registered" in c.text() or c.process.poll() is not None
            )
            assert c.process.poll() is None, c.text()

    # ---- calls ----

    def rpc(self, method, **fields):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.syncd_port}/openmldb.datasync.SyncTool/{method}",
            json.dumps(fields).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def page(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.syncd_port}/status?format=json", timeout=120) as answer:
            return json.load(answer)

    def collector_page(self, n=0):
        with urllib.request.urlopen(
            f"http://{self.collectors[n].endpoint}/status?format=json", timeout=120
        ) as answer:
            return json.load(answer)

    def helper(self, *arguments, status=0):
        run = subprocess.run(
            [sys.executable, HELPER, *arguments, "-s", f"127.0.0.1:{self.syncd_port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            env={**os.environ, "TZ": "UTC"},
        )
        assert run.returncode == status, f"{run.stdout}{run.stderr}\n{self.syncd.text()[-3000:]}"
        return run.stdout

    def dest(self, name):
        return f"/{self.root.strip('/')}/{name}" if self.hdfs else f"file://{self.folder}/out/{name}"

    def create(self, name, mode, dest=None, ts=None):
        return self.helper(
            "create",
            "-t",
            f"db.{name}",
            "-m",
            str(mode),
            "-d",
            self.dest(dest or name),
            *(["-ts", str(ts)] if ts is not None else []),
        )

    def tasks(self):
        """(tid, pid) -> task."""
        return {
            (t["progress"]["tid"], t["progress"].get("pid", 0)): t for t in self.rpc("TaskStatus").get("task", [])
        }

    def states(self):
        return {k: t["status"] for k, t in self.tasks().items()}

    def wait_running(self):
        """Every partition; on a slow machine one may just have been handed out again."""
        wait_for("every partition to be RUNNING", lambda: set(self.states().values()) == {"RUNNING"})

    def wait_gone(self, timeout=120):
        """A task of mode 0 removes itself when everything is committed."""

        def ended():  # the page also has what is still being removed
            page = self.page()
            return page["ready"] and not page["tasks"]

        wait_for("the task to end", ended, timeout)

    # ---- tables and rows ----

    def make_table(self, tid, name, partitions=2, **more):
        self.tablet.create_table(
            tid,
            name,
            more.pop("columns", self.COLUMNS),
            more.pop("indexes", self.INDEXES),
            partitions=partitions,
            **more,
        )

    def make_copied_table(self, tid, name, partitions=1, **more):
        """A table that every tablet has; the first leads it."""
        self.replicas.create_table(
            tid,
            name,
            more.pop("columns", self.COLUMNS),
            more.pop("indexes", self.INDEXES),
            partitions=partitions,
            **more,
        )

    def snapshot(self, tablet, tid):
        """With a fast clock: one whose window begins behind what was put so far, as soon as more is put."""
        tablet.roll(tid)
        time.sleep(2.5 * 60 / CLOCK_SPEED)
        tablet.snapshot(tid)

    def seam(self, tid):
        """What was put so far is to come from the next snapshot: the log goes on in a new file, and the former ones
        look old enough to prove that it was begun before it. (Put something into it before the snapshot is made.)"""
        self.tablet.roll(tid)
        for partition in self.tablet.root.glob(f"{tid}_*"):
            for file in sorted((partition / "binlog").glob("*.log"))[:-1]:
                then = time.time() - 3600
                os.utime(file, (then, then))

    def fill(self, tid, rows, first=0, **more):
        """`rows` rows whose ids count from `first`: nearly half of them in the snapshot alone, some in its window, the
        rest behind it."""
        before, window = rows * 9 // 20, max(1, rows // 20)
        self.tablet.generate(tid, before, first_id=first, **more)
        self.seam(tid)
        self.tablet.generate(tid, window, first_id=first + before, **more)
        self.tablet.snapshot(tid)
        self.tablet.generate(tid, rows - before - window, first_id=first + before + window, **more)
        return range(first, first + rows)

    def files(self, dest):
        """Every visible file of a destination: name -> bytes. What begins with '_' or '.' is not visible, as for any
        reader."""
        if self.hdfs:
            folder = self.dest(dest)
            names = (
                [p for p in self.hdfs.list(folder) if not re.search(r"/[._]", p[len(folder) :])]
                if self.hdfs.exists(folder)
                else []
            )
            return {n: self.hdfs.read(n) for n in names}
        out = {}
        for top, folders, names in os.walk(self.folder / "out" / dest):
            folders[:] = [n for n in folders if n[0] not in "._"]  # they may go while they are looked at
            out |= {f"{top}/{n}": pathlib.Path(top, n).read_bytes() for n in names if n[0] not in "._"}
        return out

    def hidden(self, dest):
        """Everything else that is left in a destination."""
        if self.hdfs:
            folder = self.dest(dest)
            return [
                p
                for p in [*self.hdfs.list(folder), *(p for p in [f"{folder}/_osync"] if self.hdfs.exists(p))]
                if re.search(r"/[._]", p[len(folder) :])
            ]
        folder = self.folder / "out" / dest
        return [p for p in folder.rglob("*") if re.search(r"/[._]", str(p)[len(str(folder)) :])]

    def lines(self, dest):
        out = []
        for name, data in self.files(dest).items():
            assert re.search(r"/part-[0-9a-f-]+-\d{5}-\d{10}\.csv$", name), f"{name} is not a committed file's name"
            assert data.endswith(b"\n"), f"{name} ends in the middle of a row"
            out += data.decode("ascii").split("\n")[:-1]
        return out

    def ids(self, dest):
        return collections.Counter(int(line.split(",", 1)[0]) for line in self.lines(dest))

    def audit(self, dest, expected, optional=()):
        """Every expected id once, the optional ones at most once, no other. Returns (lost, twice)."""
        got = self.ids(dest)
        twice = sorted(i for i, n in got.items() if n > 1)
        lost = sorted(set(expected) - set(got))
        other = sorted(set(got) - set(expected) - set(optional))
        assert (
            not twice and not lost and not other
        ), f"lost {len(lost)} {lost[:9]}, twice {len(twice)} {twice[:9]}, never put {other[:9]}; logs in {self.folder}"
        return len(lost), len(twice)

    def wait_rows(self, dest, n, timeout=120):
        wait_for(
            f"{n} rows in {dest}",
            lambda: sum(
                int(t.get("count", 0)) for t in self.tasks().values() if t["progress"]["dest"] == self.dest(dest)
            )
            >= n,
            timeout,
        )
