"""A stream of messages becomes a stream of events: chunks are joined and checked, order is kept.

Nothing a server sends is believed: sizes, digests, offsets, shapes and order are compared, and
what does not agree is ``ResponseCorrupt``.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from diptych.clients.events import (
    AdapterProgress,
    Completed,
    Event,
    Picture,
    Preview,
    Progress,
    Queued,
    Resolved,
    Started,
    Timings,
)
from diptych.errors import ResponseCorrupt
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import types_pb2 as types

__all__ = ["MAX_PICTURE_BYTES", "Assembler"]

MAX_PICTURE_BYTES: Final = 1 << 30
"""Largest image a client gathers in memory; a header that claims more is refused."""

EXPERTS: Final[Mapping[int, str]] = {types.EXPERT_BASE: "base", types.EXPERT_REFINER: "refiner"}

ADAPTER_STATES: Final[Mapping[int, str]] = {
    types.ADAPTER_STATE_QUEUED: "queued",
    types.ADAPTER_STATE_FETCHING: "fetching",
    types.ADAPTER_STATE_READY: "ready",
    types.ADAPTER_STATE_FAILED: "failed",
}


class Assembler:
    """Turns the messages of one call's stream into events, one call to ``feed`` per message.

    Owned by the loop that reads the stream.
    """

    def __init__(self) -> None:
        """Expect the first message of a stream."""
        self._header: pb.ImageHeader | None = None
        self._data = bytearray()
        self._num_images: int | None = None
        self._delivered: set[int] = set()
        self._completed = False
        self._readers: Mapping[str, Callable[[Any], Event | None]] = {
            "queued": self._read_queued,
            "adapter": _read_adapter,
            "started": lambda _: Started(),
            "progress": _read_progress,
            "preview": _read_preview,
            "image_header": self._read_header,
            "image_chunk": self._read_chunk,
            "completed": self._read_completed,
        }

    def feed(self, message: pb.ImageEvent) -> Event | None:
        """Take the next message; return the event it completes, None while there is none.

        An event of a kind this version does not know is skipped.

        Raises:
            ResponseCorrupt: the message contradicts those before it, or its own promises.
        """
        kind = message.WhichOneof("event")
        if kind is None:
            return None
        if self._completed:
            raise ResponseCorrupt(f"{kind} after the end")
        if self._num_images is None and kind != "queued":
            raise ResponseCorrupt(f"{kind} before the call was admitted")
        return self._readers[kind](getattr(message, kind))

    def finish(self) -> None:
        """Check, when the stream has ended, that it ended where it should.

        Raises:
            ResponseCorrupt: it broke off before every image was delivered.
        """
        if not self._completed:
            raise ResponseCorrupt("the stream broke off before it was completed")

    def _read_queued(self, message: pb.Queued) -> Queued:
        if self._num_images is not None:
            raise ResponseCorrupt("the call was admitted twice")
        found = message.resolved
        self._num_images = found.num_images
        resolved = Resolved(
            request_id=found.request_id,
            seed=found.seed,
            num_images=found.num_images,
            num_steps=found.num_steps,
            width=found.width,
            height=found.height,
            solver=found.solver,
            boundary=found.boundary if found.HasField("boundary") else None,
        )
        return Queued(position=message.position, predicted_s=message.predicted_s, resolved=resolved)

    def _read_header(self, message: pb.ImageHeader) -> None:
        index, size_bytes = message.image_index, message.size_bytes
        if self._header is not None:
            raise ResponseCorrupt(f"image {index} begins inside image {self._header.image_index}")
        if index in self._delivered or not 0 <= index < (self._num_images or 0):
            raise ResponseCorrupt(f"image {index} was not expected")
        if not 0 < size_bytes <= MAX_PICTURE_BYTES:
            raise ResponseCorrupt(f"image {index} claims {size_bytes} bytes")
        self._header = message
        self._data.clear()

    def _read_chunk(self, message: pb.ImageChunk) -> Picture | None:
        header = self._header
        if header is None or header.image_index != message.image_index:
            raise ResponseCorrupt(f"a piece of image {message.image_index} without its header")
        if message.offset_bytes != len(self._data):
            raise ResponseCorrupt(
                f"a piece at byte {message.offset_bytes} where byte {len(self._data)} is next"
            )
        self._data += message.data
        if len(self._data) > header.size_bytes:
            raise ResponseCorrupt(f"image {header.image_index} exceeds {header.size_bytes} bytes")
        if len(self._data) < header.size_bytes:
            return None
        self._header = None
        self._delivered.add(header.image_index)
        data = bytes(self._data)
        self._data.clear()
        return _picture(header, data)

    def _read_completed(self, message: pb.Completed) -> Completed:
        if self._header is not None or len(self._delivered) != self._num_images:
            raise ResponseCorrupt(
                f"completed with {len(self._delivered)} of {self._num_images} images"
            )
        self._completed = True
        found = message.timings
        timings = Timings(
            queue_s=found.queue_s,
            encode_s=found.encode_s,
            base_s=found.base_s,
            refiner_s=found.refiner_s,
            decode_s=found.decode_s,
            total_s=found.total_s,
            num_texts_encoded=found.num_texts_encoded,
            num_texts_cached=found.num_texts_cached,
        )
        return Completed(request_id=message.request_id, timings=timings)


def _picture(header: pb.ImageHeader, data: bytes) -> Picture:
    """Return the image that ``header`` announced, after checking ``data`` against it."""
    if hashlib.sha256(data).digest() != header.sha256:
        raise ResponseCorrupt(f"image {header.image_index} does not have its digest")
    facts: dict[str, Any] = {}
    if header.HasField("latents"):
        found = header.latents
        shape = tuple(found.shape)
        size_bytes = math.prod(shape) * np.dtype("<f4").itemsize
        if len(shape) != 3 or min(shape) < 1 or size_bytes != len(data):
            raise ResponseCorrupt(f"latents of shape {shape} in {len(data)} bytes")
        facts = {
            "latents": np.frombuffer(data, dtype="<f4").reshape(shape),
            "family": found.family,
            "boundary": found.boundary if found.HasField("boundary") else None,
            "num_steps": found.num_steps if found.HasField("num_steps") else None,
            "num_draws": found.num_draws,
        }
    return Picture(
        image_index=header.image_index,
        seed=header.seed,
        width=header.width,
        height=header.height,
        media_type=header.media_type,
        data=data,
        **facts,
    )


def _read_progress(message: pb.Progress) -> Progress:
    return Progress(
        image_index=message.image_index,
        step=message.step,
        num_steps=message.num_steps,
        expert=EXPERTS.get(message.expert, "unspecified"),
    )


def _read_adapter(message: pb.AdapterProgress) -> AdapterProgress:
    return AdapterProgress(
        adapter=message.adapter,
        digest=message.digest,
        state=ADAPTER_STATES.get(message.state, "unspecified"),
    )


def _read_preview(message: pb.Preview) -> Preview:
    return Preview(
        image_index=message.image_index,
        step=message.step,
        data=message.data,
        width=message.width,
        height=message.height,
    )
