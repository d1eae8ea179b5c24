"""Stages' encoders behind the device thread that they share, and the threads that decode images."""

import os
import threading
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final

from diptych.datasets.pictures import prepare
from diptych.digest import Digest
from diptych.embedding_cache.batching import BatchConfig, Batcher
from diptych.embedding_cache.encoding import Encoders, ImageWork, Work, shape_of
from diptych.embedding_cache.ports import EncodingCounts, PromptWish
from diptych.embeddings.encoders import EncoderIdentities
from diptych.embeddings.key import ImageRecord, Preprocessing, PromptRecord
from diptych.errors import QueueFull
from diptych.telemetry.cache_metrics import CacheMetrics

__all__ = ["Device", "StageEncoders"]

KINDS: Final = ("prompt", "image")


class Device:
    """The one thread that encodes, for every stage; owns its batches and what decodes images."""

    def __init__(self, metrics: CacheMetrics, config: BatchConfig) -> None:
        self._metrics, self._max_waiting = metrics, config.max_waiting
        self._encoders: dict[str, Encoders] = {}
        self._num_encoded: Counter[str] = Counter()
        self._num_batches: Counter[str] = Counter()
        self._seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._in_flight: Counter[str] = Counter()
        self._decoding = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decoding")
        self._counting = threading.Lock()
        self._batcher: Batcher[Work] = Batcher(
            self._encode, shape_of=shape_of, entries=_Elsewhere(), observer=self, config=config
        )

    def add(self, encoders: Encoders) -> None:
        """Serve works of these encoders."""
        self._encoders[encoders.prompt_identity.fingerprint] = encoders
        self._encoders[encoders.image_identity.fingerprint] = encoders

    def submit(self, key: Digest, work: Work) -> Future[bytes]:
        """Return the entry to come of a work; raises what ``Batcher.submit`` does."""
        return self._tracked(_kind(work), self._batcher.submit(key, work))

    def submit_image(
        self, key: Digest, record: ImageRecord, data: bytes, *, label: str = ""
    ) -> Future[bytes]:
        """Return the entry to come of an image that is still to be decoded.

        Errors call it ``label``.

        Raises:
            QueueFull: Too many wait to be decoded.
        """
        if self._in_flight["image"] >= self._max_waiting:
            waiting = self._in_flight["image"]
            raise QueueFull(waiting=waiting, limit=self._max_waiting, retry_after_s=1.0)
        answer: Future[bytes] = Future()
        decoding = self._decoding.submit(prepare, data, record.preprocessing, source=label)
        decoding.add_done_callback(partial(self._decoded, key, record, answer))
        return self._tracked("image", answer)

    def on_batch(self, *, shape: Hashable, size: int, seconds: float) -> None:
        """Note one batch, as the batcher tells it from its thread."""
        assert isinstance(shape, tuple)
        kind = str(shape[0])
        self._num_encoded[kind] += size
        self._num_batches[kind] += 1
        self._seconds[kind] += seconds
        self._metrics.on_batch(kind=kind, size=size, seconds=seconds)

    def in_flight(self) -> dict[str, int]:
        """Return how many embeddings of each kind were asked for and are not made yet."""
        return {kind: self._in_flight[kind] for kind in KINDS}

    def counts(self) -> tuple[EncodingCounts, ...]:
        """Count what it did."""
        return tuple(
            EncodingCounts(
                kind=kind,
                num_encoded=self._num_encoded[kind],
                num_batches=self._num_batches[kind],
                seconds=self._seconds[kind],
            )
            for kind in KINDS
        )

    def close(self) -> None:
        """End the threads; what waits fails with Draining."""
        self._decoding.shutdown(cancel_futures=True)
        self._batcher.close()

    def _encode(self, works: Sequence[Work]) -> list[bytes]:
        """Return the entries of works of one shape, whose encoders the first one's record names."""
        first = works[0]
        record = first if isinstance(first, PromptRecord) else first.record
        return self._encoders[record.encoder.fingerprint].encode(works)

    def _decoded(
        self, key: Digest, record: ImageRecord, answer: Future[bytes], decoding: Future[object]
    ) -> None:
        """Hand decoded pixels on to the device, or what went wrong to who asked."""
        if decoding.cancelled() or not answer.set_running_or_notify_cancel():
            answer.cancel()
            return
        try:
            work = ImageWork(record=record, pixels=decoding.result())  # type: ignore[arg-type]
            encoding = self._batcher.submit(key, work)
        except Exception as error:  # noqa: BLE001 - fails the one who asked
            answer.set_exception(error)
        else:
            encoding.add_done_callback(partial(_pass_on, answer))

    def _tracked(self, kind: str, answer: Future[bytes]) -> Future[bytes]:
        with self._counting:
            self._in_flight[kind] += 1

        def ended(_: Future[bytes]) -> None:
            with self._counting:
                self._in_flight[kind] -= 1

        answer.add_done_callback(ended)
        return answer


class StageEncoders:
    """One stage's encoders, as the service asks them."""

    def __init__(self, encoders: Encoders, device: Device) -> None:
        self._encoders, self._device = encoders, device
        device.add(encoders)

    @property
    def identities(self) -> EncoderIdentities:
        """Return whose encoders they are."""
        return self._encoders.identities

    def prompt_record(self, wish: PromptWish) -> PromptRecord:
        """Return everything that a text's embedding depends on; errors name the wish's field."""
        return self._encoders.prompt_record(
            wish.text,
            clip_skip=wish.clip_skip,
            long_prompt=wish.long_prompt,
            min_windows=wish.min_windows,
            field=wish.field,
        )

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        """Return everything that an image's embedding depends on."""
        return self._encoders.image_record(image, preprocessing)

    def encode_prompt(self, record: PromptRecord) -> Future[bytes]:
        """Return the entry of ``record`` to come."""
        return self._device.submit(record.key(), record)

    def encode_image(self, record: ImageRecord, data: bytes, *, label: str = "") -> Future[bytes]:
        """Return the entry of ``record`` to come; ``data`` is the image's file."""
        return self._device.submit_image(record.key(), record, data, label=label)


class _Elsewhere:
    """Entries that the batcher neither finds nor keeps: each tenant's store has its own flights."""

    def get(self, key: Digest) -> bytes | None:
        """Return nothing."""
        del key
        return None

    def put(self, key: Digest, data: bytes) -> None:
        """Keep nothing."""


def _pass_on(answer: Future[bytes], made: Future[bytes]) -> None:
    error = None if made.cancelled() else made.exception()
    if made.cancelled():
        answer.cancel()
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(made.result())


def _kind(work: Work) -> str:
    return "prompt" if isinstance(work, PromptRecord) else "image"
