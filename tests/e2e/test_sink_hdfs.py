"""The WebHDFS sink against a real HDFS: the program sink_exercise does the calls, this looks at the outcome from
outside."""

import os
import subprocess


def command(build, hdfs, scenario):
    return dict(
        args=[build / "tests/e2e/sink_exercise", scenario],
        env={**os.environ, "HADOOP_CONF_DIR": hdfs.conf_dir},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(build, hdfs, scenario):
    done = subprocess.run(**command(build, hdfs, scenario), timeout=120)
    print(done.stdout)
    assert done.returncode == 0, done.stdout


def test_streams_a_large_file_in_bounded_memory(build, hdfs):
    run(build, hdfs, "stream")
    data = hdfs.read("/stream/big")
    assert len(data) == 300 << 20
    for i in range(300):
        assert data[i << 20] == data[(i + 1 << 20) - 1] == i % 256
    hdfs.delete("/stream")


def test_keeps_the_promises_of_the_interface(build, hdfs):
    run(build, hdfs, "promises")
    assert hdfs.read("/p/final") == b"hello\n"
    assert hdfs.read("/p/ö %+&=;#?'\"x\\y/ö %+&=;#?'\"x\\y") == b"odd"
    assert not hdfs.exists("/p/stolen") and not hdfs.exists("/p/none")
    hdfs.delete("/p")


def test_lists_a_folder_of_several_pages(build, hdfs):
    run(build, hdfs, "many")


def test_a_killed_datanode_is_an_error_and_not_a_hang(build, hdfs):
    child = subprocess.Popen(**command(build, hdfs, "killed"))
    try:
        assert child.stdout.readline() == "writing\n"
        hdfs.kill_datanode()
        out, _ = child.communicate(timeout=60)
        print(out)
        assert child.returncode == 0, out
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        hdfs.restart_datanode()
    run(build, hdfs, "promises")  # and it goes on
    hdfs.delete("/p")


def test_a_restarted_namenode_is_found_again(build, hdfs):
    hdfs.kill_namenode()
    failed = subprocess.run(**command(build, hdfs, "promises"), timeout=60)
    assert failed.returncode == 1 and "OSYNC_ECONN" in failed.stdout
    hdfs.restart_namenode()
    run(build, hdfs, "promises")
    hdfs.delete("/p")
