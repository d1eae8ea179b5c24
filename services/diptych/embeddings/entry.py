"""What the cache keeps: a few named tensors as safetensors bytes, without a tensor library.

A prompt's entry holds ``hidden`` [T, D] and ``pooled`` [P]; an image's holds the ``mean`` and the
``std`` [4, h, w] of its posterior, unscaled, so that every epoch can draw a sample of its own.
"""

import json
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from diptych.errors import EmbeddingInvalid

__all__ = ["Entry", "TensorValue", "check_finite", "read_entry", "write_entry"]

ITEM_BYTES: Final[Mapping[str, int]] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
MAX_HEADER_BYTES: Final = 64 * 2**10
MAX_ENTRY_BYTES: Final = 256 * 2**20
_ALIGNMENT: Final = 8
_KINDS: Final[Mapping[str, Mapping[str, int]]] = {
    "prompt": {"hidden": 2, "pooled": 1},
    "image": {"mean": 3, "std": 3},
}
"""Kind to its tensors, and how many dimensions each has."""
_EXPONENTS: Final[Mapping[str, tuple[str, int]]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""The bits that are all set in what is infinite or no number."""
_SHOWN: Final = 80


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
    expected = _KINDS.get(kind) if isinstance(kind, str) else None
    if expected is None or header.keys() != expected.keys():
        problem = f"kind {_short(kind)} with tensors {_short(sorted(header))}"
        raise EmbeddingInvalid(f"no known kind of embedding: {problem}")
    spans = {name: _span(name, header[name], len(body)) for name in header}
    if sorted(spans.values()) != _joined(spans.values(), len(body)):
        raise EmbeddingInvalid("tensors overlap or leave bytes between them")
    tensors = {name: _tensor(name, header[name], body) for name in header}
    found = {name: len(tensor.shape) for name, tensor in tensors.items()}
    if found != expected or (kind == "image" and len({t.shape for t in tensors.values()}) > 1):
        shapes = {name: list(tensor.shape)[:8] for name, tensor in tensors.items()}
        raise EmbeddingInvalid(f"no shapes of kind {kind!r}: {_short(shapes)}")
    return Entry(kind=str(kind), tensors=tensors)


def check_finite(entry: Entry) -> None:
    """Refuse an entry that no one could use.

    Raises:
        EmbeddingInvalid: A value is infinite or no number.
    """
    for name, tensor in entry.tensors.items():
        numbers, exponent = _EXPONENTS[tensor.dtype]
        bits = np.frombuffer(tensor.data, numbers) & np.array(exponent, numbers)
        if (bits == exponent).any():
            raise EmbeddingInvalid(f"{entry.kind}'s {name} holds values that are not finite")


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
    except (ValueError, RecursionError) as error:
        raise EmbeddingInvalid(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise EmbeddingInvalid("its header is not a map")
    return header, view[_ALIGNMENT + size :]


def _span(name: str, found: object, size_bytes: int) -> tuple[int, int]:
    """Return where a tensor's bytes begin and end."""
    offsets = found.get("data_offsets") if isinstance(found, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_count, offsets))):
        raise EmbeddingInvalid(f"tensor {_short(name)} is not described: {_short(found)}")
    begin, end = offsets
    if not begin <= end <= size_bytes:
        problem = f"at bytes {begin} to {end} of {size_bytes}"
        raise EmbeddingInvalid(f"tensor {_short(name)} does not fit: {problem}")
    return begin, end


def _joined(spans: Collection[tuple[int, int]], size_bytes: int) -> list[tuple[int, int]]:
    """Return where spans with these ends lie if each begins where another ends."""
    ends = sorted(end for _, end in spans)
    return list(zip([0, *ends[:-1]], [*ends[:-1], size_bytes], strict=True))


def _tensor(name: str, found: object, body: memoryview) -> TensorValue:
    assert isinstance(found, dict), "as _span saw"
    dtype, shape, (begin, end) = found.get("dtype"), found.get("shape"), found["data_offsets"]
    if not (
        isinstance(dtype, str)
        and dtype in ITEM_BYTES
        and isinstance(shape, list)
        and all(map(_is_count, shape))
    ):
        raise EmbeddingInvalid(f"tensor {_short(name)} is not described: {_short(found)}")
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype] or min(shape, default=1) < 1:
        problem = f"{dtype} {_short(shape)} at bytes {begin} to {end} of {len(body)}"
        raise EmbeddingInvalid(f"tensor {_short(name)} does not fit: {problem}")
    return TensorValue(dtype=dtype, shape=tuple(shape), data=body[begin:end])


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_ENTRY_BYTES


def _short(value: object) -> str:
    return f"{value!r:.{_SHOWN}}"
