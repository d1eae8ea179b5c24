"""The header of a .safetensors file, checked against the file before anything is loaded.

Layout: eight bytes of header length N (little endian), N bytes of JSON that maps a tensor's
name to its dtype, shape and byte range, then the data those ranges tile without gap or overlap.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from diptych.errors import CheckpointInvalid, ModelNotFound

__all__ = ["MAX_HEADER_BYTES", "Header", "TensorSpan", "parse_json", "read_header"]

MAX_HEADER_BYTES = 32 * 2**20
"""SDXL's largest file has a header of half a mebibyte."""
_PREFIX_BYTES = 8
_MAX_RANK = 8
_ITEM_BYTES: Mapping[str, int] = {
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpan:
    """One tensor of a file: its kind, and the bytes [begin, end) of the file that hold it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything a .safetensors file says about itself, found consistent with its size."""

    path: Path
    tensors: Mapping[str, TensorSpan]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """Return the header of ``path`` after checking it against the file; reads no weights.

    Raises:
        ModelNotFound: there is no such file.
        CheckpointInvalid: the file is truncated or its header is not JSON, claims bytes the
            file does not have, or has ranges that overlap, leave gaps or do not fit the shapes.
    """
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            header_bytes = _header_length(path, size_bytes, stream.read(_PREFIX_BYTES))
            raw = stream.read(header_bytes)
    except FileNotFoundError as error:
        raise ModelNotFound(str(path), "no such file") from error
    except OSError as error:
        raise CheckpointInvalid(str(path), f"cannot be read: {error.strerror}") from error
    entries = parse_json(str(path), raw)
    metadata = _metadata(path, entries.pop("__metadata__", {}))
    start = _PREFIX_BYTES + header_bytes
    tensors = {name: _span(path, name, entry, start) for name, entry in entries.items()}
    _check_tiling(path, tensors, start=start, size_bytes=size_bytes)
    return Header(path=path, tensors=tensors, metadata=metadata)


def parse_json(source: str, raw: bytes) -> dict[str, object]:
    """Return the JSON object in ``raw``; ``source`` names it in errors.

    Raises:
        CheckpointInvalid: not UTF-8, not JSON, not an object, a key twice, or nested too deeply.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a key occurs twice")
        return value

    try:
        value = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointInvalid(source, f"holds no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointInvalid(source, f"holds a JSON {type(value).__name__}, expected an object")
    return value


def _header_length(path: Path, size_bytes: int, prefix: bytes) -> int:
    if len(prefix) < _PREFIX_BYTES:
        raise CheckpointInvalid(str(path), f"is truncated: {size_bytes} bytes hold no header")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        problem = f"claims a header of {length} bytes, the limit is {MAX_HEADER_BYTES}"
        raise CheckpointInvalid(str(path), problem)
    if _PREFIX_BYTES + length > size_bytes:
        problem = f"is truncated: header of {length} bytes in a file of {size_bytes}"
        raise CheckpointInvalid(str(path), problem)
    return length


def _metadata(path: Path, value: object) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise CheckpointInvalid(str(path), "has metadata that is not a map of texts")


def _span(path: Path, name: str, entry: object, start: int) -> TensorSpan:
    if not isinstance(entry, dict):
        raise CheckpointInvalid(str(path), f"tensor {name!r} has no description")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise CheckpointInvalid(str(path), f"tensor {name!r} has unknown dtype {dtype!r}")
    if not _is_sizes(shape) or len(shape) > _MAX_RANK:
        raise CheckpointInvalid(str(path), f"tensor {name!r} has no valid shape")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise CheckpointInvalid(str(path), f"tensor {name!r} has no valid data_offsets")
    begin, end = offsets
    expected = math.prod(shape) * _ITEM_BYTES[dtype]
    if end - begin != expected:
        problem = f"tensor {name!r} needs {expected} bytes and claims {end - begin}"
        raise CheckpointInvalid(str(path), problem)
    return TensorSpan(dtype=dtype, shape=tuple(shape), begin=start + begin, end=start + end)


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def _check_tiling(
    path: Path, tensors: Mapping[str, TensorSpan], *, start: int, size_bytes: int
) -> None:
    position = start
    for name, span in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if span.begin != position:
            kind = "overlaps another" if span.begin < position else "leaves a gap before it"
            raise CheckpointInvalid(str(path), f"tensor {name!r} {kind}")
        position = span.end
    if position != size_bytes:
        problem = f"describes {position} bytes and has {size_bytes}"
        kind = "is truncated" if position > size_bytes else "has bytes that no tensor owns"
        raise CheckpointInvalid(str(path), f"{kind}: {problem}")
