"""What the end-to-end tests share. OSYNC_BUILD names meson's build folder with the programs to test."""

import collections
import os
import pathlib

import pytest

from faults import has_failpoints
from hdfs import Hdfs
from install import install
from zookeeper import ZooKeeper


@pytest.fixture(scope="session")
def build():
    folder = os.environ.get("OSYNC_BUILD")
    if not folder or not pathlib.Path(folder, "build.ninja").exists():
        pytest.exit("OSYNC_BUILD must name a meson build folder with the programs to test", returncode=2)
    return pathlib.Path(folder).resolve()


@pytest.fixture(scope="session")
def fault_build(build):
    """The build whose daemons can be ended at a named step: OSYNC_BUILD_FAULTS, else OSYNC_BUILD."""
    folder = pathlib.Path(os.environ.get("OSYNC_BUILD_FAULTS") or build).resolve()
    assert has_failpoints(folder), f"{folder} is not built with -Dfailpoints=true: name one in OSYNC_BUILD_FAULTS"
    return folder


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory):
    """One server for all tests that don't disturb it. Tests that share it keep to a root path of their own."""
    server = ZooKeeper(tmp_path_factory.mktemp("zookeeper")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory):
    """A real NameNode and DataNode, shared by all tests of a run: each works in a folder of its own, and a test that
    kills a server restarts it."""
    with Hdfs(tmp_path_factory.mktemp("hdfs")) as h:
        yield h


@pytest.fixture(scope="session")
def installed(build, tmp_path_factory):
    """The installed tree, below a folder that stands for /. Nobody changes it."""
    dest = tmp_path_factory.mktemp("installed")
    install(build, dest)
    return dest


@pytest.fixture(scope="session")
def golden(build):
    """Tables written by OpenMLDB's own storage code (tests/fixtures/README.md), as the build has unpacked them."""
    return build / "tests/golden"


class Numbers:
    """What fault tests did and counted, printed at the end of the run. OSYNC_NUMBERS names a file with
    lines "name count" of the programs that ran before, which are added to them."""

    def __init__(self):
        self.sums = collections.Counter()

    def add(self, name, count=1):
        self.sums[name] += count

    def audited(self, rows, lost=0, twice=0):
        """`rows` rows were compared with what was put."""
        self.add("rows checked", rows)
        self.add("lost", lost)
        self.add("twice", twice)


def pytest_configure(config):
    config.numbers = Numbers()


@pytest.fixture(scope="session")
def numbers(request):
    return request.config.numbers


def pytest_terminal_summary(terminalreporter, config):
    sums = collections.Counter(config.numbers.sums)
    file = os.environ.get("OSYNC_NUMBERS")
    if file and pathlib.Path(file).exists():
        for line in pathlib.Path(file).read_text().splitlines():
            name, count = line.rsplit(" ", 1)
            sums[name] += int(count)
    if sums:
        last = ["rows checked", "lost", "twice"]
        names = [n for n in sums if n not in last] + [n for n in last if n in sums]
        terminalreporter.section("numbers")
        terminalreporter.line(", ".join(f"{sums[n]} {n}" for n in names))
