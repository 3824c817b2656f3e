"""Memory tables, end to end: their .sdb snapshots and their log, in all three modes, and where it is refused to read
them."""

import json
import shutil
import subprocess
import time

import pytest

from system import System, wait_for
from tablet import column, index

BASE = 1_700_000_000_000


@pytest.fixture
def local(build, tmp_path, zookeeper):
    conf = {"collector": {"db_root_path": f"{tmp_path}/nothing,{tmp_path}/tablet"}}
    with System(build, tmp_path, zookeeper, conf=conf) as s:
        yield s


def row(i, key=None, ts=None):
    return {"id": i, "k": key or f"k{i % 7}", "ts": BASE + (i if ts is None else ts), "v": i / 4, "payload": "x" * 50}


def purge(s, tid):
    """What a snapshot makes needless goes from the log: all but the last file before it."""
    s.tablet.roll(tid)
    s.tablet.purge(tid)


@pytest.mark.parametrize("compression", [None, "zlib", "snappy"])
def test_mode0(local, compression):
    """What was deleted is left out, before the snapshot and behind it; two puts of one key and ts are two rows."""
    s = local
    s.make_table(1, "m", storage_mode="kMemory", snappy=compression == "snappy")
    s.tablet.put(1, [row(i) for i in range(300)])
    s.tablet.put(1, [row(300 + i, "same", 5) for i in range(20)])
    s.tablet.delete(1, "k3")
    s.tablet.snapshot(1, compression=compression)
    s.tablet.put(1, [row(400 + i) for i in range(300)])
    purge(s, 1)
    s.tablet.delete(1, "k4", end_ts=BASE + 450)
    s.tablet.snapshot(1, compression=compression)  # made from the one before, and the log since then
    purge(s, 1)
    s.tablet.put(1, [row(700 + i) for i in range(300)])
    s.tablet.delete(1, "k5")
    s.tablet.put(1, [row(1000 + i, "k5", 2000 + i) for i in range(3)])
    ids = [i for i in (*range(300), *range(400, 700), *range(700, 1000)) if i % 7 != 5]
    ids = [i for i in ids if i % 7 != 3 or i >= 400]
    ids = [i for i in ids if i % 7 != 4 or i <= 450 or i >= 700]
    # k4 up to ts 450 was not deleted; k5 was all deleted, but for what came later.
    expected = {*ids, *range(300, 320), *range(1000, 1003)}
    dumped = set()
    for pid in range(2):
        folder = s.tablet.partition(1, pid)
        run = [s.build / "examples/osync-dump", "--meta", folder / "table_meta.pb", "--partition", folder]
        dumped |= {int(line.split(",")[0]) for line in subprocess.check_output(run, text=True).splitlines()}
    assert dumped == expected
    s.start()
    s.create("m", 0)
    s.wait_gone()
    s.audit("m", expected)


def test_large_and_compressed(local):
    """Rows over many frames, and rows larger than a block of the log."""
    s = local
    s.make_table(1, "m", storage_mode="kMemory", partitions=3)
    s.tablet.put(1, [{**row(i), "payload": "y" * (1 << 21)} for i in range(3)])
    s.tablet.generate(1, 20000, first_id=3, payload_bytes=200)
    s.tablet.snapshot(1, compression="zlib")
    purge(s, 1)
    s.tablet.generate(1, 5000, first_id=20003)
    s.start()
    s.create("m", 0)
    s.wait_gone()
    s.audit("m", range(25003))


def test_mode1(local):
    s = local
    s.make_table(1, "m", storage_mode="kMemory")
    s.tablet.put(1, [row(i) for i in range(1000)])
    s.tablet.snapshot(1)
    s.tablet.put(1, [row(i) for i in range(1000, 1500)])
    s.start()
    s.create("m", 1, ts=BASE + 400)
    s.wait_rows("m", 1100)
    s.tablet.put(1, [row(9000, ts=10), *(row(i) for i in range(1500, 1600))])
    s.wait_rows("m", 1200)
    s.audit("m", range(400, 1600))


def test_mode2_and_kills(local):
    """Either daemon is killed while rows of the .sdb are under way, with another .sdb in its place when it is back, and
    while the log is followed, with the collector's folder lost."""
    s = local
    s.conf["collector"]["max_pack_size"] = "2K"
    s.conf["syncd"]["roll.interval"] = "20ms"
    s.make_table(1, "m", storage_mode="kMemory")
    s.tablet.generate(1, 40000, payload_bytes=400)
    s.tablet.snapshot(1)
    s.tablet.generate(1, 1000, first_id=40000)
    s.start()
    s.create("m", 2)
    done, n, in_snapshot = 0, 41000, 0

    def committed():
        return sum(int(t.get("count", 0)) for t in s.tasks().values())

    for kill in range(6):
        wait_for("more rows", lambda now=done: committed() > now)
        points = [t["progress"].get("syncPoint", {}).get("type") for t in s.tasks().values()]
        in_snapshot += "kSNAPSHOT" in points
        victim = [s.collectors[0], s.syncd][kill % 2]
        victim.kill()
        s.tablet.generate(1, 100, first_id=n)
        n += 100
        s.tablet.snapshot(1, compression=[None, "snappy", "zlib"][kill % 3])
        s.tablet.roll(1)
        if kill == 2:
            shutil.rmtree(s.folder / "collector-0")
        victim.start()
        if victim is s.syncd:
            s.wait_listening()
        done = committed()
    assert in_snapshot > 1, "too fast for this test"
    s.wait_rows("m", n)
    purge(s, 1)
    s.tablet.generate(1, 500, first_id=n)
    s.wait_rows("m", n + 500)
    s.audit("m", range(n + 500))


def test_index_of_another_partition_and_ttl(local):
    """A row is in each partition that one of its keys belongs to, and counts where its base key does. One that was
    deleted from the base index alone isn't a row any more; nor is one that has expired."""
    s = local
    indexes = [index("idx0", ["k"], ts="ts", abs_ttl=60), index("idx1", ["payload"])]
    s.make_table(1, "m", partitions=3, storage_mode="kMemory", indexes=indexes)
    now = int(time.time() * 1000)
    rows = [
        {
            "id": i,
            "k": f"k{i % 40}",
            "ts": now - (7_200_000 if i % 5 == 0 else 0) + i,
            "v": 0,
            "payload": f"p{i % 30}",
        }
        for i in range(600)
    ]
    s.tablet.put(1, rows[:300])
    s.tablet.delete(1, "k7")
    s.tablet.snapshot(1)
    purge(s, 1)
    s.tablet.put(1, rows[300:])
    s.tablet.delete(1, "k8")
    s.start()
    s.create("m", 0)
    s.wait_gone()
    s.audit("m", [i for i in range(600) if i % 5 and (i % 40 != 7 or i >= 300) and i % 40 != 8])


def test_added_column(local):
    s = local
    s.make_table(1, "m", storage_mode="kMemory", partitions=1)
    s.tablet.put(1, [row(i) for i in range(10)])
    s.tablet.add_column(1, "more", "int")
    s.tablet.put(1, [{**row(i), "more": i} for i in range(10, 20)], version=2)
    s.tablet.snapshot(1)
    s.tablet.put(1, [{**row(i), "more": i} for i in range(20, 30)], version=2)
    s.start()
    s.create("m", 0)
    s.wait_gone()
    s.audit("m", range(30))
    assert all(line.endswith(",null") for line in s.lines("m") if int(line.split(",")[0]) < 10)


def refusal(s, **flags):
    """What `create` answers if the collector has these flags."""
    s.add_collector(collector_datadir=s.folder / "refusing", **flags)
    if not s.syncd:
        s.start_syncd()
    s.wait_registered()
    answer = s.helper("create", "-t", "db.m", "-m", "0", "-d", s.dest("m"), status=1)
    assert s.tasks() == {}
    collector = s.collectors.pop()
    assert collector.end() == 0
    collector.log.unlink()  # so that the next one's tells when that is registered
    return json.loads(answer)["msg"]


def test_refusals(build, tmp_path, zookeeper):
    """The folder has to be the TabletServer's own."""
    with System(build, tmp_path, zookeeper) as s:
        s.make_table(1, "m", storage_mode="kMemory", partitions=1)
        s.tablet.put(1, [row(i) for i in range(50)])
        mine, old = s.tablet.root, tmp_path / "old"
        shutil.copytree(mine / "1_0", old / "1_0")
        assert "--db_root_path must name" in refusal(s)
        assert f"({tmp_path}/none) holds 1_0" in refusal(s, db_root_path=f"{tmp_path}/none")
        assert "only one of them is the TabletServer's" in refusal(s, db_root_path=f"{mine},{old}")
        s.tablet.put(1, [row(50)])  # the leftover's log ends before the tablet's
        said = refusal(s, db_root_path=old)
        assert "ends with entry 50, and the TabletServer's with 51" in said and f"{old}/1_0/binlog" in said
        shutil.rmtree(old)
        shutil.copytree(mine / "1_0", old / "1_0")  # now it ends behind it
        s.tablet.stop()
        shutil.rmtree(mine)
        s.tablet.start()
        s.make_table(1, "m", storage_mode="kMemory", partitions=1)
        assert "ends with entry 51, and the TabletServer's with 0" in refusal(s, db_root_path=old)
        (mine / "1_0/table_meta.txt").write_text('tid: 7\nname: "m"\npid: 0\ncolumn_desc {\n  name: "id"\n}\n')
        assert "is of table 7, partition 0" in refusal(s, db_root_path=mine)
        (mine / "1_0/table_meta.txt").write_text('tid: 1\nname: "m"\npid: 0\n')
        s.tablet.put(1, [row(i) for i in range(5)])
        s.add_collector(db_root_path=mine)
        s.wait_registered()
        s.create("m", 0)
        s.wait_gone()
        s.audit("m", range(5))


def test_snapshot_of_the_next_manifest(local):
    """A TabletServer was killed between the two renames, in the minute of the snapshot before: the file has more than
    MANIFEST says. A file that has less is an error."""
    s = local
    s.make_table(1, "m", storage_mode="kMemory", partitions=1)
    s.tablet.put(1, [row(i) for i in range(50)])
    s.tablet.snapshot(1)
    manifest = s.tablet.partition(1) / "snapshot/MANIFEST"
    before = manifest.read_text()
    name = before.split('"')[1]
    s.tablet.put(1, [row(i) for i in range(50, 80)])
    s.tablet.snapshot(1)
    manifest.write_text(before.replace(name, manifest.read_text().split('"')[1]))
    s.start()
    s.create("m", 0)
    s.wait_gone()
    s.audit("m", range(80))
    s.make_table(2, "n", storage_mode="kMemory", partitions=1)
    s.tablet.put(2, [row(i) for i in range(50)])
    s.tablet.snapshot(2)
    manifest = s.tablet.partition(2) / "snapshot/MANIFEST"
    manifest.write_text(manifest.read_text().replace("count: 50", "count: 51"))
    s.create("n", 0)
    wait_for("the task to fail", lambda: s.states() == {(2, 0): "FAILED"})
    assert "holds 50 records, and its MANIFEST says 51" in s.helper("status")


def test_fail_over(build, tmp_path, zookeeper):
    """The leader moves while the .sdb is read and while the log is; the other one's own snapshot goes on."""
    conf = {"collector": {"max_pack_size": "2K", "max_read_rate": "2M"}, "syncd": {"roll.interval": "20ms"}}
    hosts = ("127.0.0.1", "127.0.0.2")
    with System(build, tmp_path, zookeeper, conf=conf, hosts=hosts) as s:
        s.make_copied_table(1, "m", storage_mode="kMemory")
        a, b = s.tablets
        a.generate(1, 30000, payload_bytes=400)
        s.replicas.wait_copied(1)
        a.snapshot(1)
        a.generate(1, 500, first_id=30000)
        s.replicas.wait_copied(1)
        b.snapshot(1, compression="zlib")
        for t in s.tablets:
            s.add_collector(t.host, db_root_path=t.root)
        s.start_syncd()
        s.wait_registered()
        s.create("m", 2)
        wait_for("rows", lambda: sum(int(t.get("count", 0)) for t in s.tasks().values()) > 0)
        wait_for(
            "the follower's log to be held", lambda: [h["first_entry"] for h in s.collector_page(1)["holds"]] == [1]
        )
        s.replicas.move(1, b)
        assert s.tasks()[1, 0]["progress"]["syncPoint"]["type"] == "kSNAPSHOT", "too fast for this test"
        b.generate(1, 500, first_id=30500)
        s.wait_rows("m", 31000)
        s.replicas.wait_copied(1)
        s.replicas.move(1, a)
        a.generate(1, 500, first_id=31000)
        s.wait_rows("m", 31500)
        s.audit("m", range(31500))
