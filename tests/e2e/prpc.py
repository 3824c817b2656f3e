"""baidu_std ("PRPC") in a few lines, for peers in tests that share nothing with libosync: frames, attachments, a client
and a server. Messages are packed by hand; `openmldb.fields` reads them."""

import socket
import socketserver
import struct
import threading

from openmldb import fields


class RpcError(Exception):
    def __init__(self, code, text):
        super().__init__(f"[E{code}] {text}")
        self.code, self.text = code, text


def varint(n):
    n &= 0xFFFFFFFFFFFFFFFF
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def pack(*pairs):
    """A message from (field number, value) pairs: numbers and booleans, texts, bytes (also packed messages); None is
    left out."""
    out = b""
    for number, value in pairs:
        if value is None:
            continue
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def one(message, number, default=None):
    """The last value of a field of a parsed message."""
    return message.get(number, [default])[-1]


def text(message, number):
    return one(message, number, b"").decode()


def frame(meta, body, attachment=b""):
    return b"PRPC" + struct.pack(">II", len(meta) + len(body) + len(attachment), len(meta)) + meta + body + attachment


def receive(s, n):
    data = b""
    while len(data) < n:
        chunk = s.recv(n - len(data))
        if not chunk:
            raise ConnectionError("the connection was closed")
        data += chunk
    return data


def read_frame(s):
    """The parsed RpcMeta, the body, the attachment."""
    head = receive(s, 12)
    if head[:4] != b"PRPC":
        raise ConnectionError(f"not a frame: {head!r}")
    size, meta_size = struct.unpack(">II", head[4:])
    data = receive(s, size)
    meta = fields(data[:meta_size])
    cut = size - one(meta, 5, 0)
    return meta, data[meta_size:cut], data[cut:]


def request(service, method, body, attachment=b"", correlation_id=1):
    """The frame of the first request of a connection, as OpenMLDB's own client makes it."""
    head = pack((1, service), (2, method), (3, 0))
    size = len(attachment) or None
    return frame(pack((1, head), (3, 0), (4, correlation_id), (5, size), (7, "sdefault")), body, attachment)


def call(endpoint, service, method, body, attachment=b"", timeout=20):
    """One call over a connection of its own, as OpenMLDB's collector makes each SendData. Returns the answer's body."""
    host, port = endpoint.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=timeout) as s:
        s.sendall(request(service, method, body, attachment))
        meta, body, _ = read_frame(s)
    response = fields(one(meta, 2, b""))
    if one(response, 1, 0):
        raise RpcError(one(response, 1), text(response, 2))
    return body


class Server:
    """`methods`: {"service.name.Method": function(body, attachment) -> body}. A function that returns None lets the
    connection break without an answer."""

    def __init__(self, host, port, methods):
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                try:
                    while outer.serve(self.request):
                        pass
                except OSError:
                    pass

        class Listener(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False

        self.methods = methods
        self.listener = Listener((host, port), Handler)
        self.endpoint = f"{host}:{self.listener.server_address[1]}"
        self.thread = threading.Thread(target=self.listener.serve_forever, args=(0.02,))
        self.thread.start()

    def serve(self, connection):
        meta, body, attachment = read_frame(connection)
        asked = fields(one(meta, 1, b""))
        name = f"{text(asked, 1)}.{text(asked, 2)}"
        method = self.methods.get(name) or self.methods.get(f"openmldb.datasync.{name}")
        if not method:
            response, answer = pack((1, 1002), (2, f"Fail to find method={name}")), b""
        else:
            response, answer = pack((1, 0)), method(body, attachment)
            if answer is None:
                return False
        connection.sendall(frame(pack((2, response), (3, 0), (4, one(meta, 4, 0))), answer))
        return True

    def close(self):
        self.listener.shutdown()
        self.listener.server_close()
        self.thread.join()
