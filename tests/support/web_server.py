"""A web server on loopback that answers well, badly, slowly or not at all, by path."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import override

__all__ = ["WebServer", "web_server"]


class WebServer:
    """The server's address, what it serves and what it was asked for."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.content: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.ended = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    """``/good`` serves; ``/status/N`` answers N; ``/once/N/PATH`` answers N the first time."""

    web: WebServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        is_first = self.path not in self.web.asked
        self.web.asked.append(self.path)
        kind, _, rest = self.path.lstrip("/").partition("/")
        if kind == "status":
            self.answer(int(rest), b"no")
        elif kind == "once" and is_first:
            self.answer(int(rest.partition("/")[0]), b"later")
        elif kind == "once":
            self.answer(200, self.web.content[f"/{rest.partition('/')[2]}"])
        elif kind == "redirect":
            self.send_response_only(302)
            self.send_header("Location", rest)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif kind in {"slow", "reset", "cut", "endless"}:
            self.misbehave(kind)
        else:
            self.answer(
                200 if self.path in self.web.content else 404, self.web.content.get(self.path, b"")
            )

    def answer(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def misbehave(self, kind: str) -> None:
        self.send_response_only(200)
        if kind != "endless":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        self.close_connection = True
        try:
            while kind == "endless":
                self.wfile.write(bytes(65536))
            self.wfile.write(b"x")
            while kind == "slow" and not self.web.ended.wait(0.05):
                self.wfile.write(b"x")
        except OSError:
            return
        if kind == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@contextmanager
def web_server() -> Iterator[WebServer]:
    """Run a server."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web = WebServer(server)
    Handler.web = web
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        web.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
