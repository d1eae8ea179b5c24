"""What the service asks of the parts that encode and that keep; neither is known to it further."""

import enum
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from diptych.digest import Digest
from diptych.embeddings.encoders import EncoderIdentities
from diptych.embeddings.key import ImageRecord, Preprocessing, PromptRecord
from diptych.embeddings.memory import Held

__all__ = [
    "CacheMode",
    "Encoding",
    "EncodingCounts",
    "Found",
    "GoOn",
    "Hosting",
    "NeedsConfig",
    "PromptWish",
    "Reclaimed",
    "Stage",
    "Store",
    "StoreCounts",
    "TierCounts",
    "WarmOrder",
    "WarmOutcome",
    "WarmStore",
    "Warming",
]

GoOn = Callable[[], None]
"""Raises when whoever asked for the work has gone."""


class Stage(enum.StrEnum):
    """Whose encoders."""

    BASE = "base"
    REFINER = "refiner"


class CacheMode(enum.StrEnum):
    """What is done about an embedding that is there, or is not."""

    READ_THROUGH = "read_through"
    READ_ONLY = "read_only"
    BYPASS = "bypass"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptWish:
    """A text as a caller wants it encoded."""

    text: str | None
    """None is a negative prompt that was not given."""
    long_prompt: str = "error"
    """error, truncate or chunk."""
    clip_skip: int = 0
    min_windows: int = 1
    field: str = "prompt"
    """What an error calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An embedding that is there now."""

    source: str
    """encoded, memory, disk or remote."""
    value: bytes | None = None
    """None where only its being there was asked for."""
    size_bytes: int = 0
    """0 where it was not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierCounts:
    """What one tier holds, and did since this process opened it."""

    tier: str
    num_entries: int
    size_bytes: int
    limit_bytes: int
    """0: none."""
    num_hits: int
    num_misses: int
    num_evictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCounts:
    """What one tenant's store holds and did."""

    tiers: tuple[TierCounts, ...]
    num_roots: int
    num_damaged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaimed:
    """What went, or would go, and what stays."""

    num_evicted: int
    evicted_bytes: int
    num_kept: int
    kept_bytes: int


class Store(Protocol):
    """One tenant's embeddings in all tiers; blocking, safe to use from many threads."""

    def peek(self, key: Digest) -> Held | None:
        """Return what memory holds of ``key``; never waits."""

    def locate(self, keys: Sequence[Digest]) -> dict[Digest, str]:
        """Return the nearest tier of those of ``keys`` that are there; reads and counts nothing.

        A tier that does not answer has none.
        """

    def missing(self, keys: Sequence[Digest]) -> list[Digest]:
        """Return those of ``keys`` that are nowhere; counts nothing.

        Raises:
            SourceUnavailable: A tier does not answer, so it cannot be told.
        """

    def read(self, key: Digest, *, kind: str) -> Found | None:
        """Return an embedding, None if it is not there or turned out damaged; counts it."""

    def read_many(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, bytes]]:
        """Yield those of ``keys`` that are there, in the order that is quickest to read."""

    def count(self, tier: str | None, *, kind: str) -> None:
        """Count a hit in ``tier`` that ``locate`` or ``peek`` found; None is a miss."""

    def write(self, key: Digest, value: bytes) -> bool:
        """Keep an embedding; tell whether it was new."""

    @property
    def num_failed_writes(self) -> int:
        """How many writes failed so far, for ``flush``."""

    def flush(self, *, since: int) -> None:
        """Make everything written so far last.

        Raises:
            StoreFull: Writes failed after they had been ``since`` many, maybe of what others put.
            SourceUnavailable: Likewise.
        """

    def evict(self, keys: Sequence[Digest], *, is_dry_run: bool) -> Reclaimed:
        """Drop embeddings, whatever needs them."""

    def reclaim(
        self, *, older_than_s: float | None, budget_bytes: int | None, is_dry_run: bool
    ) -> Reclaimed:
        """Drop what no root needs, by age and by what may be left."""

    def counts(self) -> StoreCounts:
        """Count what it holds and did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingCounts:
    """What was encoded of one kind."""

    kind: str
    """prompt or image."""
    num_encoded: int
    num_batches: int
    seconds: float


class Encoding(Protocol):
    """The encoders of one stage, behind a device thread that makes batches of what it is asked.

    Returned futures are set by that thread; cancelling one that has not begun takes it back.
    """

    @property
    def identities(self) -> EncoderIdentities:
        """Return whose encoders they are; the same for as long as the process lives."""

    def prompt_record(self, wish: PromptWish) -> PromptRecord:
        """Return everything that a text's embedding depends on.

        Raises:
            PromptTooLong: It does not fit, and may not be cut.
            InvalidRequest: The encoders have no such layer to skip.
        """

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        """Return everything that an image's embedding depends on."""

    def encode_prompt(self, record: PromptRecord) -> Future[bytes]:
        """Return the entry of ``record`` to come.

        Raises:
            QueueFull: Too much waits for the device.
        """

    def encode_image(self, record: ImageRecord, data: bytes, *, label: str = "") -> Future[bytes]:
        """Return the entry of ``record`` to come; ``data`` is the image's file.

        Errors call it ``label``.

        Raises:
            QueueFull: Too much waits for the device.
        """


class WarmStore(Protocol):
    """What a warm-up asks of a store; blocking, safe to use from many threads."""

    def locate(self, keys: Sequence[Digest]) -> dict[Digest, str]:
        """As ``Store.locate``."""

    def count(self, tier: str | None, *, kind: str) -> None:
        """As ``Store.count``."""

    def write(self, key: Digest, value: bytes) -> bool:
        """As ``Store.write``."""

    def flush(self) -> None:
        """As ``Store.flush``."""

    def refresh(self) -> None:
        """See what other processes have written."""

    def hold(self, name: str, keys: Sequence[Digest]) -> None:
        """Keep ``keys``, there or yet to come, from being collected, as ``name``."""

    def sweep(self) -> None:
        """Remove what the claims of warm-ups of long ago have left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsConfig:
    """What of a run decides which embeddings it asks for."""

    num_epochs: int = 1
    """That are warmed up for; where no crop and no flip is drawn, every epoch sees the same."""
    batch_size: int = 1
    """The job's: buckets with fewer images than that are merged."""
    long_prompt: Literal["truncate", "chunk"] = "truncate"
    """What is done with captions beyond the encoders' window."""
    force: bool = False
    """Whether datasets that are encoded on demand are encoded all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmOrder:
    """What a caller wants warmed up."""

    manifest: str
    """A dataset's, its text."""
    stages: tuple[Stage, ...]
    """Whose encoders."""
    needs: NeedsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmOutcome:
    """What came of a warm-up."""

    dataset: Digest
    num_total: int
    num_present: int
    num_encoded: int
    failures: tuple[tuple[str, str], ...]
    """Item and what is wrong with it."""
    num_cut: int = 0
    """Captions that are longer than the encoders' window, and lost their end."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Dataset and kind of which nothing is made, and why."""


class Warming(Protocol):
    """Encodes what a dataset needs; blocking."""

    def warm(
        self,
        order: WarmOrder,
        *,
        tenant: str,
        go_on: GoOn,
        progress: Callable[[int, int, int, int], None],
    ) -> WarmOutcome:
        """Encode what is missing; ``progress`` hears of those done, in all, encoded and failed.

        Raises:
            DatasetInvalid: The manifest cannot be used; every violation at once.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """What the calls of one server are served from."""

    encodings: dict[Stage, Encoding]
    store_of: Callable[[str], Store]
    """A tenant's store; opened when it is first asked for."""
    encoded: Callable[[], tuple[EncodingCounts, ...]] = tuple
    """What the encoders of all stages did."""
    warming: Warming | None = None
