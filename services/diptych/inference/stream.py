"""The bridge from the engine's threads to one call's coroutine."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

from diptych.inference.trajectory import Completed, Event, Failed, Preview, Stepped

__all__ = ["EventStream"]

Key = tuple[str, int]


class EventStream:
    """Events of one request in order; ``put`` from any thread, ``events`` in the loop.

    A caller that reads slowly misses steps and previews, never an image: of those that wait, only
    the newest of each image is kept. So what waits is bounded by the request's number of images.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the reader in ``loop``."""
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: dict[Key, Event] = {}
        self._count = 0
        self._arrived = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add an event; returns at once and never raises."""
        with self._lock:
            wake = not self._waiting
            key = self._key(event)
            self._waiting.pop(key, None)
            self._waiting[key] = event
        if wake:
            # The loop is closed only after its calls have ended: then nobody listens any more.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events as they come until the request ends.

        Raises:
            DiptychError: The request failed.
        """
        while True:
            await self._arrived.wait()
            for event in self._take():
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Completed):
                    return

    def _take(self) -> list[Event]:
        """Return and forget what waits."""
        with self._lock:
            events = list(self._waiting.values())
            self._waiting.clear()
            self._arrived.clear()
        return events

    def _key(self, event: Event) -> Key:
        """Return what an event shares with those it replaces; called with the lock held."""
        if isinstance(event, Stepped | Preview):
            return type(event).__name__, event.image_index
        self._count += 1
        return "", self._count
