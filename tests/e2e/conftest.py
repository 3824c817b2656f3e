"""What the end-to-end tests share. OSYNC_BUILD names meson's build folder with the programs to test."""

import os
import pathlib

import pytest

from hdfs import Hdfs
from zookeeper import ZooKeeper


@pytest.fixture(scope="session")
def build():
    folder = os.environ.get("OSYNC_BUILD")
    if not folder or not pathlib.Path(folder, "build.ninja").exists():
        pytest.exit("OSYNC_BUILD must name a meson build folder with the programs to test", returncode=2)
    return pathlib.Path(folder).resolve()


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
def golden(build):
    """Tables written by OpenMLDB's own storage code (tests/fixtures/README.md), as the build has unpacked them."""
    return build / "tests/golden"
