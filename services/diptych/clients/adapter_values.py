"""Adapters as a client sees them and asks for them, as plain values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

__all__ = [
    "AdapterFilter",
    "AdapterInfo",
    "ImportCall",
    "LayerError",
    "MergeCall",
    "MergeResult",
    "OnProgress",
    "Residency",
]


OnProgress = Callable[[int, int], None]
"""Told how much is done, of how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """Where an adapter is on a server."""

    tier: str
    """The nearest that has it: device, host, disk or store."""
    pinned: bool
    """Whether this caller's tenant keeps it on the device."""
    num_requests: int
    """Requests of this caller's tenant that run with it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """An adapter; texts are empty and numbers None where its file did not say."""

    name: str
    """Empty if it was asked for by digest."""
    tag: str
    digest: str
    """``sha256:`` and 64 hexadecimal digits."""
    size_bytes: int
    family: str
    base_fingerprint: str
    stage: str
    """base, refiner or both."""
    prediction_type: str
    zero_snr: bool | None
    timestep_range: tuple[int, int] | None
    """First and last timestep it was trained on, both included."""
    max_rank: int
    num_targets: int
    kinds: tuple[str, ...]
    """Of lora, dora, conv, text_encoder and tokens."""
    tokens: tuple[str, ...]
    trigger_words: tuple[str, ...]
    created_at: datetime
    """When the name was given, or the bytes came; in UTC."""
    source: str
    residency: Residency


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportCall:
    """What to take in, and as what; None leaves a field to what the file says."""

    name: str
    source: Path | bytes | str
    """A file, its bytes, or a uri that the server fetches."""
    tag: str = ""
    """Empty: latest."""
    family: str = ""
    stage: str | None = None
    """base, refiner or both."""
    trigger_words: tuple[str, ...] = ()
    replace: bool = False
    """Move the name if it points at another adapter."""
    expected_digest: str = ""
    """Move it only if it points there."""
    force: bool = False
    """Take it although it fits no expert of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFilter:
    """What a listing is about; what is empty lets everything through."""

    name_prefix: str = ""
    family: str = ""
    stage: str | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeCall:
    """What to merge, how, and what to call it; None leaves an option to the method's default."""

    sources: Mapping[str, float]
    """Reference -> weight, in order."""
    method: str
    name: str
    tag: str = ""
    space: str | None = None
    """product or factors."""
    density: float | None = None
    rank: int | None = None
    energy: float | None = None
    seed: int = 0
    election: str | None = None
    """total or frequency."""
    weighted_vote: bool | None = None
    slerp_t: float | None = None
    prompts: tuple[str, ...] = ()
    num_steps: int | None = None
    replace: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """How far one weight of a merge is from the weighted sum."""

    target: str
    relative_error: float
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """What came of a merge."""

    adapter: AdapterInfo
    relative_error: float
    layers: tuple[LayerError, ...]
    """Largest error first."""
    renamed_tokens: Mapping[str, str]
    """Source and token -> the token's new text."""
