"""Many askers, one device: works of one shape are encoded together, each key once at a time.

Askers are threads or, through ``asyncio.wrap_future``, coroutines. One thread owns the device.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from diptych.digest import Digest
from diptych.errors import Draining, OutOfDeviceMemory, QueueFull

__all__ = ["BatchConfig", "BatchObserver", "Batcher", "Entries"]

_log = logging.getLogger(__name__)

Work = TypeVar("Work")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How much is encoded together, and how long a work waits for company."""

    max_batch: int = 8
    max_wait_s: float = 0.005
    """From when a work came until it is encoded in whatever company it has."""
    max_waiting: int = 256
    """Distinct keys that may wait; more are refused with QueueFull. An image of 1024 pixels
    squared holds 3 MiB while it waits."""


class BatchObserver(Protocol):
    """Hears what the device does, for metrics; called from the device's thread."""

    def on_batch(self, *, shape: Hashable, size: int, seconds: float) -> None:
        """Note that ``size`` works were encoded together."""


class Entries(Protocol):
    """Where results are kept; called from the device's thread, so it must be quick."""

    def get(self, key: Digest) -> bytes | None:
        """Return what another asker had made since; None where it is missing."""

    def put(self, key: Digest, data: bytes) -> None:
        """Keep a result, before its askers hear of it."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Job(Generic[Work]):
    """A key that is waiting or being encoded, and who asked for it."""

    key: Digest
    work: Work
    shape: Hashable
    since: float
    askers: list[Future[bytes]] = field(default_factory=list)


class Batcher(Generic[Work]):
    """Owns the thread that encodes; its public methods are safe from any thread.

    However many ask for a key, it is encoded once while it is in flight, and whoever asked a
    moment too late finds it in ``entries``. What fails is split until it fails alone, so that no
    work pays for its neighbours; a batch that did not fit the device leaves its shape with
    smaller ones.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Work]], Sequence[bytes]],
        *,
        shape_of: Callable[[Work], Hashable],
        entries: Entries,
        observer: BatchObserver,
        config: BatchConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread; ``encode`` is called in it alone, with works of one shape."""
        self._encode, self._shape_of, self._entries = encode, shape_of, entries
        self._observer, self._config, self._clock = observer, config or BatchConfig(), clock
        self._changed = threading.Condition()
        self._jobs: dict[Digest, _Job[Work]] = {}
        self._waiting: dict[Hashable, dict[Digest, _Job[Work]]] = {}
        self._num_waiting = 0
        self._limits: dict[Hashable, int] = {}
        self._work_s = 0.0
        self._is_closed = False
        self._thread = threading.Thread(target=self._main, name="encoder", daemon=True)
        self._thread.start()

    @property
    def num_in_flight(self) -> int:
        """Return the distinct keys that wait or are being encoded."""
        return len(self._jobs)

    def submit(self, key: Digest, work: Work) -> Future[bytes]:
        """Return the future entry of ``key``, which another asker may be waiting for already.

        Cancelling the future gives this asker up; when all have, a work that still waits is
        dropped.

        Raises:
            QueueFull: Too many keys wait.
            Draining: The batcher is closed.
        """
        with self._changed:
            return self._join(self._jobs.get(key) or self._enter(key, work))

    def join(self, key: Digest) -> Future[bytes] | None:
        """Return the future of a key that is in flight; None where ``submit`` would begin it.

        Spares an asker the making of the work.
        """
        with self._changed:
            job = self._jobs.get(key)
            return None if job is None else self._join(job)

    def close(self) -> None:
        """Refuse new keys, fail those that wait with Draining, end what is being encoded."""
        with self._changed:
            self._is_closed = True
            dropped = [job for group in self._waiting.values() for job in group.values()]
            for job in dropped:
                self._forget(job)
            self._changed.notify()
        for job in dropped:
            _tell(job.askers, Draining())
        self._thread.join()

    def _enter(self, key: Digest, work: Work) -> _Job[Work]:
        if self._is_closed:
            raise Draining
        if self._num_waiting >= self._config.max_waiting:
            raise QueueFull(
                waiting=self._num_waiting,
                limit=self._config.max_waiting,
                retry_after_s=self._config.max_wait_s + self._num_waiting * self._work_s,
            )
        job = _Job(key=key, work=work, shape=self._shape_of(work), since=self._clock())
        self._jobs[key] = job
        self._waiting.setdefault(job.shape, {})[key] = job
        self._num_waiting += 1
        self._changed.notify()
        return job

    def _join(self, job: _Job[Work]) -> Future[bytes]:
        asker: Future[bytes] = Future()
        job.askers.append(asker)
        asker.add_done_callback(partial(self._left, job))
        return asker

    def _left(self, job: _Job[Work], asker: Future[bytes]) -> None:
        """Drop a work that still waits when the last of its askers has given up."""
        if not asker.cancelled():
            return
        with self._changed:
            if all(other.cancelled() for other in job.askers):
                self._forget(job)

    def _forget(self, job: _Job[Work]) -> None:
        """Take a job that waits out of the queue; what is being encoded stays in flight."""
        group = self._waiting.get(job.shape, {})
        if group.pop(job.key, None) is None:
            return
        self._jobs.pop(job.key)
        self._num_waiting -= 1
        if not group:
            del self._waiting[job.shape]

    # From here on everything runs in the thread of the batcher.

    def _main(self) -> None:
        while batch := self._next_batch():
            try:
                missing = [job for job in batch if not self._was_made(job)]
                if missing:
                    self._make(missing)
            except Exception as error:  # noqa: BLE001  logged, fails one batch
                _log.exception("a batch of %d works failed", len(batch))
                for job in batch:
                    self._finish(job, error)

    def _next_batch(self) -> list[_Job[Work]]:
        """Wait for a batch that is full or whose oldest work has waited long enough.

        Returns:
            Jobs of one shape, oldest first; none when the batcher is closed.
        """
        with self._changed:
            while not self._is_closed:
                group, wait_s = self._ripest()
                if group:
                    return self._take(group)
                self._changed.wait(wait_s)
            return []

    def _ripest(self) -> tuple[dict[Digest, _Job[Work]], float | None]:
        """Return the group whose turn it is, or nothing and for how long; None is for ever."""
        if not self._waiting:
            return {}, None
        oldest = min(self._waiting.values(), key=_since)
        left_s = _since(oldest) + self._config.max_wait_s - self._clock()
        if left_s <= 0:
            return oldest, None
        full = (g for shape, g in self._waiting.items() if len(g) >= self._limit(shape))
        return next(full, {}), left_s

    def _take(self, group: dict[Digest, _Job[Work]]) -> list[_Job[Work]]:
        jobs = list(group.values())
        jobs = jobs[: self._limit(jobs[0].shape)]
        for job in jobs:
            self._forget(job)
            self._jobs[job.key] = job
        return jobs

    def _limit(self, shape: Hashable) -> int:
        return self._limits.get(shape, self._config.max_batch)

    def _was_made(self, job: _Job[Work]) -> bool:
        """Answer from the entries if the work was done between the asker's look and its call."""
        try:
            data = self._entries.get(job.key)
        except Exception as error:  # noqa: BLE001  logged, fails one key
            _log.exception("looking for %s failed", job.key)
            self._finish(job, error)
            return True
        if data is not None:
            self._finish(job, data)
        return data is not None

    def _make(self, jobs: Sequence[_Job[Work]]) -> None:
        """Encode ``jobs`` together, and where that fails in halves."""
        began = self._clock()
        try:
            made = self._encode([job.work for job in jobs])
        except Exception as error:  # noqa: BLE001  logged, fails one key
            _log.warning("encoding %d works failed: %r", len(jobs), error)
            if len(jobs) == 1:
                self._finish(jobs[0], error)
                return
            if isinstance(error, OutOfDeviceMemory):
                self._limits[jobs[0].shape] = len(jobs) // 2
            middle = (len(jobs) + 1) // 2
            self._make(jobs[:middle])
            self._make(jobs[middle:])
            return
        seconds = self._clock() - began
        self._work_s = seconds / len(jobs)
        self._observer.on_batch(shape=jobs[0].shape, size=len(jobs), seconds=seconds)
        for job, data in zip(jobs, made, strict=True):
            self._keep(job, data)

    def _keep(self, job: _Job[Work], data: bytes) -> None:
        try:
            self._entries.put(job.key, data)
        except Exception as error:  # noqa: BLE001  logged, fails one key
            _log.exception("keeping %s failed", job.key)
            self._finish(job, error)
        else:
            self._finish(job, data)

    def _finish(self, job: _Job[Work], outcome: bytes | Exception) -> None:
        with self._changed:
            if self._jobs.get(job.key) is not job:
                return
            del self._jobs[job.key]
        _tell(job.askers, outcome)


def _since(group: dict[Digest, _Job[Work]]) -> float:
    return next(iter(group.values())).since


def _tell(askers: Sequence[Future[bytes]], outcome: bytes | Exception) -> None:
    """Give every asker that has not given up the outcome."""
    for asker in askers:
        if not asker.set_running_or_notify_cancel():
            continue
        if isinstance(outcome, Exception):
            asker.set_exception(outcome)
        else:
            asker.set_result(outcome)
