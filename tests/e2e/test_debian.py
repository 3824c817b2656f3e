"""The Debian packages as an administrator meets them: built from the source package, installed with dpkg, configured,
started as the units say, and purged. All that happens to a copy of this machine's file system, an overlay in a mount
namespace of its own, which is gone in the end; where such a thing is not allowed (a container), to the machine itself,
if it has none of the packages."""

import os
import pathlib
import re
import shutil
import socket
import subprocess

import pytest

from system import Daemon, wait_for
from tablet import Tablet, column, index
from zookeeper import free_port

TOP = pathlib.Path(__file__).parents[2]
PATH = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMES = ["libosync1", "libosync-dev", "osync", "python3-osync"]
SETUP = """
mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" root
mount --bind /proc root/proc && mount --rbind /dev root/dev && mount -t tmpfs tmpfs root/run
mkdir -p "root$2" && mount --bind "$2" "root$2"
echo ready && exec cat
"""
PROGRAM = r"""
#include <osync/error.h>
#include <osync/sink.h>
#include <osync/version.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    uv_loop_t loop;
    osync_sink_t *sink = NULL;
    osync_error_t err = {0};
    if (uv_loop_init(&loop) || osync_file_sink_new(&sink, &loop, 1, &err)) return 1;
    sink->ops->close(sink, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    puts(osync_version());
    return strcmp(osync_version(), OSYNC_VERSION) || uv_loop_close(&loop);
}
"""


def version():
    """The one place of the number."""
    return re.search(r"^project\(.*? version: '([^']+)'", (TOP / "meson.build").read_text(), re.M).group(1)


def quietly(log, command, **more):
    """Runs it; what it said is shown if it fails."""
    with open(log, "wb") as out:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False, **more
        ).returncode
    assert status == 0, f"{command}: exit status {status}\n{log.read_text(errors='replace')[-5000:]}"
    return log.read_text(errors="replace")


@pytest.fixture(scope="module")
def packages(build):
    """The folder with the source package and what is built from it. Always the same folder, for ccache."""
    folder = build / "debian"
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "libosync"
    source.mkdir(parents=True)
    listed = ["git", "-C", TOP, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (TOP / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, source / name, follow_symlinks=False)
    env = {**os.environ, "PATH": PATH, "DEB_BUILD_OPTIONS": "nocheck parallel=2 noautodbgsym"}
    env["DEB_BUILD_PROFILES"] = "nocheck"
    for name in ("CC", "CFLAGS", "LDFLAGS"):
        env.pop(name, None)
    if shutil.which("ccache", path=PATH):  # the build has a home folder of its own
        where = subprocess.run(["ccache", "-k", "cache_dir"], check=True, capture_output=True, text=True).stdout
        env["CCACHE_DIR"] = where.strip()
    quietly(folder / "build.log", ["dpkg-buildpackage", "-us", "-uc"], cwd=source, env=env)
    return folder


def files(packages):
    return [next(packages.glob(f"{name}_{version()}_*.deb")) for name in NAMES]


class Machine:
    """A copy of this machine that shares its network and the folder `shared`; or this machine itself."""

    def __init__(self, folder, shared):
        assert os.getuid() == 0, "packages are installed by root"
        self.root, self.holder, self.enter, self.shared = pathlib.Path("/"), None, [], shared
        (folder / "machine").mkdir()
        alone = ["unshare", "--mount", "--propagation", "private"]
        with open(folder / "machine.log", "wb") as log:
            holder = subprocess.Popen(
                [*alone, "sh", "-ec", SETUP, "sh", folder / "machine", shared],
                stdin=subprocess.PIPE,  # it ends with this process
                stdout=subprocess.PIPE,
                stderr=log,
            )
        if holder.stdout.readline() == b"ready\n":
            self.holder = holder
            self.root = pathlib.Path(f"/proc/{holder.pid}/root{folder}/machine/root")
            self.enter = ["nsenter", f"--target={holder.pid}", "--mount", "chroot", f"{folder}/machine/root"]
        else:
            holder.communicate()
            there = [n for n in NAMES if self.state(n) not in ("", "not-installed")]
            assert not there, f"no mount namespace ({folder}/machine.log), and this machine has {there} already"

    def close(self):
        if self.holder:
            self.holder.stdin.close()
            self.holder.wait()

    def run(self, *command, **env):
        done = subprocess.run(
            [
                *self.enter,
                "env",
                "-i",
                f"PATH={PATH}",
                "LC_ALL=C.UTF-8",
                *(f"{k}={v}" for k, v in env.items()),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def path(self, name):
        return self.root / name.lstrip("/")

    def state(self, package):
        return subprocess.run(
            [*self.enter, "dpkg-query", "-W", "-f", "${db:Status-Status}", package],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def change(self, name, changes):
        """Edits a configuration file as an administrator does."""
        text = self.path(name).read_text()
        for old, new in changes.items():
            assert old in text, (name, old)
            text = text.replace(old, new)
        self.path(name).write_text(text)

    def daemon(self, name, log, user=None):
        """As its unit says, or under another user as by `systemctl edit`."""
        unit = self.path(f"lib/systemd/system/{name}.service").read_text()
        command = re.search(r"^ExecStart=(.*)$", unit, re.M).group(1).split()
        user = user or re.search(r"^User=(.*)$", unit, re.M).group(1)
        group = self.run("id", "-gn", user).strip()
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", "--no-new-privs"]
        first, *rest = [*self.enter, "env", "-i", f"PATH={PATH}", *become, *command]
        return Daemon(first, rest, log).start()


def install(machine):
    """Also what small images of Debian leave out."""
    everything = [f"--path-include=/usr/share/{f}/*" for f in ("man", "doc", "lintian")]
    machine.run("dpkg", *everything, "--install", *(str(f) for f in sorted(machine.shared.glob("*.deb"))))


@pytest.fixture(scope="module")
def machine(packages, tmp_path_factory):
    """With the packages installed."""
    folder = tmp_path_factory.mktemp("debian")
    shared = folder / "shared"
    shared.mkdir()
    m = Machine(folder, shared)
    try:
        for file in files(packages):
            shutil.copy(file, shared)
        install(m)
        yield m
    finally:
        if not m.holder:
            m.run("dpkg", "--purge", *NAMES)
        m.close()


def test_versions(packages):
    """One number, everywhere."""

    def field(name):
        return subprocess.run(
            ["dpkg-parsechangelog", "-S", name, "-l", TOP / "debian/changelog"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    assert (field("Source"), field("Version")) == ("libosync", version())
    assert re.search(r"^## \[(.*?)\]", (TOP / "CHANGELOG.md").read_text(), re.M).group(1) == version()
    assert (packages / f"libosync_{version()}.dsc").is_file()
    assert len(files(packages)) == len(NAMES)


def test_lintian(packages):
    """No errors, no warnings."""
    changes = next(packages.glob("*.changes"))
    allow = ["--allow-root"] if os.getuid() == 0 else []
    command = ["lintian", "--fail-on", "error,warning", "--no-cfg", *allow, changes]
    quietly(packages / "lintian.log", command, env={**os.environ, "PATH": PATH})


def test_installed(machine):
    m = machine
    assert {n: m.state(n) for n in NAMES} == dict.fromkeys(NAMES, "installed")
    for program in ("osync-collectord", "osync-syncd", "osync-dump", "osync"):
        assert m.run(program, "--version").strip().endswith(version())
    m.run("synctool_helper.py", "--help")
    for source in sorted((TOP / "docs/man").glob("*.in")):
        assert m.path(f"usr/share/man/man{source.stem[-1]}/{source.stem}.gz").is_file()
    # Nothing is started before it is configured.
    assert not list(m.path("etc/systemd/system").rglob("osync-*"))
    for name in ("collector", "syncd"):
        assert m.run("stat", "-c", "%U:%G %a", f"/var/lib/osync/{name}") == "osync:osync 750\n"


def test_program_in_c(machine):
    (machine.shared / "program.c").write_text(PROGRAM)
    build = f"cd {machine.shared} && cc -Wall -Werror program.c -o program $(pkg-config --cflags --libs libosync)"
    machine.run("sh", "-ec", f"{build} && ./program")
    assert machine.run("pkg-config", "--modversion", "libosync").strip() == version()
    assert machine.run("pkg-config", "--print-requires", "libosync").split()[0] == "libuv"


def test_program_in_python(machine):
    code = "import osync, osync.errors; print(osync.__file__, osync.errors.NotFoundError.__mro__)"
    said = machine.run("python3", "-c", f"import os; os.chdir('/'); {code}")
    assert said.startswith("/usr/lib/python3/dist-packages/osync/__init__.py") and "OsyncError" in said


def test_completion(machine):
    """bash finds it where bash-completion looks."""
    file = "/usr/share/bash-completion/completions/osync"
    assert " osync" in machine.run("bash", "-ec", f". {file}; complete -p osync")
    assert machine.path("usr/share/zsh/vendor-completions/_osync").read_text().startswith("#compdef osync")
    assert "complete -c osync" in machine.path("usr/share/fish/vendor_completions.d/osync.fish").read_text()


def test_daemons(build, machine, zookeeper, hdfs):
    """A table to HDFS, with the installed configuration, as the units start the daemons. The collector runs as the
    TabletServer's user, and keeps its links where that keeps its files: what README.Debian says has to be changed."""
    m, root = machine, f"/debian-{free_port()}"
    ports = {"collector": free_port(), "syncd": free_port()}
    address = f"127.0.0.1:{ports['syncd']}"
    links = m.shared / "links"
    m.change(
        "etc/osync/data_collector.flags",
        {
            "127.0.0.1:8888": f"127.0.0.1:{ports['collector']}",
            "127.0.0.1:2181": zookeeper.address,
            "=/openmldb": f"={root}",
            "/var/lib/osync/collector": str(links),
            "--log_level=info": "--log_level=info\n--snapshot_settle_ms=0",
        },
    )
    m.change(
        "etc/osync/synctool.properties",
        {
            "=8848": f"={ports['syncd']}",
            "127.0.0.1:2181": zookeeper.address,
            "=/openmldb": f"={root}",
            "check_period=10": "check_period=1",
        },
    )
    dest = f"webhdfs://{hdfs.http_address}{root}"
    started = []
    with Tablet(build, m.shared / "tablet", zookeeper.address, root) as tablet:
        tablet.create_table(1, "t", [column("id", "bigint"), column("k", "string")], [index("i", ["k"])])
        tablet.put(1, [{"id": i, "k": f"k{i}"} for i in range(500)])
        try:
            started.append(m.daemon("osync-syncd", m.shared / "syncd.log"))
            started.append(m.daemon("osync-collectord", m.shared / "collectord.log", user="root"))
            syncd, collectord = started
            wait_for(
                "the collector to register",
                lambda: "registered" in collectord.text() or any(d.process.poll() is not None for d in started),
            )
            wait_for("osync-syncd to listen", lambda: socket.socket().connect_ex(("127.0.0.1", ports["syncd"])) == 0)
            m.run("osync", "-s", address, "create", "db.t", dest, "--wait")
            assert m.run("osync", "status", OSYNC_SCHEDULER=address) == "no sync task\n"
            assert m.run("synctool_helper.py", "status", "-s", address) == "no task\n"
            assert f"127.0.0.1:{ports['collector']}" in m.run("osync", "-s", address, "collectors")
            rows = b"".join(hdfs.read(n) for n in hdfs.list(root) if not re.search(r"/[._]", n[len(root) :]))
            assert sorted(int(line.split(b",")[0]) for line in rows.splitlines()) == list(range(500))
            assert m.run("stat", "-c", "%U", "/var/lib/osync/syncd/checkpoint.db") == "osync\n"
            assert all(d.end() == 0 for d in started), syncd.text() + collectord.text()
        finally:
            for daemon in started:
                daemon.kill()


def test_purge(machine):
    """It leaves the user, and what the administrator has put elsewhere. Then they can be installed again."""
    m = machine
    left = set()
    for name in NAMES:
        left |= set(m.run("dpkg", "--listfiles", name).splitlines())
    m.run("dpkg", "--purge", *NAMES)
    assert {m.state(n) for n in NAMES} <= {"", "not-installed"}
    assert not [f for f in left if "osync" in f and os.path.lexists(m.path(f))]
    for name in ("etc/osync", "var/lib/osync", "usr/lib/python3/dist-packages/osync", "usr/share/doc/osync"):
        assert not m.path(name).exists(), name
    install(m)
