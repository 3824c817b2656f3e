"""A real HDFS for tests: one NameNode and one DataNode of Hadoop's own, each a process that can be killed, on free
ports of 127.0.0.1, with everything they write below one folder. It is not a cluster manager: no HA, no security,
replication 1.

As a module: `with Hdfs(folder) as h:`, then h.conf_dir is a HADOOP_CONF_DIR for the client under test, and h.list,
h.read and h.write look at the result independently of it. As a command: `hdfs.py start DIR` starts one and prints
its configuration folder, `hdfs.py stop DIR` ends it.
"""

import atexit
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from xml.sax.saxutils import escape

import jars

START_SECONDS = 90  # until the first CREATE works; a few seconds on an idle machine
JAVA = [
    "java",
    "-Xmx160m",
    "-Xshare:auto",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",  # else a file in /tmp/hsperfdata_*
    "--add-opens=java.base/java.lang=ALL-UNNAMED",  # without it WebHDFS of Hadoop 3.3 and 3.4 answers 500 on Java 17
]
SERVER = "org.apache.hadoop.hdfs.server"
LOG4J = """log4j.rootLogger=INFO,C
log4j.appender.C=org.apache.log4j.ConsoleAppender
log4j.appender.C.layout=org.apache.log4j.PatternLayout
log4j.appender.C.layout.ConversionPattern=%d %p %c: %m%n
"""


class HdfsError(Exception):
    """An answer of HDFS that is not a success; status and the RemoteException's text."""

    def __init__(self, status, text):
        super().__init__(f"HTTP {status}: {text[:500]}")
        self.status = status


def free_ports(n):
    """n ports of 127.0.0.1 that are free now. They are below the range that outgoing connections take theirs from,
    so that a killed server finds its port free again."""
    found = []
    while len(found) < n:
        port = random.randint(15000, 30000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def write_site(path, values):
    rows = "".join(
        f"  <property><name>{escape(k)}</name><value>{escape(str(v))}</value></property>\n" for k, v in values.items()
    )
    path.write_text(f"<?xml version=\"1.0\"?>\n<configuration>\n{rows}</configuration>\n")


class Hdfs:
    def __init__(self, folder):
        self.dir = Path(folder).resolve()
        self.conf_dir = str(self.dir / "conf")
        self._state = self.dir / "hdfs.json"
        self._children = {}  # "namenode" and "datanode" -> Popen, of those this process started
        self._s = json.loads(self._state.read_text()) if self._state.exists() else None

    # ---- life ----

    @property
    def http_address(self):
        """host:port of the NameNode's HTTP server."""
        return f"127.0.0.1:{self._s['ports'][1]}"

    @property
    def rpc_address(self):
        """host:port of the NameNode's RPC server: the authority of hdfs:// URLs."""
        return f"127.0.0.1:{self._s['ports'][0]}"

    @property
    def datanode_http_address(self):
        """host:port of the DataNode's HTTP server."""
        return f"127.0.0.1:{self._s['ports'][3]}"

    def start(self, detached=False):
        """Starts both and waits until a file can be written. Unless detached, they end with this process."""
        if self._s and any(self._alive(who) for who in self._s["pids"]):
            raise RuntimeError(f"an HDFS is already running in {self.dir}")
        (self.dir / "logs").mkdir(parents=True, exist_ok=True)
        self._s = {"ports": free_ports(5), "pids": {}, "jars": str(jars.fetch("hadoop"))}
        self._write_conf()
        if not detached:
            atexit.register(self.stop)
        if not (self.dir / "name" / "current").exists():
            with open(self.dir / "logs" / "format.log", "ab") as log:
                subprocess.run(
                    self._java("namenode.NameNode", "-format", "-nonInteractive"),
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        try:
            self._spawn("namenode")
            self._spawn("datanode")
            self.wait_ready()
        except BaseException:  # also Ctrl-C: what doesn't get ready isn't left running
            self.stop()
            raise
        return self

    def stop(self):
        """Ends both, by their own pids. Files stay; the folder is the caller's."""
        for who in list(self._s["pids"]) if self._s else []:
            self._kill(who)
        atexit.unregister(self.stop)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def kill_namenode(self):
        self._kill("namenode")

    def restart_namenode(self, wait=True):
        self._restart("namenode", wait)

    def pause_namenode(self):
        """Until resume_namenode: connections are accepted, nothing is answered."""
        os.kill(self._s["pids"]["namenode"], signal.SIGSTOP)

    def resume_namenode(self):
        os.kill(self._s["pids"]["namenode"], signal.SIGCONT)

    def kill_datanode(self):
        self._kill("datanode")

    def restart_datanode(self, wait=True):
        self._restart("datanode", wait)

    def reserve(self, n):
        """Restarts the DataNode with n bytes of its disk kept for others; with 0 waits until it takes files again."""
        site = Path(self.conf_dir) / "hdfs-site.xml"
        name = "<name>dfs.datanode.du.reserved</name>"
        text = re.sub(f"  <property>{name}.*\n", "", site.read_text())
        if n:
            row = f"  <property>{name}<value>{n}</value></property>\n"
            text = text.replace("</configuration>", f"{row}</configuration>")
        site.write_text(text)
        self.restart_datanode(wait=n == 0)

    def wait_ready(self):
        """Until a CREATE works: after a start or restart the NameNode refuses it until the DataNode has reported."""
        path, deadline = f"/.ready-{os.getpid()}", time.monotonic() + START_SECONDS
        while True:
            for who in self._s["pids"]:
                if not self._alive(who):
                    raise RuntimeError(f"the {who} ended at its start, see {self._log(who)}")
            try:
                self.write(path, b"x")
                self.delete(path)
                return
            except (OSError, http.client.HTTPException, HdfsError) as e:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"HDFS in {self.dir} was not ready after {START_SECONDS} s: {e}") from e
            time.sleep(0.05)

    # ---- a look at the files, over WebHDFS ----

    def exists(self, path):
        return self.status(path) is not None

    def status(self, path):
        """The FileStatus object, or None."""
        try:
            return json.loads(self._call("GET", path, "GETFILESTATUS"))["FileStatus"]
        except HdfsError as e:
            if e.status == 404:
                return None
            raise

    def list(self, path="/"):
        """Every file below `path`: {its whole path: its length}. A path that is not there holds nothing."""
        try:
            rows = json.loads(self._call("GET", path, "LISTSTATUS"))["FileStatuses"]["FileStatus"]
        except HdfsError as e:
            if e.status == 404:
                return {}
            raise
        found = {}
        for row in rows:
            child = path.rstrip("/") + "/" + row["pathSuffix"] if row["pathSuffix"] else path
            if row["type"] == "DIRECTORY":
                found.update(self.list(child))
            else:
                found[child] = row["length"]
        return found

    def entries(self, path):
        """{name: length} of what is directly in a folder."""
        rows = json.loads(self._call("GET", path, "LISTSTATUS"))["FileStatuses"]["FileStatus"]
        return {row["pathSuffix"]: row["length"] for row in rows}

    def read(self, path):
        url = json.loads(self._call("GET", path, "OPEN", noredirect="true"))["Location"]
        return self._http("GET", url)

    def write(self, path, data, overwrite=True):
        url = json.loads(self._call("PUT", path, "CREATE", noredirect="true", overwrite=str(overwrite).lower()))[
            "Location"
        ]
        self._http("PUT", url, data)

    def mkdirs(self, path):
        self._call("PUT", path, "MKDIRS")

    def rename(self, path, to):
        """True if it was done."""
        return json.loads(self._call("PUT", path, "RENAME", destination=to))["boolean"]

    def delete(self, path):
        """True if there was something."""
        return json.loads(self._call("DELETE", path, "DELETE", recursive="true"))["boolean"]

    # ---- inside ----

    def _call(self, method, path, op, **params):
        query = urllib.parse.urlencode({"op": op, "user.name": "root", **params})
        return self._http(method, f"http://{self.http_address}/webhdfs/v1{urllib.parse.quote(path)}?{query}")

    @staticmethod
    def _http(method, url, body=None):
        u = urllib.parse.urlsplit(url)
        c = http.client.HTTPConnection(u.hostname, u.port, timeout=60)
        try:
            # A Location of the NameNode holds non-ASCII letters of the path as they are.
            c.request(method, f"{urllib.parse.quote(u.path, safe='/%+')}?{u.query}", body)
            r = c.getresponse()
            data = r.read()
            if r.status not in (200, 201):
                raise HdfsError(r.status, data.decode(errors="replace"))
            return data
        finally:
            c.close()

    def _write_conf(self):
        rpc, web, data, data_http, data_ipc = self._s["ports"]
        conf = Path(self.conf_dir)
        for name in ("hdfs", "datanode"):  # the servers look for these folders on their class path
            (conf / "webapps" / name).mkdir(parents=True, exist_ok=True)
        write_site(
            conf / "core-site.xml", {"fs.defaultFS": f"hdfs://127.0.0.1:{rpc}", "hadoop.tmp.dir": self.dir / "tmp"}
        )
        write_site(
            conf / "hdfs-site.xml",
            {
                "dfs.replication": 1,
                "dfs.permissions.enabled": "false",
                "dfs.namenode.name.dir": f"file://{self.dir}/name",
                "dfs.namenode.rpc-address": f"127.0.0.1:{rpc}",
                "dfs.namenode.http-address": f"127.0.0.1:{web}",
                "dfs.namenode.safemode.extension": 0,
                "dfs.namenode.heartbeat.recheck-interval": 2000,
                "dfs.heartbeat.interval": 1,
                "dfs.datanode.hostname": "127.0.0.1",
                "dfs.datanode.data.dir": f"file://{self.dir}/data",
                "dfs.datanode.address": f"127.0.0.1:{data}",
                "dfs.datanode.http.address": f"127.0.0.1:{data_http}",
                "dfs.datanode.ipc.address": f"127.0.0.1:{data_ipc}",
                # With WebHDFS the DataNode is the HDFS client; by default half of all file closes wait 400 ms here.
                "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": 5,
            },
        )
        (conf / "log4j.properties").write_text(LOG4J)

    def _java(self, main, *args):
        return [
            *JAVA,
            f"-Djava.io.tmpdir={self.dir / 'logs'}",
            "-cp",
            f"{self.conf_dir}:{self._s['jars']}/*",
            f"{SERVER}.{main}",
            *args,
        ]

    def _log(self, who):
        return self.dir / "logs" / f"{who}.log"

    def _spawn(self, who):
        main = {"namenode": "namenode.NameNode", "datanode": "datanode.DataNode"}[who]
        with open(self._log(who), "ab") as log:  # a session of its own: the terminal's Ctrl-C is the test's, not theirs
            child = subprocess.Popen(
                self._java(main), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._children[who] = child
        self._s["pids"][who] = child.pid
        self._save()

    def _save(self):
        tmp = self._state.with_suffix(".tmp")
        tmp.write_text(json.dumps(self._s))
        tmp.rename(self._state)

    def _restart(self, who, wait):
        self._kill(who)
        self._spawn(who)
        if wait:
            self.wait_ready()

    def _alive(self, who):
        child = self._children.get(who)
        if child:
            return child.poll() is None
        try:  # started by another process: a pid is only believed if it still runs with our class path
            return self.conf_dir.encode() in Path(f"/proc/{self._s['pids'][who]}/cmdline").read_bytes()
        except OSError:
            return False

    def _kill(self, who):
        if who not in self._s["pids"]:
            return
        if self._alive(who):
            os.kill(self._s["pids"][who], signal.SIGKILL)
            while self._alive(who):
                time.sleep(0.01)
        self._children.pop(who, None)
        del self._s["pids"][who]
        self._save()


def main(argv):
    if len(argv) == 3 and argv[1] == "start":
        print(Hdfs(argv[2]).start(detached=True).conf_dir)
    elif len(argv) == 3 and argv[1] == "stop":
        Hdfs(argv[2]).stop()
    else:
        print("usage: hdfs.py start DIR | stop DIR", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except KeyboardInterrupt:
        sys.exit(130)
