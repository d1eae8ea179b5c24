"""A line to a server on loopback that can be cut: open connections die, new ones are refused."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CutLine", "cut_line"]

_PIECE = 1 << 16


class CutLine:
    """Forwards bytes to ``target``; threads share it."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._is_cut = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        """Take connections until ``close``."""
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def cut(self) -> None:
        """End every connection, and take none until ``mend``."""
        self._is_cut.set()
        with self._lock:
            ended = tuple(self._open)
        for one in ended:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut.clear()

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with self._lock:
            self._open.add(source)
        try:
            while not self._is_cut.is_set() and (data := source.recv(_PIECE)):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(source)
            source.close()


@contextmanager
def cut_line(url: str) -> Iterator[CutLine]:
    """Run a line to the server at ``url``, http://HOST:PORT, or HOST:PORT."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    line = CutLine((host, int(port)))
    thread = threading.Thread(target=line.serve, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        line.close()
        thread.join()
