"""A line carries bytes both ways until it is cut, and again once it is mended."""

import socket
import threading
from collections.abc import Iterator

import pytest

from diptych.bench.cut_line import CutLine, cut_line


@pytest.fixture
def line() -> Iterator[CutLine]:
    """Return a line to a server that says everything again."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    one, _ = server.accept()
                except OSError:
                    return
                with one:
                    while data := one.recv(100):
                        one.sendall(data)

        thread = threading.Thread(target=answer)
        thread.start()
        with cut_line(f"http://127.0.0.1:{server.getsockname()[1]}") as line:
            yield line
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def connected(line: CutLine) -> socket.socket:
    host, port = line.address.split(":")
    return socket.create_connection((host, int(port)), timeout=10.0)


def test_what_is_sent_comes_back(line: CutLine) -> None:
    with connected(line) as one:
        one.sendall(b"hello")
        assert one.recv(100) == b"hello"


def test_cut_line_ends_what_is_open_and_refuses_what_is_new(line: CutLine) -> None:
    with connected(line) as one:
        one.sendall(b"hello")
        assert one.recv(100) == b"hello"
        line.cut()
        assert one.recv(100) == b""
    with connected(line) as other:
        assert other.recv(100) == b""
    line.mend()
    with connected(line) as again:
        again.sendall(b"hello")
        assert again.recv(100) == b"hello"
