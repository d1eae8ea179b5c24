"""Warms up in this process: threads take shards, read their images ahead, encode, write packs.

What makes batches and decodes is behind ``Encoding``; several shards are under way at once, so that
the device has work while another shard is read or written. A shard lasts before its claim is
released: a process that is killed loses what it had under way and nothing else.
"""

import secrets
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from diptych.embedding_cache.claims import Claims
from diptych.embedding_cache.needs import Need, Shard, shards_of
from diptych.embedding_cache.ports import Encoding, GoOn, Stage, WarmStore
from diptych.embedding_cache.tally import Tally
from diptych.embeddings.key import ImageRecord
from diptych.embeddings.read_ahead import read_ahead
from diptych.errors import (
    DigestMismatch,
    EmbeddingInvalid,
    ImageInvalid,
    ObjectNotFound,
    OutOfDeviceMemory,
    QueueFull,
    RequestCancelled,
)

__all__ = ["FINDINGS", "EngineConfig", "Images", "LocalEngine", "problem_of"]

FINDINGS: Final = (
    ImageInvalid,
    DigestMismatch,
    ObjectNotFound,
    EmbeddingInvalid,
    OutOfDeviceMemory,
)
"""What is wrong with one image or text, and nothing to its neighbours."""


class Images(Protocol):
    """Where the files of images are; safe to use from many threads."""

    def read(self, need: Need) -> bytes:
        """Return an image's file; raises what ``datasets.expansion.read_image`` does."""

    def name(self, need: Need) -> str:
        """Return what a finding calls a text or an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How much is under way at once."""

    shard_entries: int = 64
    """That are claimed, made and lost together."""
    num_shards: int = 2
    """Under way at once, for each device."""
    num_readers: int = 8
    """Threads that fetch images, for each device."""
    num_ahead: int = 16
    """Images of a shard in memory before the device takes them."""


class LocalEngine:
    """Makes what is missing; owns its threads while it does."""

    def __init__(
        self,
        encodings: Mapping[Stage, Encoding],
        store: WarmStore,
        *,
        num_devices: int = 1,
        config: EngineConfig | None = None,
    ) -> None:
        self._encodings, self._store = encodings, store
        self._config = config or EngineConfig()
        self._num_workers = self._config.num_shards * num_devices
        self._num_readers = self._config.num_readers * num_devices

    def encode(
        self, needs: Sequence[Need], *, images: Images, claims: Claims, tally: Tally, go_on: GoOn
    ) -> None:
        """Make those of ``needs`` that are missing; the tally hears of all of them.

        Raises:
            StoreFull: There is no room for more.
            SourceUnavailable: Images cannot be read, or embeddings not be written.
            DiptychError: What ``go_on`` raises.
        """
        shards = list(shards_of(needs, size=self._config.shard_entries))
        with (
            ThreadPoolExecutor(self._num_readers, thread_name_prefix="reading") as readers,
            ThreadPoolExecutor(self._num_workers, thread_name_prefix="shards") as workers,
        ):
            run = _Run(self._store, self._encodings, self._config, readers, go_on)
            work = _Work(run, shards, images, claims, tally)
            for _ in range(self._num_workers):
                workers.submit(work.until_done)
        if work.error is not None:
            raise work.error


@dataclass(frozen=True, slots=True)
class _Run:
    store: WarmStore
    encodings: Mapping[Stage, Encoding]
    config: EngineConfig
    readers: Executor
    go_on: GoOn


class _Work:
    """The shards of one warm-up; its workers' shared state."""

    def __init__(
        self, run: _Run, shards: Sequence[Shard], images: Images, claims: Claims, tally: Tally
    ) -> None:
        self._run, self._images, self._claims, self._tally = run, images, claims, tally
        self.error: BaseException | None = None
        """What the first worker that failed raised."""
        # Whoever begins elsewhere has the fewest shards in dispute with those at work already.
        begin = secrets.randbelow(max(1, len(shards)))
        self._todo = deque([*shards[begin:], *shards[:begin]])
        self._disputed: deque[Shard] = deque()
        self._lock = threading.Lock()
        self._failed = threading.Event()

    def until_done(self) -> None:
        """Work on shards until none is left, or another worker has failed."""
        try:
            while (shard := self._next()) is not None:
                self._go_on()
                self._shard(shard)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that asked
            with self._lock:
                self.error = self.error or error
            self._failed.set()

    def _next(self) -> Shard | None:
        """Return the next shard; once only disputed ones are left, wait a little."""
        with self._lock:
            if self._todo:
                return self._todo.popleft()
            if not self._disputed:
                return None
        self._failed.wait(self._claims.poll_s)
        with self._lock:
            return self._disputed.popleft() if self._disputed else None

    def _go_on(self) -> None:
        self._run.go_on()
        if self._failed.is_set():
            raise RequestCancelled("warm-up")

    def _shard(self, shard: Shard) -> None:
        missing = self._missing(shard)
        if not missing:
            self._tally.present(len(shard.needs))
            return
        claim = self._claims.take(shard.name)
        if claim is None:
            with self._lock:
                self._disputed.append(shard)
            return
        with claim:
            if not claim.is_first:
                self._run.store.refresh()
                missing = self._missing(shard)
            self._tally.present(len(shard.needs) - len(missing))
            if missing:
                self._make(missing)

    def _missing(self, shard: Shard) -> list[Need]:
        located = self._run.store.locate([need.key for need in shard.needs])
        return [need for need in shard.needs if need.key not in located]

    def _make(self, needs: Sequence[Need]) -> None:
        """Encode and write; no more than ``num_ahead`` images are in memory at once."""
        config, num_made = self._run.config, 0
        waiting: deque[tuple[Need, Future[bytes]]] = deque()
        found = read_ahead(needs, self._fetched, pool=self._run.readers, num_ahead=config.num_ahead)
        for need, data in found:
            self._go_on()
            if isinstance(data, Exception):
                self._tally.failed(self._images.name(need), problem_of(data))
                continue
            waiting.append((need, self._begun(need, data)))
            if len(waiting) >= config.num_ahead:
                num_made += self._kept(*waiting.popleft())
        num_made += sum(self._kept(*one) for one in waiting)
        self._run.store.flush()
        self._tally.encoded(num_made)

    def _fetched(self, need: Need) -> tuple[Need, bytes | Exception]:
        """Return a need with its image's file, or with what is wrong with that."""
        try:
            return need, self._images.read(need) if need.kind == "image" else b""
        except FINDINGS as error:
            return need, error

    def _begun(self, need: Need, data: bytes) -> Future[bytes]:
        """Hand a need to the device, as soon as that has room for it."""
        encoding = self._run.encodings[need.stage]
        while True:
            try:
                if isinstance(need.record, ImageRecord):
                    return encoding.encode_image(need.record, data)
                return encoding.encode_prompt(need.record)
            except QueueFull as full:
                self._failed.wait(full.retry_after_s or self._claims.poll_s)
                self._go_on()

    def _kept(self, need: Need, making: Future[bytes]) -> int:
        """Write what comes of a need; return how many that is."""
        try:
            value = making.result()
        except FINDINGS as error:
            self._tally.failed(self._images.name(need), problem_of(error))
            return 0
        self._run.store.write(need.key, value)
        return 1


def problem_of(error: Exception) -> str:
    """Return what is wrong, where it is said elsewhere with what."""
    return error.problem if isinstance(error, ImageInvalid) else str(error)
