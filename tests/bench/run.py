"""The benches of tests/bench/run.sh. What has a reference is measured in pairs, ours and the reference, one after the
other, ROUNDS times; a ratio is the median of the pairs'. Absolute figures of a shared machine vary; ratios hold."""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

from hdfs import Hdfs
from system import System, wait_for
from tablet import Tablet, column, index
from zookeeper import ZooKeeper

BUILD = pathlib.Path(os.environ["OSYNC_BUILD"]).resolve()
ROUNDS = 5
MB = 1e6
TICKS = os.sysconf("SC_CLK_TCK")

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


class Report:
    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8") if path else None

    def add(self, bench, case, ours, reference, unit, ratio=None, **more):
        if ratio is None and reference:
            ratio = ours / reference
        line = {
            "bench": bench,
            "case": case,
            "ratio": ratio,
            "ours": ours,
            "reference": reference,
            "unit": unit,
        } | more
        shown = "" if ratio is None else f"{ratio:8.2f}"
        extra = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in more.items())
        print(
            f"{bench:<11} {case:<34} {shown:>8} {ours:12.4g} "
            f"{'' if reference is None else format(reference, '12.4g'):>12} {unit:<8} {extra}",
            flush=True,
        )
        if self.file:
            print(json.dumps(line), file=self.file, flush=True)


def pairs(ours, reference):
    """Both called in turn; [(ours, reference)]."""
    return [(ours(), reference()) for _ in range(ROUNDS)]


def add_pairs(report, bench, case, results, unit, **more):
    ratio = statistics.median(a / b for a, b in results)
    ours, reference = (statistics.median(r[i] for r in results) for i in (0, 1))
    report.add(bench, case, ours, reference, unit, ratio=ratio, **more)


def measured(*arguments):
    done = subprocess.run([BUILD / "tests/bench/osync-bench", *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def rate(result):
    return result["bytes"] / result["seconds"] / MB


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


def scan(report, folder, rows):
    for name in ["rows of 178 bytes", "narrow", "text"]:
        with partition(folder, rows if name != "text" else rows // 5, name) as (meta, path, _):
            results = pairs(
                lambda: rate(measured("scan", meta, path)), lambda: rate(measured("scan-rocksdb", meta, path))
            )
        add_pairs(report, "scan", name, results, "MB/s")


def binlog(report, folder, rows):
    for name in ["rows of 178 bytes", "narrow", "text"]:
        with partition(folder, rows if name != "text" else rows // 5, name) as (meta, _, log):
            size = sum(f.stat().st_size for f in (log / "binlog").glob("*.log"))
            results = pairs(
                lambda: size / measured("binlog", meta, log)["seconds"] / MB,
                lambda: size / measured("binlog-crc", meta, log)["seconds"] / MB,
            )
        add_pairs(report, "binlog", name, results, "MB/s")


def encode(report, folder, rows):
    for name in TABLES:
        with partition(folder, min(rows, 200_000), name) as (meta, path, _):
            seen = {}

            def ours():
                seen.update(measured("encode", meta, path))
                return rate(seen)

            results = pairs(ours, lambda: rate(measured("encode-copy", meta, path)))
        add_pairs(report, "encode", name, results, "MB/s", rows_per_s=seen["rows"] / seen["seconds"])


# ---- HDFS ----


def curl_upload(hdfs, source, target):
    url = f"http://{hdfs.http_address}/webhdfs/v1{target}?op=CREATE&overwrite=true&user.name=bench"
    subprocess.run(["curl", "-sS", "-f", "-L", "-T", source, url], check=True)


def timed(fn):
    start = time.monotonic()
    fn()
    return time.monotonic() - start


def upload_all(hdfs, files, folder):
    """By up to 8 uploads at a time."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda f: curl_upload(hdfs, f, f"{folder}/{pathlib.Path(f).name}"), files))


def sink(report, folder, hdfs):
    size = 256 << 20
    source = folder / "bytes"
    with open(source, "wb") as f:
        line = bytes(range(33, 126)) * 11 + b"\n"
        f.write((line * (size // len(line) + 1))[:size])
    for streams in (1, 4, 16):
        each = size // streams if streams > 4 else size
        part = folder / "part"
        with open(source, "rb") as f:
            part.write_bytes(f.read(each))
        n = 0

        def ours():
            nonlocal n
            n += 1
            r = measured("stream", hdfs.conf_dir, f"/bench/ours-{streams}-{n}", str(folder), str(each), str(streams))
            return rate(r)

        def reference():
            with concurrent.futures.ThreadPoolExecutor(streams) as pool:
                took = timed(
                    lambda: list(
                        pool.map(lambda i: curl_upload(hdfs, part, f"/bench/curl-{streams}/{i}"), range(streams))
                    )
                )
            return each * streams / took / MB

        add_pairs(report, "sink", f"{streams} streams of {each >> 20} MiB", pairs(ours, reference), "MB/s")
        hdfs.delete("/bench")
    source.unlink()
    part.unlink()


# ---- the daemons ----


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def daemons(system):
    return {"collectord": system.collectors[0], "syncd": system.syncd}


def costs(system):
    out = {}
    for name, daemon in daemons(system).items():
        out[f"{name}_cpu_s"] = cpu_seconds(daemon.process)
        out[f"{name}_peak_mib"] = daemon.peak_rss() / (1 << 20)
    return out


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


@contextlib.contextmanager
def running(folder, zookeeper, hdfs, conf=None):
    folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
    conf = {k: {**PRODUCTION[k], **(conf or {}).get(k, {})} for k in PRODUCTION}
    with System(BUILD, folder, zookeeper, hdfs, conf=conf) as system:
        system.start()
        yield system
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


def end_to_end(report, folder, zookeeper, hdfs, rows):
    for n, logged in ((rows, 0.01), (5 * rows, 0.01), (rows, 0.5)):
        results, seen = [], {}
        with running(folder, zookeeper, hdfs) as system:
            fill(system, 1, n, 8, logged)
            files = None
            for round_ in range(ROUNDS):
                ours = full_sync(system, "t1", round_, seen)
                files = files or fetch(system, hdfs, folder / "csv", f"r{round_}")
                reference = timed(lambda: upload_all(hdfs, files, f"/bench/{n}"))
                results.append((ours, reference))
                hdfs.delete("/bench")
                hdfs.delete(system.dest(f"r{round_}"))
        size = sum(os.path.getsize(f) for f in files)
        shutil.rmtree(folder / "csv")
        case = f"{n} rows, {logged:.0%} in the log"
        add_pairs(report, "end_to_end", case, results, "s", csv_mb=size / MB, files=len(files), **seen)


def full_sync(system, name, round_, seen):
    """Seconds from create to the last committed file, with new daemons, so that CPU time and memory are one sync's."""
    for daemon in daemons(system).values():
        daemon.end()
        daemon.start()
    system.wait_listening()
    wait_for("the collector to register", lambda: system.collectors[0].text().count("registered") > round_ + 1)

    def committed():
        task = next((t for t in system.page()["tasks"] if t["table"] == name), None)
        return task and {p["status"] for p in task["partitions"]} == {"SUCCESS"}

    took = timed(lambda: (system.create(name, 0, dest=f"r{round_}"), wait_for("the last file", committed, 1800)))
    seen.update(costs(system))
    system.wait_gone()
    return took


def fetch(system, hdfs, folder, dest):
    folder.mkdir()
    out = []
    for name, data in system.files(dest).items():
        path = folder / pathlib.Path(name).name
        path.write_bytes(data)
        out.append(path)
    return out


def latency(report, folder, zookeeper, hdfs):
    for puts in (1000, 20_000):
        seconds = 20
        with running(folder, zookeeper, hdfs, {"syncd": {"roll.interval": "1s"}}) as system:
            system.make_table(1, "t1", partitions=4, columns=COLUMNS)
            system.create("t1", 2)
            system.wait_running()
            system.tablet.generate(1, puts * seconds, payload_bytes=130, keys=1000, rate_per_s=puts)
            seen, rows = {}, 0
            late = []
            deadline = time.monotonic() + seconds + 60
            while rows < puts * seconds and time.monotonic() < deadline:
                for path in hdfs.list(system.dest("t1")) if hdfs.exists(system.dest("t1")) else []:
                    if path in seen or "/_" in path:
                        continue
                    seen[path] = time.time() * 1000
                    for line in hdfs.read(path).decode().splitlines():
                        late.append(seen[path] - int(line.split(",")[3]))
                        rows += 1
                time.sleep(0.02)
        late.sort()
        quantiles = {f"p{q}": late[min(len(late) - 1, len(late) * q // 100)] / 1000 for q in (50, 99)}
        report.add(
            "latency",
            f"{puts} puts/s, roll.interval=1s",
            quantiles["p99"],
            None,
            "s (p99)",
            **quantiles,
            max=late[-1] / 1000,
            rows=rows,
            files=len(seen),
        )


def follow(report, folder, zookeeper, hdfs, rows):
    with running(folder, zookeeper, hdfs, {"syncd": {"roll.interval": "5s"}}) as system:
        system.make_table(1, "t1", partitions=8, columns=COLUMNS)
        system.create("t1", 2)
        system.wait_running()
        start = time.monotonic()
        system.tablet.generate(1, rows, payload_bytes=130, keys=1000)
        put = time.monotonic() - start

        def taken():
            return sum(p["rows"] + p["staged_rows"] for t in system.page()["tasks"] for p in t["partitions"])

        wait_for("the rows to be taken", lambda: taken() >= rows, 600)
        done = time.monotonic() - start
    report.add("follow", f"{rows} rows, as fast as they are put", rows / done, rows / put, "rows/s")


def idle(report, folder, zookeeper, hdfs, partitions=1000, seconds=30):
    with running(folder, zookeeper, hdfs) as system:
        system.make_table(1, "t1", partitions=partitions, columns=COLUMNS)
        system.create("t1", 2)
        wait_for("all to run", lambda: set(system.states().values()) == {"RUNNING"}, 300)
        time.sleep(10)
        before = {n: cpu_seconds(d.process) for n, d in daemons(system).items()}
        time.sleep(seconds)
        for name, daemon in daemons(system).items():
            used = (cpu_seconds(daemon.process) - before[name]) / seconds * 100
            report.add("idle", f"{partitions} partitions, {name}", used, None, "% CPU", **costs(system))


def scale(report, folder, zookeeper, hdfs, rows):
    first = None
    for tid, partitions in enumerate((1, 10, 100, 1000), 1):
        with running(folder, zookeeper, hdfs) as system:
            fill(system, tid, rows, partitions, 0.01)
            seen = {}
            took = full_sync(system, f"t{tid}", 0, seen)
            cpu = sum(v for k, v in seen.items() if k.endswith("cpu_s"))
            files = len(system.files("r0"))
        first = first or cpu / rows
        report.add(
            "scale",
            f"{partitions} partitions, {rows} rows",
            cpu / rows * 1e6,
            first * 1e6,
            "us CPU/row",
            seconds=took,
            files=files,
            **seen,
        )


BENCHES = ["scan", "binlog", "encode", "sink", "end_to_end", "latency", "follow", "idle", "scale"]


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--only", default=",".join(BENCHES), metavar="NAME,...")
    args = parser.parse_args()
    only = args.only.split(",")
    if set(only) - set(BENCHES):
        parser.error(f"--only: choose from {', '.join(BENCHES)}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    report = Report(args.json)
    print(f"{'bench':<11} {'case':<34} {'ratio':>8} {'ours':>12} {'reference':>12} unit")
    with tempfile.TemporaryDirectory(prefix="osync-bench-") as top, contextlib.ExitStack() as stack:
        folder = pathlib.Path(top)
        servers = {}

        def zookeeper():
            if "zookeeper" not in servers:
                servers["zookeeper"] = ZooKeeper(folder / "zookeeper").start()
                stack.callback(servers["zookeeper"].stop)
            return servers["zookeeper"]

        def hdfs():
            if "hdfs" not in servers:
                servers["hdfs"] = stack.enter_context(Hdfs(folder / "hdfs"))
            return servers["hdfs"]

        (folder / "zookeeper").mkdir()
        (folder / "hdfs").mkdir()
        for name in only:
            if name in ("scan", "binlog", "encode"):
                globals()[name](report, folder, args.rows)
            elif name == "sink":
                sink(report, folder, hdfs())
            elif name in ("latency", "idle"):
                globals()[name](report, folder, zookeeper(), hdfs())
            else:
                globals()[name](report, folder, zookeeper(), hdfs(), args.rows)


if __name__ == "__main__":
    main()
