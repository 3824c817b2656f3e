"""The daemons as programs: command line, configuration files, start-up errors, the status page."""

import json
import subprocess
import urllib.request

import pytest

from system import System

SYNCD = ["zookeeper.cluster=127.0.0.1:1", "sync_task.progress_path=/proc/nowhere"]
COLLECTORD = ["--endpoint=127.0.0.1:1", "--zk_cluster=127.0.0.1:1", "--collector_datadir=/proc/nowhere"]


def run(build, name, *arguments, cwd):
    done = subprocess.run(
        [build / "daemons" / name, *arguments], capture_output=True, text=True, check=False, timeout=30, cwd=cwd
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("osync-syncd", [], "zookeeper.cluster is not set"),
        ("osync-syncd", ["zookeper.cluster=x"], "unknown key 'zookeper.cluster'; did you mean 'zookeeper.cluster'?"),
        ("osync-syncd", ["server.port=99999"], "server.port: 99999 is out of range: 0 to 65535"),
        ("osync-syncd", ["roll.size=many"], "roll.size: 'many' is not a number of bytes"),
        ("osync-syncd", SYNCD, "/proc/nowhere"),
        ("osync-syncd", ["-c", "/nonexistent"], "/nonexistent: No such file or directory"),
        ("osync-collectord", [], "zk_cluster is not set"),
        ("osync-collectord", ["--max_pack_sizes=3"], "unknown key 'max_pack_sizes'; did you mean 'max_pack_size'?"),
        ("osync-collectord", COLLECTORD, "/proc/nowhere"),
        ("osync-collectord", ["--flagfile=/nonexistent"], "/nonexistent: No such file or directory"),
        ("osync-collectord", ["endpoint=x"], "'endpoint=x' is not of the form --key=value"),
    ],
)
def test_start_up_errors(build, tmp_path, name, arguments, message):
    status, _, err = run(build, name, *arguments, cwd=tmp_path)
    assert status == 1
    assert message in err


def test_error_in_a_file_names_its_line(build, tmp_path):
    flags = tmp_path / "data_collector.flags"
    flags.write_text("# a comment\n--endpoint=127.0.0.1:1\n\n--zk_clusters=127.0.0.1:1\n")
    _, _, err = run(build, "osync-collectord", f"--flagfile={flags}", cwd=tmp_path)
    assert f"{flags}, line 4: unknown key 'zk_clusters'; did you mean 'zk_cluster'?" in err
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/synctool.properties").write_text("server.host = 0.0.0.0\nrequest.timeout=\\\n  soon\n")
    _, _, err = run(build, "osync-syncd", cwd=tmp_path)
    assert "conf/synctool.properties, line 2: request.timeout: 'soon' is not a time" in err


def test_keys_of_the_original_are_accepted(build, tmp_path):
    """Each key that OpenMLDB's shipped files have; one without a meaning here is named, with the reason."""
    flags = tmp_path / "data_collector.flags"
    flags.write_text(
        "--endpoint=127.0.0.1:1\n--zk_cluster=127.0.0.1:1\n--zk_root_path=/openmldb\n"
        "--collector_datadir=/proc/nowhere\n--enable_status_service=true\n--openmldb_log_dir=./logs\n--log_level=info\n"
    )
    _, _, err = run(build, "osync-collectord", f"--flagfile={flags}", "--max_traverse_cnt=5", cwd=tmp_path)
    assert "unknown key" not in err and "/proc/nowhere" in err
    assert "max_traverse_cnt has no meaning here (a snapshot is always read to its end)" in err  # defect 10
    properties = tmp_path / "synctool.properties"
    properties.write_text(
        "server.host=0.0.0.0\nserver.port=8848\nserver.worker_threads=16\nserver.io_threads=4\n"
        "zookeeper.cluster=127.0.0.1:1\nzookeeper.root_path=/openmldb\nzookeeper.cert=\nuser=root\npassword=\n"
        "sync_task.progress_path=/proc/nowhere\nsync_task.check_period=10\nrequest.timeout=5\n"
        "hadoop.conf.dir=/etc/hadoop/conf\ndata.cache_path=/tmp\nflink.slots=32\n"
    )
    _, _, err = run(build, "osync-syncd", "-c", properties, cwd=tmp_path)
    assert "unknown key" not in err and "/proc/nowhere" in err


@pytest.mark.parametrize("name", ["osync-syncd", "osync-collectord"])
def test_help_and_version(build, tmp_path, name):
    status, out, _ = run(build, name, "--version", cwd=tmp_path)
    assert status == 0 and out.count(".") == 2
    status, out, _ = run(build, name, "--help", cwd=tmp_path)
    assert status == 0 and "request" in out


def test_a_second_daemon_on_the_same_folder_is_refused(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper) as s:
        s.start()
        status, _, err = run(
            build, "osync-syncd", "-c", tmp_path / "synctool.properties", "server.port=0", cwd=tmp_path
        )
        assert status == 1 and "checkpoint.db" in err
        status, _, err = run(
            build,
            "osync-collectord",
            f"--flagfile={tmp_path}/collector-0.flags",
            "--endpoint=127.0.0.1:0",
            cwd=tmp_path,
        )
        assert status == 1 and "collector-0" in err


def test_status_pages(build, tmp_path, zookeeper):
    with System(build, tmp_path, zookeeper) as s:
        s.make_table(1, "t")
        s.tablet.generate(1, 1000)
        s.start()
        s.create("t", 2)
        s.wait_rows("t", 1000)
        for endpoint, words in (
            (s.collectors[0].endpoint, ["1-0", "1-1", "following"]),
            (f"127.0.0.1:{s.syncd_port}", ["RUNNING", "following", s.collectors[0].endpoint]),
        ):
            with urllib.request.urlopen(f"http://{endpoint}/status", timeout=10) as page:
                text = page.read().decode()
            assert all(word in text for word in words), text
            with urllib.request.urlopen(f"http://{endpoint}/status?format=json", timeout=10) as page:
                json.load(page)
            assert next(iter(s.tasks().values()))["progress"]["token"] not in text
