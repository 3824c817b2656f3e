"""Wrong answers, broken connections, stopped processes, full disks and lost power, end to end: the job goes on by
itself, each row is there once, and nothing partial was ever visible."""

import os
import random
import re
import signal
import threading
import time
import traceback

import pytest

import proxy as wrong
from faults import FaultySystem, Watcher, pause_until
from hdfs import Hdfs
from power import Disk
from proxy import Foreign, Rule, TcpProxy, WebHdfsProxy
from system import wait_for
from zookeeper import free_port

# ---- WebHDFS: each operation, each wrong answer ----

FINAL = "/part-"  # in a request's target: the published name, or its destination

HTML = b"<html><body>It works!</body></html>"


def io_exception(message):
    return wrong.exception(403, "IOException", message, "java.io")


ANSWERS = {
    "500": wrong.answer(500),
    "500 with an exception": wrong.exception(500, "NullPointerException", "x", "java.lang"),
    "502": wrong.answer(502, HTML, ["Content-Type: text/html"]),
    "503": wrong.answer(503),
    "200 with a page": wrong.answer(200, HTML, ["Content-Type: text/html"]),
    "reset before": wrong.reset_before,
    "reset after": wrong.reset_after,
    "reset and late": wrong.late(0.2),
    "slow": wrong.slow(0.3),
    "truncated": wrong.truncated,
    "cut off": wrong.cut_off,
    "standby": wrong.exception(403, "StandbyException", "not supported in state standby", "org.apache.hadoop.ipc"),
    "safe mode": wrong.exception(403, "SafeModeException", "Cannot do it. Name node is in safe mode."),
    "retriable": wrong.exception(403, "RetriableException", "NameNode still not started", "org.apache.hadoop.ipc"),
    "name quota": wrong.exception(403, "NSQuotaExceededException", "The NameSpace quota is exceeded"),
    "space quota": wrong.exception(403, "DSQuotaExceededException", "The DiskSpace quota is exceeded"),
    "disk full": io_exception("File /x could only be written to 0 of the 1 minReplication nodes."),
    "401": wrong.answer(401),
    "403": wrong.answer(403),
    "403 with an exception": wrong.exception(
        403, "AccessControlException", "Permission denied: user=osync", "org.apache.hadoop.security"
    ),
    "404": wrong.answer(404, HTML, ["Content-Type: text/html"]),
    "429": wrong.answer(429),
    "done, but 500": wrong.says_after(500),
    "done, but 403": wrong.says_after(403),
    "done, but 404": wrong.says_after(404),
    "done, but false": wrong.says_false,
    "false": wrong.refuses_false,
    "repeated": wrong.twice,
    "repeated, first answer": wrong.twice_first,
}
# A NameNode that says of a path that it has that it hasn't can't be helped when it is asked for a decision (a look into
# the tomb), or when it fences: the partition is FAILED then, at best. For other steps it is a failure like any other.
NOT_FOUND = {
    "not found": wrong.exception(404, "FileNotFoundException", "File does not exist: /x", "java.io"),
    "there already": wrong.exception(403, "FileAlreadyExistsException", "/x already exists", "org.apache.hadoop.fs"),
}
WRITES = {
    "no byte arrives": wrong.body_ends(0),
    "some bytes arrive": wrong.body_ends(30),
    **{k: v for k, v in ANSWERS.items() if k not in ("slow", "reset and late")},
}


def published(x):
    return FINAL in x.target


# name: what the request is, what provokes it, and what else can be wrong with it.
# The provocation is a rule that leads into a recovery, in which the request is sent.
def lost_publish(effect):
    return Rule(wrong.reset_after if effect else wrong.reset_before, "RENAME", path="destination=[^&]*part-")


REQUESTS = {
    "CREATE": ({"op": "CREATE"}, None, NOT_FOUND),
    "write": ({"op": "CREATE", "side": "datanode"}, None, {}),
    "label": ({"op": "SETXATTR", "path": "osync.label|xattr.name=user.osync(?!.barrier)"}, None, NOT_FOUND),
    "look at the staged file": ({"op": "GETFILESTATUS"}, None, NOT_FOUND),
    "publish": ({"op": "RENAME", "path": "destination=[^&]*part-"}, None, NOT_FOUND),
    "fence": ({"op": "RENAME", "path": "fenced"}, False, {}),
    "fence after publish": ({"op": "RENAME", "path": "fenced"}, True, {}),
    "take-over": ({"op": "MKDIRS"}, False, NOT_FOUND),
    "block": ({"op": "CREATE", "path": r"/[0-9a-f]{32}\?"}, False, NOT_FOUND),
    "block's write": ({"op": "CREATE", "side": "datanode", "path": r"/[0-9a-f]{32}\?"}, False, {}),
    "look into the tomb": ({"op": "GETFILESTATUS", "path": "fenced/"}, True, {}),
    "look at the slot": ({"op": "GETFILESTATUS", "path": FINAL}, True, {}),
    "barrier": ({"op": "SETXATTR", "path": "barrier"}, True, NOT_FOUND),
    "cleaning": ({"op": "DELETE"}, False, NOT_FOUND),
}


def cases():
    for request, (match, provoke, more) in REQUESTS.items():
        answers = {**(WRITES if match.get("side") == "datanode" else ANSWERS), **more}
        for name, action in answers.items():
            yield request, match, provoke, name, action


def run_cases(s, p, table, dest, some, numbers):
    """Each on a job that goes on: rows come, the wrong answer is given, and they arrive all the same."""
    s.make_table(1, table, partitions=1)
    s.fill(1, 100)
    total, faults = 100, 0
    s.start()
    s.create_patiently(table, 2, dest, authority=f"webhdfs://{p.address()}")
    s.wait_all_rows(table, total)
    for request, match, provoke, name, action in some:
        what = f"{request}: {name}"
        p.clear()
        if provoke is not None:
            p.add(lost_publish(provoke))
        rule = p.add(Rule(action, **match))
        began = time.monotonic()
        s.tablet.generate(1, 5, first_id=total)
        total += 5
        try:
            wait_for(f"{what} to be asked for", lambda: rule.fired, 30)
            s.wait_all_rows(table, total, 30)
        except TimeoutError as e:
            raise AssertionError(f"{what}: {e}\n{s.subtasks(table)}\n{[l[1:] for l in list(p.log)[-40:]]}") from e
        assert sum(t["rows"] for t in s.subtasks(table)) == total, f"{what}: more rows than were put"
        faults += rule.fired
        print(f"{what}: {time.monotonic() - began:.2f} s", flush=True)
    p.clear()
    s.delete_patiently(table)
    s.wait_no_task(table)
    lost, twice = s.audit(dest, range(total))
    assert not s.hidden(dest)
    numbers.add("wrong answers of HDFS", faults)
    numbers.audited(total, lost, twice)


FAULTY = {
    "syncd": {"roll.interval": "50ms", "sync_task.check_period": "300ms"},
    "collector": {"sync_task_long_interval_ms": 50},
}


STAGING = ("CREATE", "write", "label", "look at the staged file")  # of what the collector sends, or has written


def test_wrong_answers_of_hdfs(build, tmp_path, zookeeper, hdfs, numbers):
    """Of two jobs one has a collector that writes the staged files. OSYNC_CASE: a regular expression, to try only some,
    as in "publish: reset after"."""
    only = os.environ.get("OSYNC_CASE", "")
    some = [c for c in cases() if re.search(only, f"{c[0]}: {c[3]}")]
    shares = {
        path: [c for i, c in enumerate(some) if i % 2 == n or c[0] in STAGING]
        for n, path in enumerate(("proxy", "direct"))
    }
    errors = []

    def run(path):
        folder = tmp_path / path
        folder.mkdir()
        try:
            with WebHdfsProxy(hdfs) as p, FaultySystem(build, folder, zookeeper, hdfs, FAULTY, data_path=path) as s:
                with Watcher(s, "t"):
                    run_cases(s, p, "t", "t", shares[path], numbers)
        except Exception:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=run, args=(path,)) for path in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


@pytest.mark.parametrize("data_path", ["direct", "proxy"])
def test_a_redirect_elsewhere(data_path, build, tmp_path, zookeeper, hdfs, numbers):
    """To a host that is dead, or to one that says "created" to everything: for every operation."""
    with Foreign() as foreign:
        dead = wrong.listening()
        dead_address = f"127.0.0.1:{dead.getsockname()[1]}"
        dead.close()
        some = []
        for where, address in (("dead", dead_address), ("foreign", foreign.address)):
            for request in ("CREATE", "label", "publish", "fence", "take-over", "barrier", "cleaning"):
                match, provoke, _ = REQUESTS[request]
                some.append((request, match, provoke, f"307 to a {where} host", wrong.redirect(address)))
            match, provoke, _ = REQUESTS["write"]
            some.append(("write", match, provoke, f"307 to a {where} host", wrong.redirect(address)))
            some.append(("CREATE", {"op": "CREATE"}, None, f"located at a {where} host", wrong.located_at(address)))
        with WebHdfsProxy(hdfs) as p, FaultySystem(
            build, tmp_path, zookeeper, hdfs, FAULTY, data_path=data_path
        ) as s:
            with Watcher(s, "t"):
                run_cases(s, p, "t", "t", some, numbers)
        assert foreign.asked > 0, "nobody went to the foreign host"


# ---- connections ----


class Links:
    """A System all of whose connections between processes lead through proxies."""

    def __init__(self, build, folder, zookeeper, hdfs):
        self.zookeeper = zookeeper
        s = self.system = FaultySystem(build, folder, zookeeper, hdfs, FAULTY)
        collector_port = free_port()
        self.proxies = {
            "collector to syncd": TcpProxy(f"127.0.0.1:{s.syncd_port}"),
            "syncd to collector": TcpProxy(f"127.0.0.1:{collector_port}"),
            "collector to ZooKeeper": TcpProxy(zookeeper.address),
            "syncd to ZooKeeper": TcpProxy(zookeeper.address),
            "syncd to HDFS": TcpProxy(hdfs.http_address),
        }
        p = {name: proxy.address for name, proxy in self.proxies.items()}
        self.authority = f"webhdfs://{p['syncd to HDFS']}"
        s.conf["syncd"] |= {
            "server.advertised_endpoint": p["collector to syncd"],
            "zookeeper.cluster": p["syncd to ZooKeeper"],
            "zookeeper.session_timeout": "1s",
            "request.timeout": "1s",
        }
        # The collector registers itself elsewhere, and here is the node that leads to it through the proxy.
        s.conf["collector"] |= {
            "endpoint": f"127.0.0.1:{collector_port}",
            "zk_cluster": p["collector to ZooKeeper"],
            "zk_root_path": f"{s.root}-elsewhere",
            "zk_session_timeout": 1000,
            "request_timeout_ms": 1000,
        }

    def __enter__(self):
        self.system.__enter__()
        return self

    def start(self):
        top = f"{self.system.root}/sync_tool"
        for path in (top, f"{top}/collector", f"{top}/collector/{self.proxies['syncd to collector'].address}"):
            self.zookeeper.create(path)
        self.system.start()

    def __exit__(self, *failed):
        self.system.__exit__(*failed)
        for p in self.proxies.values():
            p.set("refuse")


def test_broken_connections(build, tmp_path, zookeeper, hdfs, numbers):
    """Each connection is refused, cut, silent, or loses its answers, in turn, while rows come and tasks come and go."""
    total, faults = 200, 0
    with Links(build, tmp_path, zookeeper, hdfs) as links:
        s = links.system
        s.make_table(1, "t")
        s.fill(1, total)
        s.make_table(2, "u")
        s.fill(2, 300)
        links.start()
        s.create_patiently("t", 2, "t", authority=links.authority)
        s.wait_all_rows("t", total)
        made = []
        with Watcher(s, "t"):
            for name, p in links.proxies.items():
                for mode, seconds in (("refuse", 0.7), ("cut", 0.5), ("hang", 1.5), ("deaf", 0.7)):
                    p.set(mode)
                    began = time.monotonic()
                    s.tablet.generate(1, 50, first_id=total)
                    total += 50
                    dest = f"u{len(made)}"
                    if name != "syncd to HDFS" or mode in ("refuse", "cut"):  # else it is answered after a minute
                        answer = s.rpc(
                            "CreateSyncTask", db="db", name="u", mode=0, dest=links.authority + s.dest(dest)
                        )
                        made.append(dest if answer.get("code", 0) == 0 else None)
                    pause_until(began + seconds)
                    p.set("pass")
                    faults += 1
                    s.wait_all_rows("t", total)
                    s.wait_no_task("u")
                    print(f"{name} {mode}: {time.monotonic() - began:.1f} s", flush=True)
                for _ in range(5):  # and many short cuts
                    p.cut()
                    s.tablet.generate(1, 10, first_id=total)
                    total += 10
                    time.sleep(0.05)
                    faults += 1
                p.delay = 0.02
                s.tablet.generate(1, 10, first_id=total)
                total += 10
                s.wait_all_rows("t", total)
                p.delay = 0
                faults += 1
        lost, twice = s.audit("t", range(total))
        numbers.audited(total, lost, twice)
        for dest in filter(None, made):
            numbers.audited(300, *s.audit(dest, range(300)))
        assert sum(d is not None for d in made) >= 8, f"hardly any task could be made: {made}"
        s.delete_patiently("t")
        s.wait_no_task("t")
        assert not s.hidden("t")
        numbers.add("broken connections", faults)


# ---- disks ----


def create_other(s, dest, made):
    """With a full disk the scheduler answers when it could store the task, or why it can't."""
    if s.rpc("CreateSyncTask", db="db", name="u", mode=0, dest=s.dest(dest)).get("code", 0) == 0:
        made.append(dest)


@pytest.mark.parametrize("whose", ["collector", "syncd", "destination", "destination, direct"])
def test_full_disk(whose, build, tmp_path, zookeeper, hdfs, numbers):
    """While there is no space nothing goes wrong, and the status says so; when there is some it goes on by itself."""
    rng, total, faults = random.Random(1), 400, 0
    roots = {"collector": ["collector-0"], "syncd": ["state"]}.get(whose, ["out"])
    local = whose.startswith("destination")
    data_path = {"destination": "proxy", "destination, direct": "direct"}.get(whose)  # a Disk belongs to one process
    with FaultySystem(build, tmp_path, zookeeper, None if local else hdfs, FAULTY, data_path=data_path) as s:
        disk = Disk(build, tmp_path / "disk", *(tmp_path / r for r in roots))
        s.env["syncd" if whose in ("syncd", "destination") else "collector"] |= disk.env
        s.make_table(1, "t")
        s.fill(1, total)
        s.make_table(2, "u")
        s.fill(2, 300)
        s.start()
        s.create_patiently("t", 2, "t")
        s.wait_all_rows("t", total)
        pids = [s.syncd.process.pid, s.collectors[0].process.pid]
        reasons, made = set(), []
        with Watcher(s, "t"):
            for i in range(6):
                disk.fill(rng.choice([0, 0, rng.randint(1, 5000), rng.randint(5000, 50_000)]))
                faults += 1
                s.tablet.roll(1)
                s.tablet.generate(1, 200, first_id=total, payload_bytes=200)
                total += 200
                s.tablet.snapshot(1)
                create = threading.Thread(target=create_other, args=(s, f"u{i}", made))
                create.start()
                if i == 0:  # long enough for what doesn't need the disk at once
                    disk.fill(0)
                    time.sleep(1.5)
                until = time.monotonic() + 0.5
                while time.monotonic() < until:
                    reasons |= {str(r["reason"]) for r in s.subtasks("t") + s.subtasks("u") if r["reason"]}
                    time.sleep(0.05)
                disk.make_room()
                create.join()
                s.wait_all_rows("t", total)
                s.wait_no_task("u")
        assert any("space" in r.lower() or "full" in r.lower() for r in reasons), reasons
        assert pids == [s.syncd.process.pid, s.collectors[0].process.pid], "a daemon has ended"
        s.delete_patiently("t")
        s.wait_no_task("t")
        numbers.audited(total, *s.audit("t", range(total)))
        for dest in made:
            numbers.audited(300, *s.audit(dest, range(300)))
        assert not s.hidden("t")
        wait_for("the collector's folder to be empty", lambda: not s.collector_folders())
        numbers.add("full disks", faults)


def test_full_datanode(build, tmp_path, zookeeper, numbers):
    """dfs.datanode.du.reserved leaves the DataNode no space: the rows wait, the reason is told, and they come."""
    with Hdfs(tmp_path / "hdfs") as own, FaultySystem(build, tmp_path, zookeeper, own, FAULTY) as s:
        s.make_table(1, "t")
        s.fill(1, 500)
        s.start()
        s.create_patiently("t", 2, "t")
        s.wait_all_rows("t", 500)
        own.reserve(1 << 60)
        s.tablet.generate(1, 500, first_id=500)
        full = re.compile("could only be written to 0 of|find datanode")
        wait_for("the reason", lambda: any(full.search(r["reason"] or "") for r in s.subtasks("t")))
        own.reserve(0)
        s.wait_all_rows("t", 1000, 120)
        numbers.audited(1000, *s.audit("t", range(1000)))
        numbers.add("full disks")


def is_any_staged(s, total):
    subs = s.subtasks("t")
    return any(p["staged_rows"] for p in subs) or sum(p["rows"] for p in subs) == total


@pytest.mark.parametrize("whose", ["collector", "syncd"])
def test_lost_power(whose, build, tmp_path, zookeeper, hdfs, numbers):
    """SIGKILL at any moment, and everything that wasn't made durable is gone with it: of the collector's folder; of the
    scheduler's state and of a destination on the same disk."""
    rounds = int(os.environ.get("OSYNC_POWER_LOSSES", 20))
    rng, total = random.Random(int(os.environ.get("OSYNC_SEED", 1))), 400
    conf = {**FAULTY, "syncd": {**FAULTY["syncd"], "roll.interval": "200ms"}}
    local = whose == "syncd"  # who writes the destination, too, since a Disk belongs to one process
    with FaultySystem(
        build, tmp_path, zookeeper, None if local else hdfs, conf, data_path="proxy" if local else "direct"
    ) as s:
        roots = {"collector": ["collector-0"], "syncd": ["state", "out"]}[whose]
        disk = Disk(build, tmp_path / "disk", *(tmp_path / r for r in roots), forgets=True)
        # A disk of the collector's that takes its time: it makes few things, and each durable at once.
        s.env[whose] |= disk.env | ({} if local else {"OSYNC_SHIM_SYNC_MS": "80"})
        s.make_table(1, "t")
        s.fill(1, total)
        s.make_table(2, "u")
        s.fill(2, 300)
        s.start()
        s.create_patiently("t", 2, "t")
        made = []
        for i in range(rounds):
            s.tablet.generate(1, 600, first_id=total, rate_per_s=2000)
            total += 600
            if i % 3 == 1:
                s.tablet.roll(1)
                s.tablet.snapshot(1)
            if i % 3 == 0:
                made.append(f"u{i}")
                s.create_patiently("u", 0, f"u{i}")
            if i % 4:  # most files are under way then
                s.patiently("rows", lambda: is_any_staged(s, total) or None)
            if not local:
                s.tablet.roll(1)  # a new file to link
            time.sleep(rng.uniform(0, 0.1))
            with s.away():
                s.kill(whose)
                disk.lose_power(rng if i % 2 else None)
            s.tablet.wait_generated(1)
            s.wait_all_rows("t", total)
            s.wait_no_task("u")
        for dest in made:
            numbers.audited(300, *s.audit(dest, range(300)))
            assert not s.hidden(dest)
        s.delete_patiently("t")
        s.wait_no_task("t")
        numbers.audited(total, *s.audit("t", range(total)))
        assert not s.hidden("t")
        wait_for("the collector's folder to be empty", lambda: not s.collector_folders())
        assert disk.lost["files"] + disk.lost["names"] > rounds // 4, f"hardly anything was lost: {disk.lost}"
        numbers.add("power losses", rounds)
        print(f"lost with the power: {disk.lost}")


# ---- processes that stand still ----


def test_collectors_that_stand_still(build, tmp_path, zookeeper, hdfs, numbers):
    """Each is stopped for longer than every time-out, while the other one takes over, and goes on with what it was
    about to do."""
    total, stops = 2000, 0
    conf = {**FAULTY, "syncd": {**FAULTY["syncd"], "zookeeper.session_timeout": "1s"}}
    conf["collector"] = {**conf["collector"], "zk_session_timeout": 1000, "request_timeout_ms": 1000}
    with FaultySystem(build, tmp_path, zookeeper, hdfs, conf) as s:
        s.make_table(1, "t")
        s.fill(1, total)
        s.add_collector(max_pack_size="2K")
        s.add_collector(max_pack_size="2K")
        s.start_syncd()
        s.wait_registered()
        s.create_patiently("t", 2, "t")
        with Watcher(s, "t"):
            for i in range(4):
                s.tablet.generate(1, 2000, first_id=total, rate_per_s=2000)
                total += 2000
                time.sleep(0.3)
                users = {p["collector"] for p in s.subtasks("t")}
                stopped = [c for c in s.collectors if c.endpoint in users]
                if len(stopped) == len(s.collectors):
                    stopped = stopped[i % 2 :][:1]
                for c in stopped:
                    c.process.send_signal(signal.SIGSTOP)
                    stops += 1
                names = {c.endpoint for c in stopped}
                s.patiently(
                    "the other one", lambda n=names: None if n & {p["collector"] for p in s.subtasks("t")} else 1
                )
                time.sleep(1.5)
                for c in stopped:
                    c.process.send_signal(signal.SIGCONT)
                s.tablet.wait_generated(1)
                s.wait_all_rows("t", total)
        numbers.add("zombies", stops)
        numbers.audited(total, *s.audit("t", range(total)))
        s.delete_patiently("t")
        s.wait_no_task("t")
        assert not s.hidden("t")
        wait_for("both collectors to forget the task", lambda: not s.collector_folders())
