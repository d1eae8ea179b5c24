"""A proxy on loopback that forwards HTTP and does to some requests what networks do."""

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from typing_extensions import override

__all__ = ["Fault", "FaultyProxy", "faulty_proxy"]

_HOP_BY_HOP: Final = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to the next ``num_times`` requests of ``method`` whose path holds ``path``."""

    method: str
    kind: str
    """``403``, ``404``, ``500``, ``503``, ``507``: that status. ``reset``: the connection dies
    before the request is forwarded. ``lost``: it dies after, so that the answer is lost. ``cut``:
    it ends after half of the answer's body. ``flip``: a bit of the answer's body changes.
    ``stall``: no answer. ``careless``: the request is forwarded without its conditions."""
    path: str = ""
    num_times: int = 1


class FaultyProxy:
    """The proxy's address, and the faults that it has yet to cause."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        host, port = server.server_address[:2]
        self.url = f"http://{host!s}:{port}"
        self.ended = threading.Event()
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def cause(self, *faults: Fault) -> None:
        """Do these to requests from now on."""
        with self._lock:
            self._faults.extend(item for fault in faults for item in [fault] * fault.num_times)

    def forget(self) -> None:
        """Cause no more faults, and forget the requests that came."""
        with self._lock:
            self._faults.clear()
            self.requests.clear()

    def take(self, method: str, path: str) -> str:
        """Return what to do to a request; nothing if it is to be left alone."""
        with self._lock:
            self.requests.append(f"{method} {path}")
            for fault in self._faults:
                if fault.method == method and fault.path in path:
                    self._faults.remove(fault)
                    return fault.kind
        return ""


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    target: str
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.proxy.take(self.command, self.path)
        if kind == "stall":
            self.proxy.ended.wait()
        if kind in {"reset", "stall"}:
            self.hang_up(is_reset=True)
        elif kind.isdigit():
            self.reply(int(kind), {}, _error_body(kind))
        else:
            self.pass_on(body, kind)

    def pass_on(self, body: bytes, kind: str) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.target).netloc)
        try:
            sent = dict(self.headers)
            if kind == "careless":
                sent = {name: sent[name] for name in sent if not name.lower().startswith("if-")}
            connection.request(self.command, self.path, body, sent)
            answer = connection.getresponse()
            content = answer.read()
            headers = dict(answer.getheaders())
            if self.command == "HEAD":
                self.reply(answer.status, headers, b"", headers.get("Content-Length", "0"))
            else:
                self.mangle(answer.status, headers, content, kind)
        finally:
            connection.close()

    def mangle(self, status: int, headers: dict[str, str], content: bytes, kind: str) -> None:
        if kind == "flip":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if kind == "cut":
            length = str(len(content))
            self.reply(status, headers, content[: len(content) // 2], length)
        elif kind != "lost":
            self.reply(status, headers, content)
        if kind in {"cut", "lost"}:
            self.hang_up(is_reset=kind == "lost")

    def reply(self, status: int, headers: dict[str, str], content: bytes, length: str = "") -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP and not name.lower().startswith("x-amz-check"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self, *, is_reset: bool) -> None:
        """End the connection, with a reset rather than in good order if asked to."""
        self.wfile.flush()
        self.close_connection = True
        if is_reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.shutdown(socket.SHUT_WR)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


for _method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.forward)


@contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the server at the URL ``target``."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = FaultyProxy(server)
    Handler.proxy, Handler.target = proxy, target
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _error_body(status: str) -> bytes:
    codes = {
        "403": "AccessDenied",
        "404": "NoSuchKey",
        "500": "InternalError",
        "503": "SlowDown",
        "507": "InsufficientStorage",
    }
    return f"<Error><Code>{codes[status]}</Code><Message>no</Message></Error>".encode()
