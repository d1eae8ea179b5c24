"""Embeddings of prompts that were made before: in this process, or kept by a service.

What is kept goes by its key alone, and a key tells everything that an embedding depends on; so it
does not matter who made an entry.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from diptych.digest import Digest
from diptych.embeddings.memory import MemoryTier
from diptych.errors import DiptychError, EmbeddingMissing
from diptych.rpc.auth import DEFAULT_TENANT

__all__ = [
    "EmbeddingClient",
    "LocalPrompts",
    "LookObserver",
    "PromptCache",
    "PromptTiers",
    "ServicePrompts",
    "SharedPrompts",
    "TenantPrompts",
]

MAX_WRITES: Final = 64
"""Batches of entries that may wait to be sent to a service."""
PAUSE_S: Final = 5.0
"""How long a service that failed is left alone."""

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class PromptCache(Protocol):
    """Entries by key. Called from the engine's thread, which waits for it."""

    def get_many(self, keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        """Return those entries of ``keys``, all different, that are there."""

    def put_many(self, entries: Mapping[Digest, bytes]) -> None:
        """Keep entries; one that is there already is the same."""


class TenantPrompts(Protocol):
    """Where each tenant's prompts are looked for."""

    def of(self, tenant: str) -> PromptCache:
        """Return what may answer ``tenant``: its own, and what servers share on purpose."""


class LookObserver(Protocol):
    """Hears of every look for an entry, for metrics."""

    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        """Count one look for an embedding in a tier."""


class EmbeddingClient(Protocol):
    """The part of ``EmbeddingCacheClient`` that is needed here."""

    def read(
        self, keys: Sequence[Digest], *, timeout_s: float | None = None
    ) -> Iterator[tuple[Digest, bytes]]:
        """Yield what is there; in the end raise EmbeddingMissing if something is not."""

    def write(
        self, entries: Iterable[tuple[Digest, bytes]], *, timeout_s: float | None = None
    ) -> object:
        """Keep entries."""


class LocalPrompts:
    """One tenant's entries in this process's memory, which all tenants share.

    No tenant finds another's, for that would tell it of a prompt that the other has used.
    """

    def __init__(self, memory: MemoryTier, tenant: str = DEFAULT_TENANT) -> None:
        self._memory, self._tenant = memory, tenant

    def of(self, tenant: str) -> "LocalPrompts":
        """Return the entries of ``tenant``."""
        return LocalPrompts(self._memory, tenant)

    def get_many(self, keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        """Return those entries of ``keys`` that are there."""
        looked = ((key, self._memory.get(self._place(key))) for key in keys)
        return {key: data for key, data in looked if data is not None}

    def put_many(self, entries: Mapping[Digest, bytes]) -> None:
        """Keep entries; those unused for longest make room."""
        for key, data in entries.items():
            self._memory.put(self._place(key), data)

    def _place(self, key: Digest) -> Digest:
        return Digest.of_bytes(f"{self._tenant} {key.hex}".encode())


class ServicePrompts:
    """Entries of an embedding-cache service."""

    def __init__(self, client: EmbeddingClient, *, timeout_s: float) -> None:
        self._client, self._timeout_s = client, timeout_s

    def get_many(self, keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        """Return those entries of ``keys`` that are there; raises what the client does."""
        found: dict[Digest, bytes] = {}
        with suppress(EmbeddingMissing):  # said last of all, after what is there
            found.update(self._client.read(keys, timeout_s=self._timeout_s))
        return found

    def put_many(self, entries: Mapping[Digest, bytes]) -> None:
        """Send entries; raises what the client does."""
        self._client.write(entries.items(), timeout_s=self._timeout_s)


class SharedPrompts:
    """A cache beyond this process, which may be slow or away and must not cost a picture.

    Reads wait for it as long as it has answered the last time. After an error, which is logged, it
    is left alone for a while, and then asked in a thread until it answers: one that is away for
    long costs one wait. Writes happen in that thread too, and are left out when too many wait.
    """

    def __init__(self, cache: PromptCache, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache, self._clock = cache, clock
        self._paused_until = clock()
        self._answers = True
        self._room = threading.BoundedSemaphore(MAX_WRITES)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompt-writer")

    def get_many(self, keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        """Return those entries of ``keys`` that are there and can be reached."""
        if self._clock() < self._paused_until:
            return {}
        if not self._answers:
            self._later(lambda: self._read(keys))
            return {}
        return self._read(keys)

    def put_many(self, entries: Mapping[Digest, bytes]) -> None:
        """Have entries kept soon."""
        if self._clock() >= self._paused_until:
            kept = dict(entries)
            self._later(lambda: self._asked(lambda: self._cache.put_many(kept)))

    def close(self) -> None:
        """Send what waits and end the thread."""
        self._thread.shutdown()

    def _read(self, keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        return self._asked(lambda: self._cache.get_many(keys)) or {}

    def _later(self, work: Callable[[], object]) -> None:
        """Do something in the thread, unless too much waits there or a pause has begun by then."""

        def do() -> None:
            try:
                if self._clock() >= self._paused_until:
                    work()
            finally:
                self._room.release()

        if self._room.acquire(blocking=False):
            self._thread.submit(do)

    def _asked(self, ask: Callable[[], Result]) -> Result | None:
        """Return what the cache answers, None if it does not; begins a pause then."""
        try:
            answer = ask()
        except DiptychError as error:
            self._pause(error)
        except Exception as error:  # noqa: BLE001  logged; nothing out there may cost a picture
            _log.exception("the cache of prompts failed in a way that it should not")
            self._pause(error)
        else:
            self._answers = True
            return answer
        return None

    def _pause(self, error: Exception) -> None:
        _log.warning("the cache of prompts is left alone for %g s: %s", PAUSE_S, error)
        self._answers = False
        self._paused_until = self._clock() + PAUSE_S


class PromptTiers:
    """Caches one behind the other; what a later one has the earlier ones take over."""

    def __init__(self, tiers: Mapping[str, PromptCache], observer: LookObserver) -> None:
        """Look in ``tiers`` in their order; their names are what metrics call them."""
        self._tiers, self._observer = dict(tiers), observer

    def of(self, tenant: str) -> "PromptTiers":
        """Return the tiers as ``tenant`` sees them: memory is its own, a service is shared."""
        tiers = {
            name: tier.of(tenant) if isinstance(tier, LocalPrompts) else tier
            for name, tier in self._tiers.items()
        }
        return PromptTiers(tiers, self._observer)

    def get_many(self, keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        """Return those entries of ``keys`` that any tier has."""
        found: dict[Digest, bytes] = {}
        passed: list[PromptCache] = []
        for name, tier in self._tiers.items():
            rest = [key for key in keys if key not in found]
            if not rest:
                break
            own = tier.get_many(rest)
            for key in rest:
                self._observer.on_look(tier=name, kind="prompt", is_hit=key in own)
            for earlier in passed if own else ():
                earlier.put_many(own)
            found |= own
            passed.append(tier)
        return found

    def put_many(self, entries: Mapping[Digest, bytes]) -> None:
        """Keep entries in every tier."""
        for tier in self._tiers.values():
            tier.put_many(entries)
