"""The life of a service in its process or thread: come up, run until told, end in order.

A service is a coroutine function ``serve(stop, ready)`` that calls ``ready`` once it serves and
returns after ``stop`` was set: True, or False if that was while it was still coming up.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from diptych.errors import Unavailable

__all__ = ["Ports", "Serve", "ServingThread", "run_until_signal", "unless"]

FORCED_EXIT: Final = 130

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a server listens."""

    host: str
    port: int
    metrics_port: int | None
    health_port: int | None


Serve = Callable[[asyncio.Event, Callable[[Ports], None]], Awaitable[bool]]


async def run_until_signal(serve: Serve, *, grace_s: float) -> None:
    """Serve until SIGTERM or SIGINT; a second one exits at once.

    A signal that comes while the service comes up ends the process with exit status 0, since
    nothing can interrupt a thread that loads weights. Raises what ``serve`` does.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            _log.warning("second signal, exiting at once")
            os._exit(FORCED_EXIT)
        _log.info("draining", extra={"grace_s": grace_s})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    came_up = await serve(stop, _log_ready)
    _log.info("stopped")
    if not came_up:
        logging.shutdown()
        os._exit(0)  # the interpreter would wait for the thread that loads


class ServingThread:
    """A service in a thread of this program: ``start``, call ``address``, ``stop``."""

    def __init__(self, serve: Serve) -> None:
        """Prepare; nothing runs before ``start``."""
        self._serve = serve
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "diptych-server")
        self._ready: concurrent.futures.Future[Ports] = concurrent.futures.Future()
        self._stop: Callable[[], None] | None = None
        self._ended: concurrent.futures.Future[None] | None = None

    def start(self, *, timeout_s: float) -> None:
        """Return when the server is ready.

        Raises:
            DiptychError: What the service raised; ``Unavailable`` when it took longer than
                ``timeout_s``.
        """
        self._ended = self._thread.submit(asyncio.run, self._main())
        either: list[concurrent.futures.Future[Any]] = [self._ready, self._ended]
        concurrent.futures.wait(either, timeout_s, return_when=concurrent.futures.FIRST_COMPLETED)
        if self._ended.done():
            self._ended.result()
        if not self._ready.done():
            raise Unavailable(f"the embedded server was not ready within {timeout_s:g} s")

    @property
    def ports(self) -> Ports:
        """Where it listens, once started."""
        return self._ready.result(timeout=0)

    @property
    def address(self) -> str:
        """``host:port`` to call, once started."""
        return f"{self.ports.host}:{self.ports.port}"

    def stop(self) -> None:
        """Drain and end the thread."""
        if self._stop is not None:
            self._stop()
        if self._ended is not None:
            self._ended.result()
        self._thread.shutdown()

    async def _main(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = partial(_call_in, loop, stop.set)
        await self._serve(stop, self._ready.set_result)


async def unless(stop: asyncio.Event, work: Coroutine[None, None, Result]) -> Result | None:
    """Return what ``work`` comes to, None when ``stop`` is set before."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        stopping.cancel()
        working.cancel()


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call ``function`` in ``loop``; when that has ended there is nothing left to call."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


def _log_ready(ports: Ports) -> None:
    fields = {"host": ports.host, "port": ports.port, "metrics_port": ports.metrics_port}
    _log.info("ready", extra=fields | {"health_port": ports.health_port})
