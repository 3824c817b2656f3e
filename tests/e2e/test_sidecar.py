"""examples/sidecar.c: a process that has a collector inside and tells it itself where the tables are. The test
TabletServer only writes the files and the nodes in ZooKeeper."""

import subprocess

from system import Daemon, System, wait_for
from zookeeper import free_port

KILLS = 5


def add_sidecar(s):
    endpoint = f"127.0.0.1:{free_port()}"
    keys = {
        "endpoint": endpoint,
        "zk_cluster": s.zookeeper.address,
        "zk_root_path": s.root,
        "collector_datadir": s.folder / "sidecar",
        **s.conf["collector"],
    }
    sidecar = Daemon(
        s.build / "examples/sidecar",
        [str(s.tablet.root), *(f"--{k}={v}" for k, v in keys.items())],
        s.folder / "sidecar.log",
    )
    sidecar.endpoint = endpoint
    s.collectors.append(sidecar.start())  # so that it is ended, and its exit status looked at
    return sidecar


def test_its_tables_are_synced_through_kills(build, tmp_path, zookeeper, numbers):
    with System(build, tmp_path, zookeeper) as s:
        s.make_table(1, "t")
        ids = list(s.fill(1, 4000))
        sidecar = add_sidecar(s)
        s.start_syncd()
        s.wait_registered()
        s.tablet.pause()  # whoever asks it gets no answer
        try:
            s.create("t", 2)
            s.wait_rows("t", len(ids))
        finally:
            s.tablet.resume()
        for _ in range(KILLS):
            before = len(ids)
            s.tablet.generate(1, 300, first_id=before)
            wait_for("some of the new rows", lambda before=before: len(s.lines("t")) > before)
            sidecar.kill()
            s.tablet.generate(1, 100, first_id=before + 300)
            ids += range(before, before + 400)
            sidecar.start()
        s.wait_rows("t", len(ids))
        wait_for("every row to be committed", lambda: len(s.lines("t")) >= len(ids))
        lost, twice = s.audit("t", ids)
        numbers.add("kills", KILLS)
        numbers.audited(len(ids), lost, twice)
        assert sidecar.end() == 0


def test_what_is_wrong_is_said(build, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [build / "examples/sidecar", *arguments], capture_output=True, text=True, check=False, timeout=60
        )

    done = run()
    assert done.returncode == 2 and "usage: sidecar" in done.stderr
    done = run(str(tmp_path / "none"))
    assert done.returncode == 2 and f"{tmp_path}/none: No such file or directory" in done.stderr
    done = run(str(tmp_path), "--max_pak_size=1")
    assert done.returncode == 1 and "max_pack_size" in done.stderr
    done = run(str(tmp_path))
    assert done.returncode == 1 and "zk_cluster" in done.stderr
