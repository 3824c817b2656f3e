"""libosync/zk against a real ZooKeeper: the program tests/unit/test_zk with a server of its own, which it kills,
stops and restarts."""

import os
import pathlib
import subprocess
import sys

import zookeeper


def test_zk_client(tmp_path, build):
    server = zookeeper.ZooKeeper(tmp_path / "zookeeper").start()
    script = pathlib.Path(zookeeper.__file__).resolve()
    env = dict(
        os.environ,
        OSYNC_TEST_ZK=server.address,
        OSYNC_TEST_ZK_DIR=str(server.folder),
        OSYNC_TEST_ZK_RESTART=f"'{sys.executable}' '{script}' restart '{server.folder}'",
    )
    try:
        run = subprocess.run(
            [build / "tests/unit/test_zk"],
            env=env,
            timeout=180,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    finally:
        zookeeper.stop_by_folder(server.folder)
        server.kill()
    print(run.stdout)
    assert run.returncode == 0, run.stdout
