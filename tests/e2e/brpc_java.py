"""tests/interop/Peer.java as a process: compiled, started, told what to do."""

import base64
import json
import pathlib
import subprocess

import jars
from system import wait_for
from zookeeper import free_port

TESTS = pathlib.Path(__file__).parents[1]


def compile_peer(folder):
    """The class path of Peer."""
    sources, classes = folder / "sources", folder / "classes"
    sources.mkdir()
    lib = jars.fetch("brpc-java")
    for protos, names in (
        (TESTS / "interop", ["data_sync.proto"]),
        (TESTS.parent / "libosync/format/proto", ["tablet.proto", "common.proto", "type.proto"]),
    ):
        subprocess.run(["protoc", f"--java_out={sources}", f"--proto_path={protos}", *names], check=True)
    files = [str(f) for f in [*sources.rglob("*.java"), TESTS / "interop/Peer.java"]]
    done = subprocess.run(
        ["javac", "-nowarn", "-encoding", "UTF-8", "-d", str(classes), "-cp", f"{lib}/*", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return f"{classes}:{lib}/*"


class RpcError(Exception):
    """What brpc-java makes of an error answer."""


class Peer:
    def __init__(self, class_path, log):
        self.port = free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self.log = log
        with open(log, "ab") as f:
            self.process = subprocess.Popen(
                [
                    "java",
                    "-Xmx512m",
                    "-XX:TieredStopAtLevel=1",
                    "-XX:+UseSerialGC",
                    "-XX:-UsePerfData",
                    "--add-opens=java.base/java.lang=ALL-UNNAMED",  # cglib makes its classes with it
                    "-Dorg.slf4j.simpleLogger.showDateTime=true",
                    "-cp",
                    class_path,
                    "Peer",
                    str(self.port),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=f,
                text=True,
            )
        assert self.process.stdout.readline() == "ready\n", log.read_text()

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(30)
        self.process.stdout.close()
        return status

    def do(self, op, **more):
        print(json.dumps({"op": op, **more}), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        assert "failed" not in answer, f"{answer['failed']}; see {self.log}"
        return answer

    # ---- as a client ----

    def call(self, endpoint, method, attachment=None, **more):
        """The answer's fields."""
        fields = more.pop("fields", {})
        if attachment is not None:
            more["attachment"] = base64.b64encode(attachment).decode()
        answer = self.do("call", endpoint=endpoint, method=method, fields=fields, **more)
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["response"]

    def flood(self, endpoint, method, times, **fields):
        self.do("flood", endpoint=endpoint, method=method, times=times, fields=fields)

    def flooded(self, wait_ms=0):
        return self.do("flooded", wait_ms=wait_ms)

    # ---- as a server ----

    def plan(self, method, **answer):
        """Of the next call without one: response=fields, delay_ms, throw=text."""
        self.do("plan", method=method, answer=answer)

    def received(self):
        """[(method, request's bytes, attachment)] since the last time."""
        return [
            (r["method"], base64.b64decode(r["bytes"]), base64.b64decode(r["attachment"]))
            for r in self.do("received")["received"]
        ]

    def wait_received(self, what, enough, timeout=60):
        """Collects until `enough` of what has come is true."""
        got = []

        def came():
            got.extend(self.received())
            return enough(got)

        wait_for(what, came, timeout)
        return got
