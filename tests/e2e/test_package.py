"""The installed tree as an operator of OpenMLDB meets it: its layout, bin/start.sh, the configuration files of
OpenMLDB's packages, systemd units."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from install import install
from system import Daemon, wait_for
from tablet import Tablet, column, index
from zookeeper import free_port

TOP = pathlib.Path(__file__).parents[2]
SHIPPED = TOP / "tests/fixtures/package"  # the settings of OpenMLDB's own files
# Every key that OpenMLDB documents, or that its files have, with a value it may have there.
COLLECTOR_KEYS = {
    "endpoint": "127.0.0.1:8888",
    "zk_cluster": "127.0.0.1:1",
    "zk_root_path": "/openmldb",
    "zk_session_timeout": "2000",
    "zk_keep_alive_check_interval": "15000",
    "zk_auth_schema": "digest",
    "zk_cert": "user:password",
    "collector_datadir": "/proc/nowhere",
    "task_thread_pool_size": "32",
    "thread_pool_size": "16",
    "max_pack_size": "1048576",
    "sync_task_long_interval_ms": "5000",
    "sync_task_short_interval_ms": "1000",
    "request_timeout_ms": "20000",
    "socket_max_unwritten_bytes": "67108864",
    "max_body_size": "67108864",
    "enable_status_service": "true",
    "openmldb_log_dir": "./logs",
    "log_level": "debug",
    "glog_level": "1",
    "glog_dir": "/tmp",
    "max_traverse_cnt": "0",
    "binlog_enable_crc": "false",
    "binlog_name_length": "8",
    "block_cache_mb": "4096",
    "write_buffer_mb": "128",
    "block_cache_shardbits": "8",
    "disable_wal": "true",
    "max_log_file_size": "104857600",
    "keep_log_file_num": "5",
    "role": "data_collector",
    "use_name": "false",
    "zk_log_level": "0",
}
SYNCD_KEYS = {
    "server.host": "0.0.0.0",
    "server.port": "8848",
    "server.worker_threads": "16",
    "server.io_threads": "4",
    "zookeeper.cluster": "127.0.0.1:1",
    "zookeeper.root_path": "/openmldb",
    "zookeeper.cert": "user:password",
    "user": "root",
    "password": "",
    "sync_task.progress_path": "/proc/nowhere",
    "sync_task.check_period": "10",
    "request.timeout": "5",
    "hadoop.conf.dir": "/etc/hadoop/conf",
    "data.cache_path": "/tmp",
    "flink.slots": "32",
}


@pytest.fixture(scope="module")
def installed(build, tmp_path_factory):
    """The installed tree's top, moved to another place than it was made for."""
    dest = tmp_path_factory.mktemp("package")
    install(build, dest)
    made = next(dest.rglob("bin/start.sh")).parents[1]
    return made.rename(dest / "openmldb sync")  # a space in the path is nobody's business either


class Package:
    """A copy of the tree, with OpenMLDB's configuration but for addresses and folders."""

    COMPONENTS = ("data_collector", "synctool")

    def __init__(self, top, folder, zookeeper):
        self.top, self.folder = top, folder
        self.root = f"/package-{free_port()}"
        self.ports = {c: free_port() for c in self.COMPONENTS}
        (top / "conf").mkdir(exist_ok=True)
        for name, changes in (
            (
                "data_collector.flags",
                {"127.0.0.1:8888": f"127.0.0.1:{self.ports['data_collector']}", "127.0.0.1:2181": zookeeper.address},
            ),
            ("synctool.properties", {"=8848": f"={self.ports['synctool']}", "0.0.0.0:2181": zookeeper.address}),
        ):
            text = (SHIPPED / name).read_text()
            for old, new in {**changes, "/tmp/": f"{folder}/", "=/openmldb": f"={self.root}"}.items():
                assert old in text, (name, old)
                text = text.replace(old, new)
            (top / "conf" / name).write_text(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for component in self.COMPONENTS:
            self.script("stop", component)

    def script(self, *arguments):
        """(lines, exit status)"""
        done = subprocess.run(
            [self.top / "bin/start.sh", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
            cwd="/",
        )
        return done.stdout.splitlines(), done.returncode

    def pid(self, component, suffix=""):
        file = self.top / f"bin/{component}.pid{suffix}"
        return int(file.read_text()) if file.exists() else None

    def log(self, component):
        return (self.top / f"logs/{component}.log").read_text(errors="replace")

    def page(self, component):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[component]}/status", timeout=10) as answer:
            return answer.read().decode()

    def helper(self, *arguments):
        server = f"127.0.0.1:{self.ports['synctool']}"
        command = [sys.executable, "tools/synctool_helper.py", *arguments, "-s", server]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=self.top).stdout


@pytest.fixture
def package(installed, tmp_path, zookeeper):
    top = tmp_path / "openmldb sync"
    shutil.copytree(installed, top, symlinks=True)
    with Package(top, tmp_path, zookeeper) as p:
        yield p


def runs(pid):
    """Whether it is there and no zombie that nobody has waited for."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(component, pid):
    first = [f"Starting {component} ... "]
    if component == "synctool":
        first.append("Rewrite properties by ./conf/synctool.properties")
    return [*first, f"process pid is {pid}", f"Start {component} success"]


def stopped(component):
    return [f"Stopping {component} ... ", f"Stop {component} success"]


def test_tree(installed):
    """What an OpenMLDB package has, where it has it."""
    for name in ("bin/start.sh", "bin/data_collector", "synctool/bin/synctool.sh", "tools/synctool_helper.py"):
        assert os.access(installed / name, os.X_OK), name
    for name in ("conf/data_collector.flags", "conf/synctool.properties", "synctool/conf/synctool.properties"):
        assert (installed / name).is_file(), name
    for name in ("osync-collectord", "osync-syncd", "data_collector"):  # each finds the library, moved as it is
        done = subprocess.run([installed / "bin" / name, "--version"], check=True, capture_output=True, text=True)
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


def test_shipped_settings_are_openmldbs(installed):
    """Our own files differ from OpenMLDB's in comments, and in what goes without saying."""

    def settings(path):
        lines = path.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    for name, more, less in (
        ("data_collector.flags", {}, {"--enable_status_service", "--openmldb_log_dir"}),
        (
            "synctool.properties",
            {"sync_task.check_period": "10", "request.timeout": "5", "zookeeper.cluster": "127.0.0.1:2181"},
            set(),
        ),
    ):
        theirs = settings(SHIPPED / name)
        assert settings(installed / "conf" / name) == {**{k: v for k, v in theirs.items() if k not in less}, **more}


def test_installing_again_keeps_the_configuration(build, tmp_path):
    install(build, tmp_path)
    conf = next(tmp_path.rglob("conf/data_collector.flags")).parent
    (conf / "data_collector.flags").write_text("--endpoint=1.2.3.4:5\n")
    install(build, tmp_path)
    assert (conf / "data_collector.flags").read_text() == "--endpoint=1.2.3.4:5\n"
    assert "--collector_datadir" in (conf / "data_collector.flags.new").read_text()
    assert not (conf / "synctool.properties.new").exists()


def said(build, name, arguments):
    """Lines without a meaning: key -> times. The start is to fail at a folder, behind all that is read."""
    done = subprocess.run([build / "daemons" / name, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "/proc/nowhere" in done.stderr.splitlines()[-1], done.stderr
    keys = re.findall(r": (\S+) has no meaning here \([^\n]+\)\n", done.stderr)
    assert len(keys) == len(done.stderr.splitlines()) - 1, done.stderr
    return sorted(keys)


def test_openmldbs_files_are_accepted_as_they_are(build):
    flags = f"--flagfile={SHIPPED}/data_collector.flags"
    without = said(build, "osync-collectord", [flags, "--collector_datadir=/proc/nowhere", "--endpoint=127.0.0.1:0"])
    assert without == ["enable_status_service", "openmldb_log_dir"]
    properties = ["-c", SHIPPED / "synctool.properties", "sync_task.progress_path=/proc/nowhere", "server.port=0"]
    assert said(build, "osync-syncd", properties) == []


def documented(heading):
    """The keys of a table in docs/migration.md: key -> what is done with it."""
    text = (TOP / "docs/migration.md").read_text()
    part = text[text.index(f"### {heading}") :].split("\n#", 1)[0]
    out = {}
    for line in part.splitlines():
        cells = line.split(" | ")
        for key in re.findall(r"`([a-z_.]+)`", cells[0]) if line.startswith("| `") else []:
            out[key] = line
    return out


@pytest.mark.parametrize(
    "name, heading, keys, form",
    [
        ("osync-collectord", "conf/data_collector.flags", COLLECTOR_KEYS, "--{}={}"),
        ("osync-syncd", "conf/synctool.properties", SYNCD_KEYS, "{}={}"),
    ],
)
def test_every_key_of_openmldb(build, tmp_path, name, heading, keys, form):
    """Each is honoured, or named as one without a meaning; docs/migration.md tells which."""
    file = tmp_path / "file"
    file.write_text("".join(form.format(k, v) + "\n" for k, v in keys.items()))
    where = [f"--flagfile={file}", "--endpoint=127.0.0.1:0"] if name == "osync-collectord" else ["-c", file]
    ignored = said(build, name, where if name == "osync-collectord" else [*where, "server.port=0"])
    table = documented(heading)
    assert not set(keys) - set(table), "not in docs/migration.md"
    help_text = subprocess.run(
        [build / "daemons" / name, "--help"], check=True, capture_output=True, text=True
    ).stdout
    honoured = set(re.findall(r"^  ([a-z_.]+) \(", help_text, re.M))
    assert set(keys) - set(ignored) <= honoured
    assert not honoured - set(table), "not in docs/migration.md"
    for key in keys:
        assert ("no meaning" in table[key]) == (key in ignored), table[key]


def manual(page):
    """The source of a manual page, without what only matters for its looks."""
    return re.sub(r"\\f.", "", (TOP / f"docs/man/{page}.in").read_text().replace("\\-", "-"))


def help_of(command, **env):
    done = subprocess.run([*command, "--help"], check=True, capture_output=True, text=True, env={**os.environ, **env})
    return done.stdout


@pytest.mark.parametrize(
    "name, page", [("osync-collectord", "data_collector.flags.5"), ("osync-syncd", "synctool.properties.5")]
)
def test_manual_of_a_configuration_file(build, name, page):
    """Every key, with its default, and no other."""
    keys = dict(re.findall(r"^  ([a-z_.]+) \((.*)\)$", help_of([build / "daemons" / name]), re.M))
    described = {}
    for entry in re.findall(r"^\.TP\n(.*?)(?=^\.(?:TP|SS|SH))", manual(page), re.M | re.S):
        key = re.match(r"\.B ([a-z_.]+)=", entry).group(1)
        default = re.search(r"^Default: (.*)$", entry, re.M)
        described[key] = default.group(1) if default else ""
    assert len(keys) > 15 and described == keys


@pytest.mark.parametrize(
    "page", ["osync-collectord.8", "osync-syncd.8", "osync-dump.1", "synctool_helper.py.1", "osync.1"]
)
def test_manual_of_a_command(build, page):
    """Every option that --help names, of each of its commands too, and no other."""
    name = page[:-2]
    commands, env = [()], {}
    if name == "osync":
        program = [sys.executable, "-B", "-m", "osync.cli"]
        env = {"PYTHONPATH": str(TOP / "bindings/python"), "OSYNC_LIBRARY": str(build / "libosync/libosync.so")}
        commands += [(c,) for c in re.findall(r"^    ([a-z][a-z-]*)(?: |$)", help_of(program, **env), re.M)]
        assert len(commands) > 10
        assert {c for c, in commands[1:]} == set(re.findall(r"^\.TP\n\.B[IR]? ([a-z][a-z-]*)", manual(page), re.M))
    elif name == "synctool_helper.py":
        program = [sys.executable, TOP / "bindings/python" / name]
    else:
        program = [build / ("examples" if name == "osync-dump" else "daemons") / name]
    text = "".join(help_of([*program, *c], **env) for c in commands)
    option = r"(?<![\w-])--?[a-z][\w-]*"
    offered = [re.findall(option, line.split("  ")[1]) for line in re.findall(r"^  -.*", text, re.M)]
    tags = [re.findall(option, line) for line in re.findall(r"^\.TP\n(.*)", manual(page), re.M)]
    described = {o for found in tags for o in found}
    assert {o for found in offered for o in found} <= described
    assert described - {"--key"} <= set(re.findall(option, text))


def test_manual_pages_are_installed(installed):
    for source in (TOP / "docs/man").glob("*.in"):
        text = next(installed.rglob(f"man{source.stem[-1]}/{source.stem}")).read_text()
        assert text.startswith(".TH ") and not re.search("@[a-z_]+@", text), source
    for header in next(installed.rglob("osync/error.h")).parent.glob("*.h"):
        assert f"osync/{header.name}" in manual("libosync.3")


def test_system_tree(build, tmp_path):
    """-Dtree=system: no package of OpenMLDB's, but the places of a distribution."""
    source = tmp_path / "build"
    command = ["meson", "setup", source, TOP, "-Dtree=system", "-Dtests=false", "--prefix=/usr"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    plan = subprocess.run(
        ["meson", "introspect", "--install-plan", source], check=True, capture_output=True, text=True
    )
    places = {place["destination"] for group in json.loads(plan.stdout).values() for place in group.values()}
    text = (source / "daemons/osync-syncd.service").read_text()
    assert "ExecStart=/usr/bin/osync-syncd -c /etc/osync/synctool.properties\n" in text and "\nUser=osync\n" in text
    text = (source / "daemons/synctool.properties").read_text()
    assert "\nsync_task.progress_path=/var/lib/osync/syncd\n" in text
    for part in ("start.sh", "synctool.sh", "tools/"):
        assert not [p for p in places if part in p]


def test_start_stop_restart_and_a_task(build, package, zookeeper):
    """Both daemons by the script; a table copied with what the tree has."""
    p = package
    pids = {}
    for component in p.COMPONENTS:
        lines, status = p.script("start", component)
        pids[component] = p.pid(component)
        assert (lines, status) == (started(component, pids[component]), 0), p.log(component)
        assert p.page(component)
        again, status = p.script("start", component)
        assert (again[1], status) == (f"{component} already running as process {pids[component]} ", 0)
        assert len(again) == 2
    collector = f"127.0.0.1:{p.ports['data_collector']}"
    wait_for("the collector to register", lambda: zookeeper.children(f"{p.root}/sync_tool/collector") == [collector])
    assert (p.top / "synctool/conf/synctool.properties").read_bytes() == (
        p.top / "conf/synctool.properties"
    ).read_bytes()
    with Tablet(build, p.folder / "tablet", zookeeper.address, p.root) as tablet:
        tablet.create_table(1, "t", [column("id", "bigint"), column("k", "string")], [index("i", ["k"])])
        tablet.put(1, [{"id": i, "k": f"k{i}"} for i in range(100)])
        out = p.folder / "out"
        assert p.helper("create", "-t", "db.t", "-m", "2", "-d", f"file://{out}") == '{\n  "code": 0\n}\n'
        for component in p.COMPONENTS:
            lines, status = p.script("restart", component)
            assert (lines, status) == (stopped(component) + started(component, p.pid(component)), 0)
            assert p.pid(component) != pids[component] and not runs(pids[component])
        assert "'dest': 'file://" in p.helper("status")
        assert p.helper("tool-status").count(f"{p.folder}/sync_task_progress/checkpoint.db") >= 1
        tablet.put(1, [{"id": i, "k": f"k{i}"} for i in range(100, 200)])
        wait_for(
            "the rows", lambda: "'status': 'RUNNING'" in p.helper("status") and "200 staged" in p.page("synctool")
        )
        assert p.helper("delete", "-t", "db.t") == '{\n  "code": 0\n}\n'
    for component in p.COMPONENTS:
        pid = p.pid(component)
        assert p.script("stop", component) == (stopped(component), 0)
        assert not runs(pid) and p.pid(component) is None
        lines, status = p.script("stop", component)
        assert (lines[1], status) == (f"no {component} to stop (could not find file ./bin/{component}.pid)", 0)


def test_monitor(package):
    """Started again when killed; `stop` ends both; a killed monitor leaves its daemon to `stop`."""
    p, component = package, "data_collector"
    lines, status = p.script("start", component, "mon")
    monitor, child = p.pid(component), p.pid(component, ".child")
    assert lines[1:] == [
        f"mon pid is {monitor}, process pid is {child}, check {child} status",
        f"Start {component} success",
    ]
    assert status == 0
    os.kill(child, signal.SIGKILL)
    wait_for("another process", lambda: p.pid(component, ".child") not in (None, child))
    wait_for("it to register", lambda: p.log(component).count("registered") == 2)
    second = p.pid(component, ".child")
    assert f"process {child} has ended" in (p.top / f"logs/{component}_mon.log").read_text()
    assert p.script("stop", component) == ([f"Stopping {component} ... ", f"Stop {component} success(mon mode)"], 0)
    assert not runs(monitor) and not runs(second)
    assert p.pid(component) is None and p.pid(component, ".child") is None

    assert p.script("start", component, "mon")[1] == 0
    monitor, child = p.pid(component), p.pid(component, ".child")
    os.kill(monitor, signal.SIGKILL)
    wait_for("the monitor to end", lambda: not runs(monitor))
    lines, status = p.script("stop", component)
    assert "After mon stopped, component is still alive, kill it" in lines and not runs(child)


def test_start_that_fails(package):
    p = package
    with open(p.top / "conf/data_collector.flags", "a") as f:
        f.write("--collector_data_dir=/x\n")
    lines, status = p.script("start", "data_collector")
    assert re.fullmatch(r"Start data_collector failed! Please check log in .*/logs/data_collector\.log ", lines[-1])
    assert status == 0 and p.pid("data_collector") is None
    assert re.search(
        r"conf/data_collector\.flags, line \d+: unknown key 'collector_data_dir'; did you mean 'collector_datadir'\?",
        p.log("data_collector"),
    )
    with socket.create_server(("127.0.0.1", p.ports["synctool"])):  # another process has its port
        assert p.script("start", "synctool")[0][-1].startswith("Start synctool failed!")
    assert p.script("start", "synctool")[0][-1] == "Start synctool success"


def test_a_number_of_another_process_is_no_pid(package):
    """After a reboot, what a pid file names may be anybody."""
    p, component = package, "synctool"
    (p.top / f"bin/{component}.pid").write_text(f"{os.getpid()}\n")
    assert p.script("stop", component) == (stopped(component), 0)
    (p.top / f"bin/{component}.pid").write_text(f"{os.getpid()}\n")
    lines, status = p.script("start", component)
    assert (lines, status) == (started(component, p.pid(component)), 0)


@pytest.mark.parametrize(
    "arguments, first, status",
    [
        ([], "Usage: start.sh start/stop/restart <component> [mon]", 1),
        (["start"], "Usage: start.sh start/stop/restart <component> [mon]", 1),
        (["start", "tablet"], "No component named tablet in [data_collector synctool]", 1),
        (["jump", "synctool"], "Only support {start|stop|restart}", 0),
    ],
)
def test_wrong_arguments(package, arguments, first, status):
    lines, got = package.script(*arguments)
    assert (lines[0], got) == (first, status)


def test_in_openmldbs_own_package(installed, tmp_path, zookeeper):
    """The way of docs/migration.md: OpenMLDB's folder, its configuration and its script stay, and what the script runs
    becomes a link."""
    top = tmp_path / "openmldb"
    for folder in ("bin", "synctool/bin", "synctool/conf"):
        (top / folder).mkdir(parents=True)
    shutil.copy(installed / "bin/start.sh", top / "bin/start.sh")
    (top / "bin/data_collector").symlink_to(installed / "bin/osync-collectord")
    (top / "synctool/bin/synctool.sh").symlink_to(installed / "synctool/bin/synctool.sh")
    with Package(top, tmp_path, zookeeper) as p:
        for component in p.COMPONENTS:
            lines, status = p.script("start", component)
            assert (lines, status) == (started(component, p.pid(component)), 0), p.log(component)
        assert (tmp_path / "data_collector").is_dir() and (tmp_path / "sync_task_progress/checkpoint.db").exists()


@pytest.mark.parametrize("name", ["osync-collectord", "osync-syncd"])
def test_systemd_unit(build, tmp_path, name):
    """It names what is installed; and the daemon tells systemd when it serves and when it ends."""
    install(build, tmp_path)
    unit = next(tmp_path.rglob(f"systemd/system/{name}.service")).read_text()
    assert "@" not in re.sub(r"@system-service", "", unit)
    command = re.search(r"^ExecStart=(.*)$", unit, re.M).group(1).split()
    for path in (command[0], command[-1].removeprefix("--flagfile=")):
        assert (tmp_path / path.lstrip("/")).is_file(), path
    assert "Type=notify" in unit and "Restart=always" in unit
    # A mount of its own would keep the collector from linking the TabletServer's files.
    assert not re.search(r"^(PrivateTmp|ProtectHome|ReadWritePaths|BindPaths|DynamicUser)=", unit, re.M)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(30)
        arguments = {
            "osync-collectord": [
                "--zk_cluster=127.0.0.1:1",
                f"--collector_datadir={tmp_path}/c",
                "--endpoint=127.0.0.1:0",
            ],
            "osync-syncd": [
                "zookeeper.cluster=127.0.0.1:1",
                f"sync_task.progress_path={tmp_path}/s",
                "server.host=127.0.0.1",
                "server.port=0",
            ],
        }[name]
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        daemon = Daemon(build / "daemons" / name, arguments, tmp_path / "log", env).start()
        try:
            assert notify.recv(100) == b"READY=1", daemon.text()
            assert daemon.end() == 0
            assert notify.recv(100) == b"STOPPING=1"
        finally:
            daemon.kill()
