"""A checkpoint taken apart: what each part is configured as and where its tensors lie. No torch."""

import hashlib
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.digest import canonical_bytes
from diptych.storage.tensor_header import TensorSpan

__all__ = [
    "Checkpoint",
    "Part",
    "StoredTensor",
    "TokenizerFiles",
    "compared_settings",
    "fingerprint_part",
]

_UNREAD_SETTINGS = frozenset(
    {
        "_class_name",
        "_diffusers_version",
        "_name_or_path",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
    }
)
"""Settings that say who wrote a part, not what it computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where one tensor lies: a file, its name there, and its span."""

    path: Path
    key: str
    span: TensorSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One module's configuration and tensors, by their names within the part."""

    source: str
    name: str
    config: Mapping[str, object]
    tensors: Mapping[str, StoredTensor]
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Turns tensors of another layout into the module's own names and shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """A folder with a CLIP vocabulary; ``pad_token`` overrides the folder's own."""

    folder: Path
    pad_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole model on disk, opened and checked, nothing loaded yet."""

    source: str
    pipeline: Mapping[str, object]
    """Settings of the whole: ``force_zeros_for_empty_prompt``, ``requires_aesthetics_score``."""
    scheduler: Mapping[str, object]
    """Diffusers' scheduler configuration."""
    parts: Mapping[str, Part]
    """``unet``, ``vae``, ``text_encoder_2`` and, except for refiners, ``text_encoder``."""
    tokenizers: Mapping[str, TokenizerFiles]
    """By the name of the text encoder they belong to."""
    folder: Path | None = None
    """Where all of it lies in diffusers' layout; None of a single file."""


def compared_settings(part: Part) -> dict[str, object]:
    """Return the settings that say what a part computes, not who wrote it."""
    return {key: value for key, value in part.config.items() if key not in _UNREAD_SETTINGS}


def fingerprint_part(part: Part) -> str:
    """Return a name equal exactly for parts that compute the same: ``sha256:`` and hexadecimal.

    Covers the settings that matter and every tensor's name, dtype, shape and bytes, but not how
    tensors are spread over files.
    """
    state = hashlib.sha256(canonical_bytes(compared_settings(part)))
    maps: dict[Path, memoryview] = {}
    for name, stored in sorted(part.tensors.items()):
        if stored.path not in maps:
            maps[stored.path] = _map(stored.path)
        span = stored.span
        state.update(canonical_bytes([name, span.dtype, list(span.shape)]))
        state.update(maps[stored.path][span.begin : span.end])
    return f"sha256:{state.hexdigest()}"


def _map(path: Path) -> memoryview:
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
