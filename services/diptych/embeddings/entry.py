"""What the cache keeps: a few named tensors as safetensors bytes, without a tensor library.

A prompt's entry holds ``hidden`` [T, D] and ``pooled`` [P]; an image's holds the ``mean`` and the
``std`` [4, h, w] of its posterior, unscaled, so that every epoch can draw a sample of its own.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diptych.errors import EmbeddingInvalid

__all__ = ["Entry", "TensorValue", "read_entry", "write_entry"]

ITEM_BYTES: Final[Mapping[str, int]] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
MAX_HEADER_BYTES: Final = 64 * 2**10
MAX_ENTRY_BYTES: Final = 256 * 2**20
_ALIGNMENT: Final = 8
_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "prompt": frozenset({"hidden", "pooled"}),
    "image": frozenset({"mean", "std"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorValue:
    """A tensor's bytes, little-endian and in row order, and what they mean."""

    dtype: str
    """As safetensors spells it: F32, F16, BF16 or F64."""
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One embedding."""

    kind: str
    """``prompt`` or ``image``."""
    tensors: Mapping[str, TensorValue]


def write_entry(entry: Entry) -> bytes:
    """Return the one spelling of ``entry``: safetensors, names in alphabetical order."""
    header: dict[str, object] = {"__metadata__": {"kind": entry.kind}}
    begin = 0
    for name in sorted(entry.tensors):
        tensor = entry.tensors[name]
        end = begin + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    data = [entry.tensors[name].data for name in sorted(entry.tensors)]
    return b"".join([struct.pack("<Q", len(text)), text, *data])


def read_entry(data: bytes | memoryview) -> Entry:
    """Return the entry that ``data`` spells; its tensors are views of ``data``.

    Raises:
        EmbeddingInvalid: It is not an entry: cut, with gaps, or with other tensors than its kind.
    """
    view = memoryview(data)
    header, body = _header(view)
    metadata = header.pop("__metadata__", None)
    kind = metadata.get("kind") if isinstance(metadata, dict) else None
    if kind not in _KINDS or frozenset(header) != _KINDS[str(kind)]:
        problem = f"kind {str(kind)[:40]!r} with tensors {sorted(header)[:8]}"
        raise EmbeddingInvalid(f"no known kind of embedding: {problem}")
    tensors = {name: _tensor(name, header[name], body) for name in header}
    if sum(len(tensor.data) for tensor in tensors.values()) != len(body):
        raise EmbeddingInvalid("tensors overlap or leave bytes between them")
    return Entry(kind=str(kind), tensors=tensors)


def _header(view: memoryview) -> tuple[dict[str, object], memoryview]:
    """Return the parsed header and the bytes behind it."""
    if len(view) > MAX_ENTRY_BYTES:
        raise EmbeddingInvalid(f"{len(view)} bytes, the limit is {MAX_ENTRY_BYTES}")
    if len(view) < _ALIGNMENT:
        raise EmbeddingInvalid(f"{len(view)} bytes cannot hold a safetensors header")
    (size,) = struct.unpack("<Q", view[:_ALIGNMENT])
    if size > min(MAX_HEADER_BYTES, len(view) - _ALIGNMENT):
        raise EmbeddingInvalid(f"its header claims {size} bytes of {len(view)}")
    try:
        header = json.loads(bytes(view[_ALIGNMENT : _ALIGNMENT + size]))
    except ValueError as error:
        raise EmbeddingInvalid(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise EmbeddingInvalid("its header is not a map")
    return header, view[_ALIGNMENT + size :]


def _tensor(name: str, found: object, body: memoryview) -> TensorValue:
    try:
        dtype, shape, (begin, end) = (found[k] for k in ("dtype", "shape", "data_offsets"))  # type: ignore[index]
        dimensions = tuple(int(size) for size in shape)
        expected = math.prod(dimensions) * ITEM_BYTES[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise EmbeddingInvalid(f"tensor {name[:40]!r} is not described: {error!r}") from error
    is_inside = isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end <= len(body)
    if not is_inside or end - begin != expected or min(dimensions, default=1) < 1:
        problem = f"{dtype} {list(dimensions)} at bytes {begin} to {end} of {len(body)}"
        raise EmbeddingInvalid(f"tensor {name[:40]!r} does not fit: {problem}")
    return TensorValue(dtype=dtype, shape=dimensions, data=body[begin:end])
