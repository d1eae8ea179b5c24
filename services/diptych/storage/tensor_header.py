"""The header of safetensors bytes, checked against their number before anything is loaded.

Layout: eight bytes of header length N (little endian), N bytes of JSON that maps a tensor's
name to its dtype, shape and byte range, then the data those ranges tile without gap or overlap.

Models and adapters say what is wrong in errors of their own, so each function here takes
``refuse``, which makes the error to raise out of a problem.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeGuard

from diptych.errors import DiptychError

__all__ = [
    "ITEM_BYTES",
    "MAX_HEADER_BYTES",
    "PICKLE_SUFFIXES",
    "Header",
    "Readable",
    "Refuse",
    "TensorSpan",
    "parse_json",
    "read_header",
]

Refuse = Callable[[str], DiptychError]
MAX_HEADER_BYTES: Final = 32 * 2**20
"""SDXL's largest file has a header of half a mebibyte."""
ITEM_BYTES: Final[Mapping[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one number, by dtype."""
PICKLE_SUFFIXES: Final = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
"""Formats of weights that run code when read; refused by name."""
_PREFIX_BYTES: Final = 8
_MAX_DIMENSIONS: Final = 8


class Readable(Protocol):
    """A file, or what reads like one."""

    def read(self, size: int, /) -> bytes:
        """Return the next ``size`` bytes, or those that are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpan:
    """One tensor of a file: its kind, and the bytes [begin, end) of the file that hold it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything that safetensors bytes say about themselves, found consistent with their size."""

    tensors: Mapping[str, TensorSpan]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(stream: Readable, *, size_bytes: int, refuse: Refuse) -> Header:
    """Return the header at the beginning of ``stream``, which holds ``size_bytes``.

    Raises:
        DiptychError: ``refuse``'s, when the bytes are truncated or the header is not JSON, claims
            bytes that are not there, or has ranges that overlap, leave gaps or do not fit shapes.
    """
    header_bytes = _header_length(stream.read(_PREFIX_BYTES), size_bytes, refuse)
    entries = parse_json(stream.read(header_bytes), refuse)
    metadata = _metadata(entries.pop("__metadata__", {}), refuse)
    start = _PREFIX_BYTES + header_bytes
    tensors = {name: _span(name, entry, start, refuse) for name, entry in entries.items()}
    _check_tiling(tensors, start=start, size_bytes=size_bytes, refuse=refuse)
    return Header(tensors=tensors, metadata=metadata)


def parse_json(raw: bytes | str, refuse: Refuse) -> dict[str, object]:
    """Return the JSON object in ``raw``.

    Raises:
        DiptychError: ``refuse``'s, when it is not UTF-8, not JSON, not an object, has a key twice
            or is nested too deeply.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a key occurs twice")
        return value

    try:
        value = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise refuse(f"holds no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise refuse(f"holds a JSON {type(value).__name__}, expected an object")
    return value


def _header_length(prefix: bytes, size_bytes: int, refuse: Refuse) -> int:
    if len(prefix) < _PREFIX_BYTES:
        raise refuse(f"is truncated: {size_bytes} bytes hold no header")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise refuse(f"claims a header of {length} bytes, the limit is {MAX_HEADER_BYTES}")
    if _PREFIX_BYTES + length > size_bytes:
        raise refuse(f"is truncated: header of {length} bytes in a file of {size_bytes}")
    return length


def _metadata(value: object, refuse: Refuse) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise refuse("has metadata that is not a map of texts")


def _span(name: str, entry: object, start: int, refuse: Refuse) -> TensorSpan:
    if not isinstance(entry, dict):
        raise refuse(f"tensor {name!r} has no description")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise refuse(f"tensor {name!r} has unknown dtype {dtype!r}")
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise refuse(f"tensor {name!r} has no valid shape")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise refuse(f"tensor {name!r} has no valid data_offsets")
    begin, end = offsets
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != expected:
        raise refuse(f"tensor {name!r} needs {expected} bytes and claims {end - begin}")
    return TensorSpan(dtype=dtype, shape=tuple(shape), begin=start + begin, end=start + end)


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def _check_tiling(
    tensors: Mapping[str, TensorSpan], *, start: int, size_bytes: int, refuse: Refuse
) -> None:
    position = start
    for name, span in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if span.begin != position:
            kind = "overlaps another" if span.begin < position else "leaves a gap before it"
            raise refuse(f"tensor {name!r} {kind}")
        position = span.end
    if position != size_bytes:
        problem = f"describes {position} bytes and has {size_bytes}"
        kind = "is truncated" if position > size_bytes else "has bytes that no tensor owns"
        raise refuse(f"{kind}: {problem}")
