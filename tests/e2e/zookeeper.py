#!/usr/bin/env python3
"""A real ZooKeeper server for tests and for the quick start: one process, own folder, free port of 127.0.0.1.

zookeeper.py start DIR      starts it, prints host:port
zookeeper.py stop DIR       ends it
zookeeper.py restart DIR    kills it and starts it again on the same port and data
"""

import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import time

JARS = pathlib.Path("/usr/share/java")
TICK_MS = 500  # the shortest session a client can have is twice this


def free_port():
    """A free port below those that the system gives to outgoing connections: while a server that others reconnect to
    is down, its port must not go to one of them."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        first = int(f.read().split()[0])
    for port in random.sample(range(min(10000, first - 2000), first), 200):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError(f"no free port below {first}")


class ZooKeeper:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        self.port = None
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def start(self, timeout=60):
        """Starts the server, on the former port if it has run before, and returns when it answers."""
        jar = JARS / "zookeeper.jar"
        if not jar.exists():
            raise RuntimeError(f"{jar} is not there: install Debian's package zookeeper")
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        first = self.port is None
        while True:
            if first:
                self.port = free_port()
            try:
                self._spawn(jar)
                if self._wait_ready(deadline):
                    return self
            except BaseException:  # also Ctrl-C: what doesn't get ready isn't left running
                self.kill()
                raise
            code = self.process.poll()
            self.kill()
            if code is None or time.monotonic() > deadline or not first:
                raise RuntimeError(f"ZooKeeper does not start (exit status {code}); see {self.folder}/zookeeper.log")

    def _spawn(self, jar):
        config = self.folder / "zoo.cfg"
        config.write_text(
            f"tickTime={TICK_MS}\nmaxSessionTimeout=60000\ndataDir={self.folder}/data\n"
            f"clientPort={self.port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n"
            "4lw.commands.whitelist=srvr,cons\nmaxClientCnxns=0\n"
        )
        # The main jar's manifest names the others; the simple logger is only there to have a log.
        classpath = f"{jar}:{JARS}/slf4j-simple.jar"
        command = [
            "java",
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",  # else a file in /tmp/hsperfdata_*
            "-Dzookeeper.forceSync=no",
            "-cp",
            classpath,
            "org.apache.zookeeper.server.ZooKeeperServerMain",
            str(config),
        ]
        with open(self.folder / "zookeeper.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        (self.folder / "pid").write_text(str(self.process.pid))

    def _wait_ready(self, deadline):
        while time.monotonic() < deadline and self.process.poll() is None:
            if "Mode:" in self.ask("srvr"):
                return True
            time.sleep(0.05)
        return False

    def ask(self, command):
        """The answer to a four-letter command, "" without one."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as s:
                s.settimeout(2)
                s.sendall(command.encode())
                answer = b""
                while chunk := s.recv(4096):
                    answer += chunk
                return answer.decode(errors="replace")
        except OSError:
            return ""

    def _request(self, kind, path, more=b"\0"):
        """The body of the answer to one request, in a session of its own; None if the node isn't there. `more` follows
        the path: for reads, that no watch is wanted."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as s:

            def send(body):
                s.sendall(struct.pack(">i", len(body)) + body)

            def receive(n):
                data = b""
                while len(data) < n:
                    chunk = s.recv(n - len(data))
                    if not chunk:
                        raise ConnectionError("ZooKeeper closed the connection")
                    data += chunk
                return data

            def answer():
                return receive(struct.unpack(">i", receive(4))[0])

            send(struct.pack(">iqiqi", 0, 0, 10000, 0, 16) + bytes(16))
            answer()
            name = path.encode()
            send(struct.pack(">iii", 1, kind, len(name)) + name + more)
            body = answer()
            send(struct.pack(">ii", 2, -11))  # closes the session
            _, _, error = struct.unpack_from(">iqi", body)
            if error == -101:
                return None
            if error:
                raise RuntimeError(f"ZooKeeper answers {error} for {path}")
            return body[16:]

    def get(self, path):
        """A node's data, None if it isn't there."""
        body = self._request(4, path)
        if body is None:
            return None
        size = struct.unpack_from(">i", body)[0]
        return body[4 : 4 + max(size, 0)]

    def children(self, path):
        """The names below a node, None if it isn't there."""
        body = self._request(8, path)
        if body is None:
            return None
        out, at = [], 4
        for _ in range(struct.unpack_from(">i", body)[0]):
            size = struct.unpack_from(">i", body, at)[0]
            out.append(body[at + 4 : at + 4 + size].decode())
            at += 4 + size
        return sorted(out)

    def create(self, path, data=b""):
        """A persistent node that anyone may change; its parent must be there."""
        world = struct.pack(">iii", 1, 31, 5) + b"world" + struct.pack(">i", 6) + b"anyone"
        if self._request(1, path, struct.pack(">i", len(data)) + data + world + struct.pack(">i", 0)) is None:
            raise RuntimeError(f"{path} has no parent")

    def delete(self, path):
        self._request(2, path, struct.pack(">i", -1))

    def _end(self, how):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def stop(self):
        self._end(signal.SIGTERM)

    def kill(self):
        self._end(signal.SIGKILL)

    def restart(self):
        """Kills it and starts it again on the same port and data: sessions live on if it is quick enough."""
        self.kill()
        return self.start()

    def pause(self):
        """Stops its clock: clients see silence, not a closed connection."""
        self.process.send_signal(signal.SIGSTOP)
        # The signal reaches each thread when it gets to run; until then it may still answer.
        tasks = pathlib.Path(f"/proc/{self.pid}/task")
        while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
            time.sleep(0.001)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)


def stop_by_folder(folder, how=signal.SIGTERM):
    folder = pathlib.Path(folder).resolve()
    pid_file = folder / "pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    pid_file.unlink()
    try:
        if str(folder) not in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
            return  # the number belongs to another process by now
        os.kill(pid, how)
        for _ in range(200):
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass


def restart_by_folder(folder):
    stop_by_folder(folder, signal.SIGKILL)
    server = ZooKeeper(folder)
    config = (server.folder / "zoo.cfg").read_text()
    server.port = int(config.split("clientPort=")[1].split()[0])
    return server.start()


def main(args):
    if len(args) != 2 or args[0] not in ("start", "stop", "restart"):
        sys.exit(__doc__.strip())
    if args[0] == "start":
        print(ZooKeeper(args[1]).start().address)
    elif args[0] == "restart":
        print(restart_by_folder(args[1]).address)
    else:
        stop_by_folder(args[1])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
