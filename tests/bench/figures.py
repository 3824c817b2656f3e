"""What the benches of tests/bench/run.py share: the table of figures, and what is asked of the kernel about processes
and files. No bench is here."""

import contextlib
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
MB = 1e6


class Report:
    """A table on standard output, and in `path` a JSON object a line."""

    def __init__(self, path=None):
        self.file = open(path, "w", encoding="utf-8") if path else None
        print(f"{'bench':<11} {'case':<36} {'ratio':>7} {'ours':>10} {'reference':>10} {'unit':<10} target")

    def add(self, bench, case, ours, reference, unit, ratio=None, at_least=None, at_most=None, **more):
        """The target, at_least or at_most, is for the ratio if there is a reference, else for `ours`."""
        if ratio is None and reference:
            ratio = ours / reference
        line = {"bench": bench, "case": case, "ratio": ratio, "ours": ours, "reference": reference, "unit": unit}
        target = ""
        if at_least is not None or at_most is not None:
            value = ours if ratio is None else ratio
            line["target"] = f">= {at_least}" if at_most is None else f"<= {at_most}"
            line["met"] = value >= at_least if at_most is None else value <= at_most
            target = f"{line['target']}: {'met' if line['met'] else 'NOT MET'}"
        extra = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in more.items())
        print(
            f"{bench:<11} {case:<36} {'' if ratio is None else f'{ratio:.2f}':>7} {ours:10.4g} "
            f"{'' if reference is None else f'{reference:.4g}':>10} {unit:<10} {target}",
            flush=True,
        )
        if extra:
            print(f"{'':<12}{extra}", flush=True)
        if self.file:
            print(json.dumps(line | more), file=self.file, flush=True)

    def add_pairs(self, bench, case, results, unit, **more):
        """results: [(ours, reference)]. The ratio is the median of the pairs'."""
        ours, reference = (statistics.median(r[i] for r in results) for i in (0, 1))
        ratio = statistics.median(a / b for a, b in results)
        self.add(bench, case, ours, reference, unit, ratio=ratio, **more)


def timed(fn):
    start = time.monotonic()
    fn()
    return time.monotonic() - start


def median_of(dicts):
    """Of dictionaries with the same keys: the median of each, and of peaks the highest."""
    return {
        key: (max if "peak" in key else statistics.median)(d[key] for d in dicts)
        for key in (dicts[0] if dicts else {})
    }


# ---- processes ----


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wakeups(pid):
    """How often its threads have gone to sleep so far, which is as often as they were woken."""
    found = 0
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError):  # the thread has ended
            found += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status.read_text(), re.M).group(1))
    return found


@contextlib.contextmanager
def recorded(folder, pids):
    """With a folder: `perf record` of each process meanwhile, into folder/NAME.perf. pids: name -> pid."""
    recorders = []
    for name, pid in pids.items() if folder else ():
        command = ["perf", "record", "-q", "-F", "999", "-g", "-o", folder / f"{name}.perf", "-p", str(pid)]
        recorders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        if recorders:
            time.sleep(1)  # perf doesn't say when it has begun
        yield
    finally:
        for recorder in recorders:
            recorder.send_signal(signal.SIGINT)
            recorder.wait()


def children():
    """Pids of this process's own children."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.append(int(stat.parent.name))
    return found


def end_children():
    """What a signal has left running between its start and the `with` that would have ended it."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for pid in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        deadline = time.monotonic() + 10
        while children() and time.monotonic() < deadline:
            time.sleep(0.05)


# ---- files ----


def make_cold(*folders):
    """Takes what is below them out of the page cache."""
    for folder in folders:
        for file in (p for p in folder.rglob("*") if p.is_file()):
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)  # what isn't written yet can't be dropped
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def cached_part(files):
    """How much of the files is in the page cache, 0 to 1."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *files]
    pages = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return min(1.0, sum(map(int, pages)) / sum(f.stat().st_size for f in files))  # whole pages are counted
