"""The gate a call passes: closed while the server drains, and able to hand back what still runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from diptych.errors import Draining

__all__ = ["Gate"]


class Gate:
    """Counts the calls inside and, once closing, lets no other in.

    Owned by one server; used on its event loop only.
    """

    def __init__(self, *, retry_after_s: float = 1.0) -> None:
        """Begin open; ``retry_after_s`` is what refused callers are told to wait."""
        self._retry_after_s = retry_after_s
        self._closing = False
        self._handing_back = False
        self._running: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def closing(self) -> bool:
        """Whether new calls are refused."""
        return self._closing

    @property
    def num_running(self) -> int:
        """How many calls are inside."""
        return len(self._running)

    @contextlib.asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Let one call through, for as long as the block lasts.

        Raises:
            Draining: the gate is closing, or the call was handed back by ``close``.
        """
        if self._closing:
            raise Draining(self._retry_after_s)
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        self._running.add(task)
        self._idle.clear()
        try:
            yield
        except asyncio.CancelledError:
            if not self._handing_back:
                raise
            task.uncancel()
            raise Draining(self._retry_after_s) from None
        finally:
            self._running.discard(task)
            if not self._running:
                self._idle.set()

    def begin_closing(self) -> None:
        """Refuse every call from now on; those inside go on."""
        self._closing = True

    async def close(self, grace_s: float) -> None:
        """Refuse new calls, wait up to ``grace_s`` for those inside, then hand the rest back.

        A call that is handed back ends with ``Draining``, so that its client tries elsewhere.
        """
        self.begin_closing()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        self._handing_back = True
        for task in tuple(self._running):
            task.cancel()
        await self._idle.wait()
