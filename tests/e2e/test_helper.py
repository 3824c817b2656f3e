"""The helpers against the other half: OpenMLDB's requests, byte for byte, to osync-syncd, and what its helper makes of
the answers; and ours against what OpenMLDB's SyncTool answered (tests/fixtures/synctool/http)."""

import datetime
import http.client
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import pytest

from system import HELPER, System

CAPTURED = pathlib.Path(__file__).parents[1] / "fixtures/synctool/http"
CASES = sorted(p.name.removesuffix("_helper.txt") for p in CAPTURED.glob("*_helper.txt"))


def captured(case):
    """(arguments, standard output, method, path, message, answer) of OpenMLDB's helper and SyncTool."""
    arguments, out = re.fullmatch(
        r"\$ synctool_helper\.py (.*?)\nexit 0\n--- stdout\n(.*)\n--- stderr\n",
        (CAPTURED / f"{case}_helper.txt").read_text(),
        re.S,
    ).groups()
    head, body = (CAPTURED / f"{case}_01_req.bin").read_bytes().decode().split("\r\n\r\n")
    method, path, _ = head.split("\r\n")[0].split()
    return arguments.split(), out, method, path, json.loads(body), (CAPTURED / f"{case}_01_resp.bin").read_bytes()


class Answering(http.server.HTTPServer):
    """Gives each request the same bytes, and keeps (path, message) of the requests."""

    def __init__(self, answer):
        got = self.got = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


def run(answer, *arguments):
    """(standard output, exit status, requests) of our helper."""
    with Answering(answer) as server:
        done = subprocess.run(
            [sys.executable, HELPER, *arguments, "-s", f"127.0.0.1:{server.server_port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "TZ": "UTC"},
        )
    return done.stdout, done.returncode, server.got


def as_openmldb_prints(answer):
    """What OpenMLDB's helper prints of an answer to TaskStatus, as formats.md has it; an AssertionError where it would
    fail."""
    assert answer["response"]["code"] == 0
    if "readableInfo" not in answer:
        return "no task\n"
    lines, tables, failed = [f"{len(answer['readableInfo'])} tasks(tid-pid)"], {}, set()
    for readable, task in zip(answer["readableInfo"], answer["task"], strict=True):
        assert all(item.count("=") == 1 for item in readable.split(";")), readable
        info = dict(item.split("=") for item in readable.split(";"))
        rest = {k: v for k, v in task.items() if k != "progress"}
        info = {**info, **task["progress"], **rest}
        info["lastUpdateTime"] = str(
            datetime.datetime.fromtimestamp(int(info["lastUpdateTime"]) / 1000, datetime.timezone.utc).replace(
                tzinfo=None
            )
        )
        tables.setdefault(info["tid"], {})[info["pid"]] = info
        if info["status"] == "FAILED":
            failed.add(info["tid"])
        lines.append(str(info))
    lines += ["table scope", "running tasks:"]
    lines += [f"tid {t} task is running, pid parts: {p.keys()}" for t, p in tables.items() if t not in failed]
    lines += [f"tasks contains failed part: {failed}"] if failed else ["all tasks are running"]
    for tid in failed:
        lines += [f"tid: {tid}"]
        lines += [f"failed part: {info}" for info in tables[tid].values() if info["status"] == "FAILED"]
    return "\n".join(lines) + "\n"


def http_answer(message):
    body = json.dumps(message).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def test_all_captured_cases_are_there():
    assert len(CASES) == 20


@pytest.mark.parametrize("case", CASES)
def test_ours_with_openmldbs_synctool(case):
    """The same output, of the same request. Two things differ: a refusal ends with status 1, and without -m the mode is
    0, where OpenMLDB's helper sends null and is refused (defect 50)."""
    arguments, out, _, path, message, answer = captured(case)
    if message.get("mode", 0) is None:
        message["mode"] = 0
    got, status, requests = run(answer, *arguments)
    assert got == out
    assert requests == [(path, message)]
    assert status == (1 if '"code": -1' in out else 0)
    if arguments == ["status"]:
        assert as_openmldb_prints(json.loads(answer.partition(b"\r\n\r\n")[2])) == out


def test_the_overview_of_failed_tables():
    """Several tables, some of them with failed partitions: line for line as OpenMLDB's helper has it."""
    states = {
        3: ["RUNNING"],
        70: ["FAILED", "RUNNING", "FAILED"],
        16: ["SUCCESS", "INIT"],
        9: ["REASSIGNING", "FAILED"],
    }
    parts = [(tid, pid, state) for tid, of in states.items() for pid, state in enumerate(of)]
    answer = {
        "response": {"code": 0},
        "task": [
            {"progress": {"tid": t, "pid": p, "mode": "kFull", "dest": "/x"}, "count": "5", "status": s}
            for t, p, s in parts
        ],
        "readableInfo": [f"lastUpdateTime={1_700_000_000_000 + t};progressPath=/p" for t, _, _ in parts],
    }
    got, status, _ = run(http_answer(answer), "status")
    assert status == 0
    assert got == as_openmldb_prints(answer)
    assert "tid 3 task is running, pid parts: dict_keys([0])\n" in got
    assert "tid 16 task is running, pid parts: dict_keys([0, 1])\n" in got
    assert "all tasks are running" not in got
    assert got.count("failed part: {'lastUpdateTime': '2023-11-14 22:13:20.0") == 3


class Connection:
    """One connection that stays open, as that of OpenMLDB's helper would."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")

    def ask(self, request):
        """(status line, body) of the answer to these bytes."""
        self.socket.sendall(request)
        status, length = self.file.readline().decode().strip(), 0
        while (line := self.file.readline().decode().strip().lower()) != "":
            name, value = line.split(":", 1)
            if name == "content-length":
                length = int(value)
        return status, self.file.read(length).decode()

    def close(self):
        self.file.close()
        self.socket.close()


def test_openmldbs_with_osync_syncd(build, tmp_path, zookeeper, hdfs):
    """Its requests as they were captured, status' GET with a body among them, and what it prints of the answers."""
    columns, indexes = System.COLUMNS, System.INDEXES
    conf, hosts = {"collector": {"snapshot_settle_ms": 3_600_000}}, ("127.0.0.1", "127.0.0.2")
    with System(build, tmp_path, zookeeper, hdfs, conf, hosts) as s:
        s.tablet.create_table(10, "t_all", columns, indexes, db="db1")
        s.tablet.create_table(16, "t_2p", columns, indexes, db="db1", partitions=2)
        for tid in (10, 16):
            s.tablet.generate(tid, 100)
            s.tablet.snapshot(tid)  # it isn't read before an hour has passed: the tasks stay where they are
        s.tablet.create_table(11, "t_perf", columns, indexes, db="db1")
        s.tablets[1].create_table(14, "t_far", columns, indexes, db="db1")
        s.add_collector()  # on the first one's host only
        s.start_syncd()
        s.wait_registered()
        connection = Connection(s.syncd_port)

        def ask(case):
            status, body = connection.ask((CAPTURED / f"{case}_01_req.bin").read_bytes())
            assert status == "HTTP/1.1 200 OK", (case, body)
            return body

        def same(case):
            assert ask(case) == captured(case)[5].partition(b"\r\n\r\n")[2].decode()

        def shown():
            body = ask("12_status_init")
            out = as_openmldb_prints(json.loads(body))
            ours, status, _ = run(http_answer(json.loads(body)), "status")
            assert (ours, status) == (out, 0)
            return out

        try:
            same("01_status_empty")
            same("02_create_t_all")
            same("03_create_exists")
            for case, words in (
                ("04_create_no_table", "table db1.nosuch doesn't exist"),
                ("05_create_no_db", "table nodb.t_all doesn't exist"),
            ):
                refused = json.loads(ask(case))
                assert refused["code"] == -1 and words in refused["msg"], (case, refused)
            far = captured("07_create_no_collector")[5].partition(b"\r\n\r\n")[2].decode()
            assert ask("07_create_no_collector") == far.replace("127.0.0.9", "127.0.0.2")
            same("11_create_without_mode")
            same("09_create_mode1")
            out = shown()
            expected = {
                (10, 0): ("'mode': 'kFull', 'startTs': '0', 'syncPoint': {'type': 'kSNAPSHOT'}", "/st/t_all"),
                (16, 0): ("'mode': 'kIncrementalByTimestamp', 'startTs': '1681200000000'", "/st/t_2p"),
                (16, 1): ("'mode': 'kIncrementalByTimestamp', 'startTs': '1681200000000'", "/st/t_2p"),
            }
            lines = out.splitlines()
            assert lines[0] == "3 tasks(tid-pid)"
            for (tid, pid), (words, dest) in expected.items():
                line = next(x for x in lines[1:4] if f"'tid': {tid}, 'pid': {pid}, " in x)
                assert line.startswith("{'lastUpdateTime': '20") and words in line
                assert f"'tabletEndpoint': '{s.tablet.endpoint}', 'desEndpoint': '127.0.0.1:{s.syncd_port}'" in line
                assert re.search(rf"'token': '[0-9a-f-]{{36}}', 'dest': '{dest}', 'dataCollector': '", line)
                assert re.search(r"'count': '0', 'status': '(INIT|RUNNING)'\}$", line)
            assert "tid 10 task is running, pid parts: dict_keys([0])" in lines
            assert "tid 16 task is running, pid parts: dict_keys([0, 1])" in lines
            assert lines[-1] == "all tasks are running"
            same("15_delete_t_2p")
            same("31_create_t_2p_mode2")
            same("15_delete_t_2p")
            same("16_delete_no_task")
            assert json.loads(ask("17_delete_no_table"))["code"] == -1  # defect 44
            assert shown().startswith("1 tasks(tid-pid)\n")
        finally:
            connection.close()


# Where the answer isn't OpenMLDB's, on purpose (docs/formats.md, Differences): status, and words of the body.
OURS = {
    "40_unknown_method": (404, "[E1002]"),
    "41_unknown_service": (404, "[E1002]"),
    "42_malformed_json": (400, "Invalid json"),
    "47_empty_body_post": (200, '"tid": 10'),
    "48_get_no_body": (200, '"tid": 10'),
    "49_empty_object": (200, "the request names no table"),
    "51_delete_empty": (200, "the request names no table"),
    "52_no_content_type": (200, '"tid": 10'),
    "53_form_content_type": (200, '"tid": 10'),
    "55_status": (200, '"tid": 16'),  # with other values than at that time
    "56_clear_all": (200, '"code": 0'),
    "59_root": (200, "osync-syncd: ready, 0 tasks"),
    "61_status_by_shortname": (200, '"code": 0'),
}
OTHERS = sorted(p.stem for p in CAPTURED.glob("[456][0-9]_*.txt"))


def other(case):
    """(method, path, headers, body) of the request, and (status, body) of OpenMLDB's answer; (None, None): none."""
    text = (CAPTURED / f"{case}.txt").read_text()
    method, path = re.search(r"^> (\w+) (\S+) HTTP", text, re.M).groups()
    headers = dict(re.findall(r"^> (Content-Type): (\S+)$", text, re.M))
    body = re.search(r" -d (.*) http://", text)
    answer = re.search(r"^< HTTP/1.1 (\d+) .*?\n< ?\n(.*)\n\n\Z", text, re.M | re.S)
    status, said = (int(answer[1]), answer[2]) if answer else (None, None)
    return method, path, headers, body and body[1], status, said


def test_other_requests(build, tmp_path, zookeeper, hdfs):
    """In the order in which they were made of SyncTool."""
    assert len(OTHERS) == 22 and set(OURS) < set(OTHERS)
    with System(build, tmp_path, zookeeper, hdfs, {"collector": {"snapshot_settle_ms": 3_600_000}}) as s:
        for tid, name, partitions in ((10, "t_all", 1), (16, "t_2p", 2)):
            s.tablet.create_table(tid, name, System.COLUMNS, System.INDEXES, db="db1", partitions=partitions)
            s.tablet.generate(tid, 100)
            s.tablet.snapshot(tid)
        s.start()
        for case in OTHERS:
            method, path, headers, body, status, said = other(case)
            connection = http.client.HTTPConnection("127.0.0.1", s.syncd_port, timeout=60)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            got = answer.read().decode()
            connection.close()
            if case in OURS:
                assert answer.status == OURS[case][0] and OURS[case][1] in got, (case, got)
                assert (answer.status, got) != (status, said), f"{case}: there is no difference"
            else:
                assert (answer.status, got) == (status, said), case
