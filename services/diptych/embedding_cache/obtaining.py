"""Embeddings that are there or are made: once, however many ask, in one event loop.

Looking an embedding up, making it and keeping it is one flight for each key. A flight looks again
before it makes anything, so that of two askers who both missed, the second finds what the first
one's flight left.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from diptych.digest import Digest
from diptych.embedding_cache.ports import CacheMode, Found, Store
from diptych.errors import EmbeddingMissing

__all__ = ["Makes", "Obtaining"]

Result = TypeVar("Result")
Makes = Mapping[Digest, Callable[[], Future[bytes]]]
"""By key, what starts to make its value."""


class Obtaining:
    """Owns the flights of one tenant's store."""

    def __init__(self, store: Store, threads: ThreadPoolExecutor) -> None:
        self.store, self._threads = store, threads
        self._flights: dict[Digest, asyncio.Task[Found]] = {}

    async def obtain(
        self, makes: Makes, *, kind: str, mode: CacheMode, with_values: bool
    ) -> dict[Digest, Found]:
        """Return every embedding of ``makes``, all of one kind: prompt or image.

        Raises:
            EmbeddingMissing: Some are not there and ``mode`` lets none be made.
            DiptychError: What making one raised; the others are made and kept all the same.
        """
        if mode is CacheMode.BYPASS:
            made = await _all({key: self._value(make) for key, make in makes.items()})
            return {key: _encoded(value, with_value=True) for key, value in made.items()}
        found = await self._there(list(makes), kind=kind, with_values=with_values)
        missing = [key for key in makes if key not in found]
        if missing and mode is CacheMode.READ_ONLY:
            for _ in missing:
                self.store.count(None, kind=kind)
            raise EmbeddingMissing(str(missing[0]), len(missing))
        return found | await _all(
            {
                key: _joined(self._fly(key, makes[key], kind), with_value=with_values)
                for key in missing
            }
        )

    async def _there(
        self, keys: Sequence[Digest], *, kind: str, with_values: bool
    ) -> dict[Digest, Found]:
        """Return those that are there; what memory holds is taken without a thread."""
        found: dict[Digest, Found] = {}
        for key in keys:
            if (held := self.store.peek(key)) is not None:
                self.store.count("memory", kind=kind)
                kept = held.data if with_values else None
                found[key] = Found(source="memory", size_bytes=len(held.data), value=kept)
        rest = [key for key in keys if key not in found]
        if not rest:
            return found
        look = partial(self._look, rest, kind=kind, with_values=with_values)
        return found | await self._run(look)

    def _look(self, keys: Sequence[Digest], *, kind: str, with_values: bool) -> dict[Digest, Found]:
        found: dict[Digest, Found] = {}
        for key, tier in self.store.locate(keys).items():
            if not with_values:
                self.store.count(tier, kind=kind)
                found[key] = Found(source=tier)
            elif (one := self.store.read(key, kind=kind)) is not None:
                found[key] = one
        return found

    def _fly(
        self, key: Digest, make: Callable[[], Future[bytes]], kind: str
    ) -> "asyncio.Task[Found]":
        """Return the flight of ``key``, begun now if there is none."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(self._make(key, make, kind))
            self._flights[key] = flight
            flight.add_done_callback(partial(self._landed, key))
        return flight

    def _landed(self, key: Digest, flight: "asyncio.Task[Found]") -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # someone may have left before they heard of it

    async def _make(self, key: Digest, make: Callable[[], Future[bytes]], kind: str) -> Found:
        there = await self._run(partial(self.store.read, key, kind=kind))
        if there is not None:
            return there
        value = await self._value(make)
        await self._run(self.store.write, key, value)
        return _encoded(value, with_value=True)

    async def _value(self, make: Callable[[], Future[bytes]]) -> bytes:
        return await asyncio.wrap_future(make())

    async def _run(self, function: Callable[..., Result], *arguments: object) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *arguments))


async def _joined(flight: "asyncio.Task[Found]", *, with_value: bool) -> Found:
    """Wait for a flight, which goes on if this one leaves it; many values would not fit memory."""
    found = await asyncio.shield(flight)
    value = found.value if with_value else None
    return Found(source=found.source, size_bytes=found.size_bytes, value=value)


async def _all(works: Mapping[Digest, Coroutine[Any, Any, Result]]) -> dict[Digest, Result]:
    """Return what each work comes to, once all have ended.

    Raises:
        DiptychError: What the first that failed raised.
    """
    results = await asyncio.gather(*works.values(), return_exceptions=True)
    done: dict[Digest, Result] = {}
    for key, result in zip(works, results, strict=True):
        if isinstance(result, BaseException):
            raise result
        done[key] = result
    return done


def _encoded(value: bytes, *, with_value: bool) -> Found:
    return Found(source="encoded", size_bytes=len(value), value=value if with_value else None)
