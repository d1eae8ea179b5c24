"""The one spelling of safetensors bytes: their header, and the order of what follows it."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from diptych.digest import canonical_bytes
from diptych.storage.tensor_header import ITEM_BYTES

__all__ = ["lay_out"]

_ALIGNMENT: Final = 8


def lay_out(
    tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """Return what a file of ``tensors`` begins with, and the order their bytes must follow in.

    Keys are sorted within each width of number, widest first, so that every tensor is aligned.

    Args:
        tensors: By key, the dtype as safetensors calls it, and the shape.
        metadata: The header's texts.
    """
    order = sorted(tensors, key=lambda key: (-ITEM_BYTES[tensors[key][0]], key))
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for key in order:
        dtype, shape = tensors[key]
        end = position + math.prod(shape) * ITEM_BYTES[dtype]
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    header = canonical_bytes(entries)
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header, order
