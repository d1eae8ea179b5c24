"""Tensors of safetensors bytes or a file, read only after everything said of them held."""

import io
import math
import mmap
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from diptych.errors import AdapterInvalid, PickleRefused
from diptych.storage.tensor_header import (
    ITEM_BYTES,
    PICKLE_SUFFIXES,
    Header,
    Readable,
    Refuse,
    TensorSpan,
    read_header,
)
from diptych.storage.tensor_layout import lay_out

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_TENSORS",
    "TensorFile",
    "read_tensors",
    "to_pieces",
]

MAX_FILE_BYTES: Final = 4 * 2**30
"""Rank 128 of every layer of SDXL's UNet takes 1.5 GiB in float32."""
MAX_TENSORS: Final = 32_768
"""SDXL with every layer and alpha has about 5,000."""
_PICKLE_STARTS: Final = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
"""A zip archive, as torch.save writes, and pickles of protocol 2 to 5."""
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorFile:
    """What one file holds: its tensors, by key in the file's order, and its header's texts."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_tensors(data: bytes | Path, *, source: str) -> TensorFile:
    """Return the tensors of ``data``; those of a file are mapped, and read when they are used.

    A mapped file must not be cut while its tensors live; files of a store never are.

    Raises:
        PickleRefused: The name or the first bytes are those of a pickle.
        AdapterInvalid: It cannot be read, is too large, its header does not fit its size, or a
            tensor is empty or of integers (other than a single number, such as an alpha).
    """
    refuse = partial(AdapterInvalid, source)
    if isinstance(data, Path):
        if data.suffix.lower() in PICKLE_SUFFIXES:
            raise PickleRefused(source, data.name)
        mapped = _map(data, refuse)
        header = _header(mapped, mapped[:9], len(mapped), source)
        buffer: mmap.mmap | bytearray = mapped
    else:
        _check_size(len(data), refuse)
        header = _header(io.BytesIO(data), data[:9], len(data), source)
        buffer = bytearray(data)  # tensors are only made of memory that may be written
    tensors = {key: _tensor(buffer, span) for key, span in header.tensors.items()}
    return TensorFile(tensors=tensors, metadata=header.metadata)


def to_pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the one safetensors spelling of ``tensors`` and ``metadata``: header, then each tensor.

    The same values give the same bytes wherever they are and in whatever order they come: keys
    are sorted within each width of number, widest first, so that every tensor is aligned.
    """
    described = {key: (_NAMES[tensor.dtype], tensor.shape) for key, tensor in tensors.items()}
    header, order = lay_out(described, metadata)
    yield header
    for key in order:
        yield _little_endian(tensors[key])


def _map(path: Path, refuse: Refuse) -> mmap.mmap:
    try:
        _check_size(path.stat().st_size, refuse)
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from error


def _check_size(size_bytes: int, refuse: Refuse) -> None:
    if size_bytes > MAX_FILE_BYTES:
        raise refuse(f"has {size_bytes} bytes, the limit is {MAX_FILE_BYTES}")
    if size_bytes < _ALIGNMENT:
        raise refuse(f"is truncated: {size_bytes} bytes hold no header")


def _header(stream: Readable, start: bytes, size_bytes: int, source: str) -> Header:
    if start.startswith(_PICKLE_STARTS) and not start.endswith(b"{"):
        raise PickleRefused(source, "its content")
    refuse = partial(AdapterInvalid, source)
    header = read_header(stream, size_bytes=size_bytes, refuse=refuse)
    if len(header.tensors) > MAX_TENSORS:
        raise refuse(f"has {len(header.tensors)} tensors, the limit is {MAX_TENSORS}")
    for key, span in header.tensors.items():
        size = math.prod(span.shape)
        if size == 0:
            raise refuse(f"tensor {key!r} of shape {list(span.shape)} is empty")
        if size > 1 and not _DTYPES[span.dtype].is_floating_point:
            raise refuse(f"tensor {key!r} holds {span.dtype}, expected F64, F32, F16 or BF16")
    return header


def _tensor(buffer: mmap.mmap | bytearray, span: TensorSpan) -> Tensor:
    dtype, count = _DTYPES[span.dtype], math.prod(span.shape)
    if span.begin % ITEM_BYTES[span.dtype]:  # a writer that did not align its header
        flat = torch.frombuffer(bytearray(buffer[span.begin : span.end]), dtype=dtype)
    else:
        flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=span.begin)
    return flat.view(span.shape)


def _little_endian(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    if sys.byteorder == "big":
        flat = flat.view(-1, tensor.element_size()).flip(1)
    return flat.numpy().tobytes()
