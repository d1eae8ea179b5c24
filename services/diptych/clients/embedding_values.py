"""Embeddings as a client asks for them and sees them, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.digest import Digest
from diptych.embeddings.key import Preprocessing

__all__ = [
    "CacheStats",
    "EncodedEmbedding",
    "EncodingStats",
    "Evicted",
    "ImageInput",
    "ImagesCall",
    "PromptsCall",
    "TierStats",
    "WarmCall",
    "WarmResult",
    "Written",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsCall:
    """Texts to encode; None among them is a negative prompt that was not given."""

    prompts: Sequence[str | None]
    stage: str | None = None
    """base or refiner; None is base, or the one the server hosts."""
    mode: str | None = None
    """read_through, read_only or bypass; None is read_through."""
    return_values: bool = False
    long_prompt: str | None = None
    """error, truncate or chunk; None is error."""
    clip_skip: int = 0
    min_windows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """An image to encode."""

    data: bytes | Path
    """Its file, or the file's bytes."""
    preprocessing: Preprocessing
    label: str = ""
    """What errors call it; a file's name by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesCall:
    """Images to encode; stage and mode are as of ``PromptsCall``."""

    images: Sequence[ImageInput]
    stage: str | None = None
    mode: str | None = None
    return_values: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedEmbedding:
    """An embedding that is there now."""

    key: Digest
    source: str
    """encoded, memory, disk or remote."""
    size_bytes: int
    value: bytes | None
    """safetensors, where it was asked for and fitted into the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write did."""

    num_written: int
    num_present: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmCall:
    """What to warm up for."""

    manifest: str
    """A dataset's, its text."""
    stages: Sequence[str] = ()
    """base, refiner; none is all that the server hosts."""
    batch_size: int = 1
    """The job's: buckets with fewer images than that are merged."""
    num_epochs: int = 1
    """Where each epoch crops or flips anew."""
    long_prompt: str | None = None
    """truncate or chunk; None is truncate."""
    force: bool = False
    """Whether datasets that are encoded on demand are encoded all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmResult:
    """What came of a warm-up."""

    dataset: Digest
    num_total: int
    num_present: int
    num_encoded: int
    failures: Mapping[str, str]
    """Item to what is wrong with it, the first thousand."""
    num_failed: int
    num_cut: int
    """Captions that are longer than the encoders' window, and lost their end."""
    left_out: Mapping[str, str]
    """Dataset and kind of which nothing is made, to why, the first thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStats:
    """What one tier holds and did since its server started."""

    tier: str
    """memory, disk or remote."""
    num_entries: int
    size_bytes: int
    limit_bytes: int
    """0: none."""
    num_hits: int
    num_misses: int
    num_evictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingStats:
    """What was encoded of one kind since its server started."""

    kind: str
    """prompt or image."""
    num_encoded: int
    num_batches: int
    encode_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What a cache holds and did."""

    tiers: tuple[TierStats, ...]
    encodings: tuple[EncodingStats, ...]
    num_roots: int
    num_damaged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """What went, or would go."""

    num_evicted: int
    evicted_bytes: int
    num_kept: int
    kept_bytes: int
