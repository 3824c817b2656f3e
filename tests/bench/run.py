"""The benches of tests/bench/run.sh. What has a reference is measured in pairs, ours and the reference, one after the
other; a ratio is the median of the pairs'. Absolute figures of a shared machine vary; ratios, and CPU seconds, hold.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import hdfs as hdfs_module
from figures import MB, Report, cached_part, cpu_seconds, end_children, make_cold, median_of, recorded, timed, wakeups
from system import System, wait_for
from tablet import Tablet, column, index
from zookeeper import ZooKeeper

BUILD = pathlib.Path(os.environ["OSYNC_BUILD"]).resolve()

TABLES = {  # name -> columns beside id, k and ts, and the payload's bytes
    "rows of 178 bytes": ([column("v", "double"), column("payload", "string")], 130),
    "narrow": ([column("v", "int")], 0),
    "wide": ([column(f"c{i}", "string" if i % 3 else "bigint") for i in range(60)], 20),
    "numeric": (
        [
            column(f"n{i}", kind)
            for i, kind in enumerate(["bigint", "int", "double", "float", "date", "timestamp"] * 3)
        ],
        0,
    ),
    "text": ([column("a", "string"), column("b", "string"), column("payload", "string")], 1000),
}


class Bench:
    """What all benches get: the sizes of this run, and the servers, which are started when they are first asked
    for."""

    def __init__(self, args, folder, stack):
        self.rows, self.quick, self.perf = args.rows, args.quick, args.perf
        self.rounds = 1 if args.quick else 5
        self.seconds = 5 if args.quick else 20
        self.folder, self.report, self.stack = folder, Report(args.json), stack
        self.servers = {}

    def zookeeper(self):
        if "zookeeper" not in self.servers:
            self.servers["zookeeper"] = ZooKeeper(self.folder / "zookeeper")
            self.stack.callback(self.servers["zookeeper"].stop)
            self.servers["zookeeper"].start()
        return self.servers["zookeeper"]

    def hdfs(self):
        if "hdfs" not in self.servers:
            self.servers["hdfs"] = self.stack.enter_context(Hdfs(self.folder / "hdfs"))
            self.servers["hdfs"].warm_up(self.folder)
        return self.servers["hdfs"]

    def pairs(self, ours, reference):
        """Both called in turn; [(ours, reference)]."""
        return [(ours(), reference()) for _ in range(self.rounds)]


# ---- single processes: tests/bench/bench.c ----


def measured(*arguments):
    done = subprocess.run([BUILD / "tests/bench/osync-bench", *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def rate(result):
    return result["bytes"] / result["seconds"] / MB


def measured_pairs(bench, ours, reference, before=lambda: None):
    """Two of osync-bench's commands. ([(MB/s, MB/s)], how much CPU time the reference needs of ours)."""
    results, cpu = [], []
    for _ in range(bench.rounds):
        before()
        a = measured(*ours)
        before()
        b = measured(*reference)
        size = a["bytes"], b["bytes"]
        results.append((rate(a), rate(b)))
        cpu.append((b["cpu"] / size[1]) / (a["cpu"] / size[0]))
    return results, statistics.median(cpu)


@contextlib.contextmanager
def partition(folder, rows, name):
    """One partition's folder with a snapshot of nearly all rows, a small window and a log of all of them."""
    more, payload = TABLES[name]
    columns = [column("id", "bigint"), column("k", "string"), column("ts", "timestamp"), *more]
    folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
    with Tablet(BUILD, folder / "tablet") as tablet:
        tablet.create_table(1, "t", columns, [index("i", ["k"], ts="ts")])
        tablet.generate(1, rows, payload_bytes=payload, keys=rows // 5 or 1)
        tablet.roll(1)
        files = sorted((tablet.partition(1) / "binlog").glob("*.log"))
        tablet.snapshot(1)
        tablet.generate(1, 1000, payload_bytes=payload)
        path = tablet.partition(1)
    log = folder / "log"  # the whole log, for the bench of that name; the scan has the end alone
    shutil.copytree(path, log)
    for file in files[:-1]:
        (path / "binlog" / file.name).unlink()
    yield path / "table_meta.pb", path, log
    shutil.rmtree(folder)


def warm_and_cold(bench, name, table, meta, path, files, target):
    """Ours and its reference, named `name` and its pair, on files that are in the page cache and that are not."""
    reference = {"scan": "scan-rocksdb", "binlog": "binlog-crc"}[name]
    commands = (name, meta, path), (reference, meta, path)
    for file in files:
        file.read_bytes()
    results, cpu = measured_pairs(bench, *commands)
    bench.report.add_pairs(name, table, results, "MB/s", at_least=target, cpu_ratio=cpu)
    if table != "rows of 178 bytes":
        return
    results, cpu = measured_pairs(bench, *commands, before=lambda: make_cold(path))
    make_cold(path)
    measured(*commands[0])
    left = cached_part(files)
    bench.report.add_pairs(name, f"{table}, cold", results, "MB/s", at_least=target, cpu_ratio=cpu, left_cached=left)


def read_partitions(bench):
    """(name, its table_meta, folder, the log's folder) of each table that the benches of reading have."""
    for name in ["rows of 178 bytes", "narrow", "text"]:
        rows = bench.rows if name != "text" else bench.rows // 5
        with partition(bench.folder, rows, name) as made:
            yield name, *made


def scan(bench):
    for name, meta, path, _ in read_partitions(bench):
        files = sorted((path / "snapshot").glob("*/*.sst"))
        warm_and_cold(bench, "scan", name, meta, path, files, 0.8)


def binlog(bench):
    for name, meta, _, log in read_partitions(bench):
        files = sorted((log / "binlog").glob("*.log"))
        warm_and_cold(bench, "binlog", name, meta, log, files, 0.7)


def encode(bench):
    for name in TABLES:
        with partition(bench.folder, min(bench.rows, 200_000), name) as (meta, path, _):
            results, cpu = measured_pairs(bench, ("encode", meta, path), ("encode-copy", meta, path))
            last = measured("encode", meta, path)
        bench.report.add_pairs(
            "encode", name, results, "MB/s", cpu_ratio=cpu, million_rows_per_s=last["rows"] / last["seconds"] / MB
        )


# ---- HDFS ----


class Hdfs(hdfs_module.Hdfs):
    def _write_conf(self):
        """As for tests, except that what is deleted is gone soon, so that it doesn't slow down what is measured
        next."""
        super()._write_conf()
        site = pathlib.Path(self.conf_dir) / "hdfs-site.xml"
        row = "<property><name>dfs.namenode.redundancy.interval.seconds</name><value>1</value></property>"
        site.write_text(site.read_text().replace("</configuration>", f"  {row}\n</configuration>"))

    def warm_up(self, folder):
        """Until Java has compiled what takes an upload: the first hundred megabytes take twice as long."""
        source = folder / "warm"
        source.write_bytes(bytes(64 << 20))
        for n in range(4):
            curl_upload(self, source, f"/warm/{n}")
        source.unlink()
        self.drop("/warm")

    def drop(self, *paths):
        """Deletes, and waits until the DataNode has deleted, too."""
        for path in paths:
            self.delete(path)
        with contextlib.suppress(TimeoutError):
            wait_for("the blocks to go", lambda: not any((self.dir / "data").rglob("blk_*")), 20)

    def cpu(self):
        return {f"{name}_cpu_s": cpu_seconds(pid) for name, pid in self._s["pids"].items()}


def curl_upload(hdfs, source, target):
    url = f"http://{hdfs.http_address}/webhdfs/v1{target}?op=CREATE&overwrite=true&user.name=bench"
    subprocess.run(["curl", "-sS", "-f", "-L", "-T", source, url], check=True)


def upload_all(hdfs, uploads, at_once):
    """uploads: [(file, target)]"""
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda u: curl_upload(hdfs, *u), uploads))


def sink(bench):
    hdfs, folder = bench.hdfs(), bench.folder
    size = (16 if bench.quick else 256) << 20
    for streams, each in ((1, size), (4, size), (16, size // 16)):
        source = folder / "part"
        source.write_bytes(b"x" * each)
        n = 0

        def ours(command, *more):
            nonlocal n
            n += 1
            result = measured(command, hdfs.conf_dir, f"/bench/ours-{n}", *more, str(each), str(streams))
            hdfs.drop("/bench")
            return rate(result)

        def reference():
            took = timed(lambda: upload_all(hdfs, [(source, f"/bench/curl/{i}") for i in range(streams)], streams))
            hdfs.drop("/bench")
            return each * streams / took / MB

        case = f"{streams} x {each >> 20} MiB"
        bench.report.add_pairs("sink", case, bench.pairs(lambda: ours("sink"), reference), "MB/s", at_least=0.95)
        if streams == 16:  # each in one file that is committed exactly once, with its state in SQLite
            results = bench.pairs(lambda: ours("stream", str(folder)), reference)
            bench.report.add_pairs("sink", f"{case}, committed", results, "MB/s")
        source.unlink()


# ---- the daemons ----


COLUMNS = [
    column("id", "bigint"),
    column("k", "string"),
    column("ts", "timestamp"),
    column("put_ms", "bigint"),
    column("v", "double"),
    column("payload", "string"),
]
PRODUCTION = {  # not the tests' short times
    "collector": {"sync_task_long_interval_ms": 5000, "snapshot_settle_ms": 0},
    "syncd": {"sync_task.check_period": "10s", "roll.interval": "60s"},
}
FULL_SYNC = {"syncd": {"sync_task.check_period": "1s"}}  # an ended task goes sooner, for the next round
MEMORY_MIB = 256  # the most that a daemon may take


def daemons(system):
    return {"collectord": system.collectors[0], "syncd": system.syncd}


def cpu_of(bench, system):
    out = {f"{name}_cpu_s": cpu_seconds(daemon.process.pid) for name, daemon in daemons(system).items()}
    return out | bench.hdfs().cpu()


def peaks_of(system):
    return {f"{name}_peak_mib": daemon.peak_rss() / (1 << 20) for name, daemon in daemons(system).items()}


def difference(after, before):
    return {name: after[name] - before[name] for name in after}


@contextlib.contextmanager
def running(bench, conf=None):
    folder = pathlib.Path(tempfile.mkdtemp(dir=bench.folder))
    conf = {k: {**PRODUCTION[k], **(conf or {}).get(k, {})} for k in PRODUCTION}
    with System(BUILD, folder, bench.zookeeper(), bench.hdfs(), conf=conf) as system:
        system.start()
        yield system
        bench.hdfs().drop(f"/{system.root.strip('/')}")
    shutil.rmtree(folder, ignore_errors=True)


def fill(system, tid, rows, partitions, logged):
    """`logged`: of the rows, the part that the snapshot doesn't have, or that the log has, too."""
    system.make_table(tid, f"t{tid}", partitions=partitions, columns=COLUMNS)
    more = {"payload_bytes": 130, "keys": max(1, rows // 5)}
    behind = int(rows * logged)
    system.tablet.generate(tid, rows - behind, **more)
    system.seam(tid)
    system.tablet.generate(tid, behind // 2, **more)
    system.tablet.snapshot(tid)
    system.tablet.generate(tid, behind - behind // 2, **more)


def restart(system, data_path):
    """New daemons, so that CPU time and memory are one sync's."""
    for daemon in daemons(system).values():
        daemon.end()
    system.collectors[0].log.unlink()
    system.collectors[0].start()
    system.conf["syncd"]["data_path"] = data_path
    system.start_syncd()
    system.wait_registered()


def wait_success(system, name):
    """Until all is committed. The page is asked so rarely that to answer it costs little, whatever its length."""
    deadline = time.monotonic() + 900
    while True:
        page = {}
        took = timed(lambda: page.update(system.page()))
        task = next((t for t in page["tasks"] if t["table"] == name), None)
        states = {p["status"] for p in task["partitions"]} if task else set()  # it removes itself when it has ended
        if states <= {"SUCCESS"}:
            return
        assert "FAILED" not in states and time.monotonic() < deadline, page
        time.sleep(max(0.01, 20 * took))


def create(system, name, dest):
    """When the CreateSyncTask began that was taken: a new syncd may not have read yet what is in ZooKeeper."""
    request = {"db": "db", "name": name, "mode": 0, "dest": system.dest(dest)}
    begun, answers = [], []

    def accepted():
        begun.append(time.monotonic())
        answers.append(system.rpc("CreateSyncTask", **request))
        return answers[-1].get("code", 0) == 0

    try:
        wait_for("the task to be taken", accepted)
    except TimeoutError as e:
        raise RuntimeError(f"CreateSyncTask: {answers[-1]}") from e
    return begun[-1]


def full_sync(bench, system, tid, dest, data_path="direct", perf=None):
    """Seconds from CreateSyncTask to the last committed file, and what they cost."""
    restart(system, data_path)
    name = f"t{tid}"
    with recorded(perf, {n: d.process.pid for n, d in daemons(system).items()} | bench.hdfs()._s["pids"]):
        before = cpu_of(bench, system)
        begun = create(system, name, dest)
        wait_success(system, name)
        took = time.monotonic() - begun
        costs = difference(cpu_of(bench, system), before) | peaks_of(system)
    system.wait_gone()
    return took, costs


def curl_all(bench, files):
    """The reference of a full sync: its files by `curl -T`, 8 at a time."""
    hdfs = bench.hdfs()
    before = hdfs.cpu() | {"curl_cpu_s": children_cpu()}
    took = timed(lambda: upload_all(hdfs, [(f, f"/bench/{f.name}") for f in files], 8))
    return took, difference(hdfs.cpu() | {"curl_cpu_s": children_cpu()}, before)


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def fetch(system, folder, dest):
    folder.mkdir()
    out = []
    for name, data in system.files(dest).items():
        path = folder / pathlib.Path(name).name
        path.write_bytes(data)
        out.append(path)
    return out


def end_to_end(bench):
    both = ("direct", "proxy")
    cases = [(bench.rows, 0.01, both), (5 * bench.rows, 0.01, both), (bench.rows, 0.5, ("direct",))]
    for rows, logged, data_paths in cases:
        results, costs = {p: [] for p in data_paths}, {p: [] for p in (*data_paths, "curl")}
        with running(bench, FULL_SYNC) as system:
            fill(system, 1, rows, 8, logged)
            files = None
            for _ in range(bench.rounds):
                took = {}
                for path in data_paths:
                    took[path], cost = full_sync(bench, system, 1, path, path)
                    costs[path].append(cost)
                    files = files or fetch(system, bench.folder / "csv", path)
                    bench.hdfs().drop(system.dest(path))
                reference, cost = curl_all(bench, files)
                costs["curl"].append(cost)
                bench.hdfs().drop("/bench")
                for path in data_paths:
                    results[path].append((took[path], reference))
            if bench.perf and rows > bench.rows:
                for path in data_paths:
                    folder = bench.perf / path
                    folder.mkdir(parents=True, exist_ok=True)
                    full_sync(bench, system, 1, path, path, folder)
                    bench.hdfs().drop(system.dest(path))
        size = sum(f.stat().st_size for f in files) / MB
        shutil.rmtree(bench.folder / "csv")
        curl = median_of(costs["curl"])
        for path in data_paths:
            cost = median_of(costs[path])
            cpu = [sum(v for k, v in c.items() if k.endswith("cpu_s")) for c in (cost, curl)]
            bench.report.add_pairs(
                "end_to_end",
                f"{rows} rows, {logged:.0%} in the log, {path}",
                results[path],
                "s",
                at_most=1.5 if path == "direct" and logged < 0.1 else None,
                cpu_ratio=cpu[0] / cpu[1],
                csv_mb=size,
                files=len(files),
                **cost,
                **{f"reference_{k}": v for k, v in curl.items()},
            )


def latency(bench):
    """From put to the listing of a destination that has the file with the row."""
    for puts, path in ((1000, "direct"), (20_000, "direct"), (20_000, "proxy")):
        total = puts * bench.seconds
        hdfs = bench.hdfs()
        with running(bench, {"syncd": {"roll.interval": "1s", "data_path": path}}) as system:
            system.make_table(1, "t1", partitions=4, columns=COLUMNS)
            system.create("t1", 2)
            system.wait_running()
            system.tablet.generate(1, total, payload_bytes=130, keys=1000, rate_per_s=puts)
            seen, rows, dest = {}, 0, system.dest("t1")
            deadline = time.monotonic() + bench.seconds + 60
            while rows < total and time.monotonic() < deadline:
                listed = [p for p in hdfs.list(dest) if "/_" not in p]
                now = time.time() * 1000
                for file in listed:
                    seen.setdefault(file, now)
                rows = count(system, "rows")
                time.sleep(0.02)
            for file in hdfs.list(dest):  # what became visible since the last look
                if "/_" not in file:
                    seen.setdefault(file, time.time() * 1000)
            late = sorted(
                then - int(line.split(b",", 4)[3]) for f, then in seen.items() for line in hdfs.read(f).splitlines()
            )
        assert len(late) == total, f"{len(late)} of {total} rows have arrived"
        p50, p99 = (late[len(late) * q // 100] / 1000 for q in (50, 99))
        case = f"{puts} puts/s, {path}"
        files = len(seen)
        bench.report.add(
            "latency", case, p99, None, "s (p99)", at_most=1.5, p50=p50, p99=p99, max=late[-1] / 1000, files=files
        )


def count(system, *what):
    """rows: committed; staged_rows: in files that are still written."""
    return sum(p[name] for t in system.page()["tasks"] for p in t["partitions"] for name in what)


def taken(system):
    return count(system, "rows", "staged_rows")


def follow(bench):
    """Rows taken while others are put: as fast as the tablet can, and with many waiting from before."""
    with running(bench, {"syncd": {"roll.interval": "1s"}}) as system:
        system.make_table(1, "t1", partitions=8, columns=COLUMNS)
        system.create("t1", 2)
        system.wait_running()
        start = time.monotonic()
        system.tablet.generate(1, bench.rows, payload_bytes=130, keys=1000)
        put = time.monotonic() - start
        wait_for("the rows to be taken", lambda: taken(system) >= bench.rows, 600)
        done = time.monotonic() - start
        case = f"{bench.rows} rows, as fast as they are put"
        bench.report.add("follow", case, bench.rows / done, bench.rows / put, "rows/s", at_least=0.9)

        wait_for("the rows to be committed", lambda: count(system, "rows") >= bench.rows)
        system.collectors[0].end()
        system.tablet.generate(1, bench.rows, payload_bytes=130, keys=1000)
        puts = max(1000, bench.rows // 20)
        system.collectors[0].start()
        before, total = taken(system), bench.rows + puts * bench.seconds
        samples = []  # (when, taken)
        start = time.monotonic()
        system.tablet.generate(1, puts * bench.seconds, payload_bytes=130, keys=1000, rate_per_s=puts)

        def sample():
            samples.append((time.monotonic(), taken(system) - before))
            return samples[-1][1]

        first = wait_for("the first rows to be taken", sample, 600) and samples[-1][0]

        def caught_up():
            return bench.rows + min(puts * bench.seconds, puts * (time.monotonic() - start)) - sample() < 1.5 * puts

        wait_for("the log's end to be reached", caught_up, 600)
        took = samples[-1][0] - start
        wait_for("all rows to be taken", lambda: sample() >= total, 600)
    slowest = min(
        (
            (n - m) / (t - s)
            for i, (s, m) in enumerate(samples)
            for t, n in samples[i + 1 :]
            if s >= first and t - s >= 2 and t <= start + took
        ),
        default=samples[-1][1] / took,
    )
    case = f"{bench.rows} rows behind, {puts} puts/s"
    bench.report.add("follow", case, slowest, puts, "rows/s", at_least=1, caught_up_s=took)


def idle(bench):
    partitions, seconds = (50, 10) if bench.quick else (1000, 30)
    with running(bench) as system:
        system.make_table(1, "t1", partitions=partitions, columns=COLUMNS)
        system.create("t1", 2)
        wait_for("all to run", lambda: set(system.states().values()) == {"RUNNING"}, 300)
        time.sleep(0 if bench.quick else 10)
        pids = {name: daemon.process.pid for name, daemon in daemons(system).items()}
        before = {name: (cpu_seconds(pid), wakeups(pid)) for name, pid in pids.items()}
        time.sleep(seconds)
        after = {name: (cpu_seconds(pid), wakeups(pid)) for name, pid in pids.items()}
        peaks = peaks_of(system)
    beats = partitions / (PRODUCTION["collector"]["sync_task_long_interval_ms"] / 1000)
    for name in pids:
        cpu, woken = ((after[name][i] - before[name][i]) / seconds for i in (0, 1))
        case = f"{partitions} partitions, {name}"
        bench.report.add("idle", case, cpu * 100, None, "% of a core", at_most=1, peak_mib=peaks[f"{name}_peak_mib"])
        bench.report.add("idle", f"{case}, wake-ups", woken, beats, "/s; beats", at_most=2.2)


def scale(bench):
    first = None
    rows = bench.rows
    for tid, partitions in enumerate((1, 10, 50) if bench.quick else (1, 10, 100, 1000), 1):
        with running(bench, FULL_SYNC) as system:
            fill(system, tid, rows, partitions, 0.01)
            took, costs = full_sync(bench, system, tid, "dest")
            files = len(system.files("dest"))
        cpu = costs["collectord_cpu_s"] + costs["syncd_cpu_s"]
        first = first or cpu
        bench.report.add(
            "scale",
            f"{partitions} partitions, {rows} rows",
            cpu / rows * 1e6,
            first / rows * 1e6,
            "us CPU/row",
            at_most=1.1,
            ms_a_partition=(cpu - first) / partitions * 1e3,
            seconds=took,
            files=files,
            **costs,
        )
    for name in ("collectord", "syncd"):
        peak = costs[f"{name}_peak_mib"]
        bench.report.add("scale", f"{partitions} partitions, {name}'s peak", peak, None, "MiB", at_most=MEMORY_MIB)


BENCHES = [scan, binlog, encode, sink, end_to_end, latency, follow, idle, scale]


def stop(signum, _):
    """An exception, so that every `with` ends its servers; a second signal doesn't disturb that."""
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)
    sys.exit(128 + signum)


def main():
    names = [b.__name__ for b in BENCHES]
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh", description=__doc__)
    parser.add_argument("--rows", type=int, help="of the larger tables; 1,000,000")
    parser.add_argument("--json", metavar="FILE", help="one JSON object a line")
    parser.add_argument("--only", default=",".join(names), metavar="NAME,...", help=f"some of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="one round, small sizes: to see that it works")
    parser.add_argument(
        "--perf",
        type=pathlib.Path,
        metavar="FOLDER",
        help="of end_to_end: `perf record` of each process, by data path",
    )
    args = parser.parse_args()
    args.rows = args.rows or (20_000 if args.quick else 1_000_000)
    if set(args.only.split(",")) - set(names):
        parser.error(f"--only: choose from {', '.join(names)}")
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, stop)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="osync-bench-") as folder:
        try:
            with contextlib.ExitStack() as stack:
                bench = Bench(args, pathlib.Path(folder), stack)
                for name in args.only.split(","):
                    BENCHES[names.index(name)](bench)
        finally:
            end_children()


if __name__ == "__main__":
    main()
