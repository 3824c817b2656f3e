"""Proxies that do wrong what they are told to do wrong: one for WebHDFS (a NameNode's and its DataNode's HTTP port),
that knows the operations, and one for any TCP connection, that knows bytes only.

What a rule does is a function of the exchange: it may forward the request (Exchange.forward), answer something else
(Exchange.reply), or end the connection (Exchange.reset), in any order and number. Everything without a rule passes.
"""

import collections
import contextlib
import json
import re
import select
import socket
import struct
import threading
import time
import urllib.parse

from zookeeper import free_port

MAX_HEAD = 1 << 20


def listening():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", 0))
    s.listen(128)
    return s


def reset(s):
    """Closes a connection the hard way."""
    with contextlib.suppress(OSError):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def remote_exception(name, message, package="org.apache.hadoop.hdfs.protocol"):
    return json.dumps(
        {"RemoteException": {"exception": name, "javaClassName": f"{package}.{name}", "message": message}}
    ).encode()


class Rule:
    """`side` is "namenode" or "datanode", `op` an operation's name; `path` a regular expression that is searched in the
    request's whole target. It holds for the next `times` requests that fit, after `skip` others."""

    def __init__(self, action, op=None, side="namenode", path=None, times=1, skip=0):
        self.action, self.op, self.side, self.path, self.times, self.skip = action, op, side, path, times, skip
        self.fired = 0

    def fits(self, x):
        return (
            self.times > 0
            and x.side == self.side
            and self.op in (None, x.op)
            and (not self.path or re.search(self.path, x.target))
        )


class Exchange:
    """One request of the client, and its connection."""

    def __init__(self, proxy, side, client):
        self.proxy, self.side, self.client = proxy, side, client
        self.method = self.target = self.op = ""
        self.head, self.rest, self.body = [], b"", None  # body: of a request that was read to its end

    def read_head(self):
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self.client.recv(65536)
            if not chunk or len(data) > MAX_HEAD:
                return False
            data += chunk
        head, self.rest = data.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ", 2)
        self.head = [l for l in lines if l.split(":")[0].lower() not in ("connection", "host", "expect")]
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.target).query)
        self.op = query.get("op", [""])[0]
        return True

    def _connect(self):
        host, port = self.proxy.upstream[self.side].rsplit(":", 1)
        server = socket.create_connection((host, int(port)), timeout=60)
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {host}:{port}", *self.head, "Connection: close"]
        server.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        return server

    def forward(self, body_limit=None):
        """Sends the request on and returns the whole answer as (status, headers, body), with addresses of DataNodes
        replaced by the proxy's. With a limit the connection to the server ends after that many bytes of the body."""
        server = self._connect()
        answer = b""
        sent = 0
        try:
            first = self.body is None
            chunk = self.rest if first else self.body
            keep = bytearray()
            while True:
                if chunk:
                    if body_limit is not None and sent + len(chunk) > body_limit:
                        server.sendall(chunk[: body_limit - sent])
                        return None
                    keep += chunk
                    server.sendall(chunk)
                    sent += len(chunk)
                    chunk = b""
                readable, _, _ = select.select([server, self.client] if first else [server], [], [], 120)
                if server in readable:
                    data = server.recv(1 << 18)
                    if not data:
                        break
                    answer += data
                    if b"\r\n\r\n" in answer and self._is_whole(answer):
                        break
                elif self.client in readable:
                    chunk = self.client.recv(1 << 18)
                    if not chunk:  # the client has given up; so does whoever stands between
                        return None
                else:
                    return None
            if first:
                self.body = bytes(keep)
        finally:
            server.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        if len(lines[0].split(" ")) < 2:
            return None
        headers = [l for l in lines[1:] if l.split(":")[0].lower() not in ("connection", "content-length")]
        if any(l.lower() == "transfer-encoding: chunked" for l in headers):
            headers = [l for l in headers if not l.lower().startswith("transfer-encoding")]
            body = unchunk(body)
        fixed = body.replace(self.proxy.upstream["datanode"].encode(), self.proxy.address("datanode").encode())
        return int(lines[0].split(" ")[1]), headers, fixed

    @staticmethod
    def _is_whole(answer):
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        return bool(length) and len(body) >= int(length.group(1))

    def again(self):
        """The same request once more, as a network may repeat it; its answer, or None."""
        try:
            return self.forward()
        except OSError:
            return None

    def reply(self, status, body=b"", headers=(), length=None):
        lines = [f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body) if length is None else length}"]
        lines += ["Connection: close"]
        if body and not any(l.lower().startswith("content-type") for l in headers):
            lines.append("Content-Type: application/json")
        with contextlib.suppress(OSError):
            self.client.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def pass_on(self, answer):
        """Answers what `forward` has returned."""
        if answer is None:
            self.reset()
        else:
            status, headers, body = answer
            self.reply(status, body, headers)

    def reset(self):
        reset(self.client)

    def end(self):
        """Closes the connection; what the client still sends is read for a moment, else the answer would be lost with
        a reset."""
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)
            self.client.settimeout(0.5)
            while self.client.recv(1 << 18):
                pass
        self.client.close()


def unchunk(data):
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        n = int(size.split(b";")[0] or b"0", 16)
        if n == 0:
            break
        out, data = out + data[:n], data[n + 2 :]
    return out


class WebHdfsProxy:
    """Stands before the NameNode and the DataNode of an Hdfs. `address()` is for webhdfs://."""

    def __init__(self, hdfs):
        self.upstream = {"namenode": hdfs.http_address, "datanode": hdfs.datanode_http_address}
        self.rules = []
        self.requests = collections.Counter()  # (side, op) -> how many came
        self.log = collections.deque(maxlen=200)
        self._lock = threading.Lock()
        self._sockets = {side: listening() for side in self.upstream}
        self._stop = False

    def address(self, side="namenode"):
        return f"127.0.0.1:{self._sockets[side].getsockname()[1]}"

    def __enter__(self):
        for side in self.upstream:
            threading.Thread(target=self._accept, args=(side,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._stop = True
        for s in self._sockets.values():
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def add(self, *rules):
        with self._lock:
            self.rules += rules
        return rules[0] if len(rules) == 1 else rules

    def clear(self):
        with self._lock:
            self.rules = []

    def _accept(self, side):
        while not self._stop:
            try:
                client, _ = self._sockets[side].accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(side, client), daemon=True).start()

    def _rule(self, x):
        with self._lock:
            self.requests[(x.side, x.op)] += 1
            for rule in self.rules:
                if not rule.fits(x):
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                rule.times -= 1
                rule.fired += 1
                return rule
        return None

    def _serve(self, side, client):
        x = Exchange(self, side, client)
        try:
            if x.read_head():
                rule = self._rule(x)
                self.log.append((time.monotonic(), side, x.op, x.target.split("&user.name")[0], bool(rule)))
                if rule:
                    rule.action(x)
                else:
                    x.pass_on(x.forward())
            x.end()
        except OSError:
            reset(client)


# ---- what can be answered wrongly: name -> action ----


def answer(status, body=b"", headers=()):
    return lambda x: x.reply(status, body, headers)


def exception(status, name, message, package="org.apache.hadoop.hdfs.protocol"):
    return answer(status, remote_exception(name, message, package))


def reset_before(x):
    x.reset()


def reset_after(x):
    x.forward()
    x.reset()


def silent_after(seconds):
    """It is carried out, and nothing is answered for so long."""

    def action(x):
        x.forward()
        time.sleep(seconds)
        x.reset()

    return action


def silent_before(seconds):
    def action(x):
        time.sleep(seconds)
        x.reset()

    return action


def slow(seconds):
    def action(x):
        got = x.forward()
        time.sleep(seconds)
        x.pass_on(got)

    return action


def late(seconds):
    """The client hears of a lost connection, and the request arrives later."""

    def action(x):
        method, target, head, body = x.method, x.target, x.head, x.rest
        x.reset()
        time.sleep(seconds)
        y = Exchange(x.proxy, x.side, None)
        y.method, y.target, y.op, y.head, y.body = method, target, x.op, head, body
        with contextlib.suppress(OSError):
            deliver(y)

    return action


def deliver(x):
    """A request without a client."""
    server = x._connect()
    server.sendall(x.body)
    while server.recv(1 << 16):
        pass
    server.close()


def twice(x):
    """The network repeats the request, and the second answer is the one that arrives."""
    x.forward()
    x.pass_on(x.again())


def twice_first(x):
    """It repeats the request, and the first answer arrives."""
    first = x.forward()
    x.again()
    x.pass_on(first)


def truncated(x):
    """The answer's JSON is cut off, with a length that fits."""
    got = x.forward()
    body = got[2] if got and got[2] else b'{"boolean": true}'
    x.reply(got[0] if got else 200, body[: len(body) // 2])


def cut_off(x):
    """The connection ends in the middle of the answer."""
    got = x.forward()
    body = got[2] if got and got[2] else b'{"boolean": true}'
    x.reply(got[0] if got else 200, body[: len(body) // 2], length=len(body))


def says_false(x):
    x.forward()
    x.reply(200, b'{"boolean": false}')


def refuses_false(x):
    x.reply(200, b'{"boolean": false}')


def says_after(status, body=b""):
    """It is carried out, and something else is answered."""

    def action(x):
        x.forward()
        x.reply(status, body)

    return action


def body_ends(at):
    """Of a write: the connection to the server breaks in the middle of the data. A DataNode keeps what has arrived as a
    whole file."""

    def action(x):
        x.forward(body_limit=at)
        x.reset()

    return action


def redirect(address):
    return lambda x: x.reply(307, b"", [f"Location: http://{address}{x.target}"])


def located_at(address):
    """CREATE's first step names another DataNode."""

    def action(x):
        got = x.forward()
        if got is None:
            x.reset()
            return
        body = got[2].replace(x.proxy.address("datanode").encode(), address.encode())
        x.reply(got[0], body, got[1])

    return action


class Foreign:
    """A server that answers 201 to everything and keeps nothing."""

    def __init__(self):
        self.socket = listening()
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.asked = 0

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        self.asked += 1
        data = b""
        with contextlib.suppress(OSError):
            client.settimeout(60)
            while b"\r\n\r\n" not in data:
                data += client.recv(65536) or b"\r\n\r\n"
            if b"chunked" in data:
                while not data.endswith(b"0\r\n\r\n"):
                    chunk = client.recv(65536)
                    if not chunk:
                        break
                    data += chunk
            client.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        client.close()


# ---- any connection ----


class TcpProxy:
    """Passes bytes on, until it is told otherwise. `mode`:

    pass      as it should be
    refuse    nobody listens
    cut       open connections are reset, new ones too, at their first bytes
    hang      connections are taken, and nothing goes on
    deaf      what the client sends arrives; what is answered doesn't
    """

    def __init__(self, target, delay=0.0):
        self.target, self.delay, self.mode = target, delay, "pass"
        self._listener = None
        self._port = None
        self._pairs = set()
        self._lock = threading.Lock()
        self.connections = 0
        self.bytes = 0  # that clients have sent
        self._listen()

    def _listen(self):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", self._port or free_port()))
        s.listen(128)
        self._port = s.getsockname()[1]
        self._listener = s
        threading.Thread(target=self._accept, args=(s,), daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self._port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.set("refuse")

    def _unlisten(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None

    def set(self, mode):
        """Changes it, for the open connections too."""
        former, self.mode = self.mode, mode
        if mode == "refuse" and self._listener:
            self._unlisten()
        if mode != "refuse" and not self._listener:
            self._listen()
        if mode in ("refuse", "cut") or (mode == "pass" and former in ("hang", "deaf")):
            self.cut()

    def cut(self):
        """Resets the open connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for s in pair:
                with contextlib.suppress(OSError):
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.shutdown(socket.SHUT_RDWR)
                s.close()

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        if self.mode == "cut":
            reset(client)
            return
        host, port = self.target.rsplit(":", 1)
        try:
            server = socket.create_connection((host, int(port)), timeout=10)
        except OSError:
            reset(client)
            return
        server.settimeout(None)
        pair = (client, server)
        with self._lock:
            self._pairs.add(pair)
        for a, b in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(a, b, a is server, pair), daemon=True).start()

    def _pump(self, source, to, answers, pair):
        try:
            while data := source.recv(1 << 16):
                self.bytes += 0 if answers else len(data)
                while self.mode == "hang" and pair in self._pairs:
                    time.sleep(0.01)
                if self.delay:
                    time.sleep(self.delay)
                if self.mode == "deaf" and answers:
                    continue
                to.sendall(data)
        except OSError:
            pass
        with self._lock:
            self._pairs.discard(pair)
        for s in pair:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()
