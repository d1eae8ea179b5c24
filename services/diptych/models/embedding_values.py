"""Embeddings as tensors and as what the cache keeps: the same numbers, there and back."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from diptych.embeddings.entry import Entry, TensorValue, read_entry, write_entry
from diptych.embeddings.key import StoredDtype
from diptych.errors import EmbeddingInvalid
from diptych.models.text_encoders import PromptEmbeds

__all__ = ["dtype_name", "from_entry", "read_prompt", "to_entry", "write_prompt"]

_SPELLINGS: Final[Mapping[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
_DTYPES: Final[Mapping[str, torch.dtype]] = {name: dtype for dtype, name in _SPELLINGS.items()}
_STORED: Final[Mapping[torch.dtype, StoredDtype]] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def dtype_name(dtype: torch.dtype) -> StoredDtype:
    """Return what a key calls ``dtype``: float32, float16 or bfloat16."""
    return _STORED[dtype]


def to_entry(kind: str, tensors: Mapping[str, Tensor], stored: StoredDtype) -> Entry:
    """Return ``tensors`` of any device as an entry of ``kind`` that keeps them as ``stored``.

    Raises:
        EmbeddingInvalid: A value is not finite in that dtype, so no one could use it.
    """
    dtype: torch.dtype = getattr(torch, stored)
    kept: dict[str, TensorValue] = {}
    for name, tensor in tensors.items():
        own = tensor.detach().to("cpu", dtype).contiguous()
        if not bool(torch.isfinite(own).all()):
            raise EmbeddingInvalid(f"{kind}'s {name} holds values that are not finite as {stored}")
        data = own.view(torch.uint8).numpy().tobytes()
        kept[name] = TensorValue(dtype=_SPELLINGS[dtype], shape=tuple(own.shape), data=data)
    return Entry(kind=kind, tensors=kept)


def from_entry(
    entry: Entry,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of ``entry``, which share no memory with it; ``dtype`` None keeps theirs.

    Little-endian, as every machine that torch runs on.
    """
    return {
        name: torch.frombuffer(bytearray(value.data), dtype=_DTYPES[value.dtype])
        .view(value.shape)
        .to(device, dtype)
        for name, value in entry.tensors.items()
    }


def write_prompt(embeds: PromptEmbeds, stored: StoredDtype) -> bytes:
    """Return a prompt's entry: ``hidden`` [T, D] and ``pooled`` [P].

    Raises:
        EmbeddingInvalid: as ``to_entry``.
    """
    tensors = {"hidden": embeds.hidden[0], "pooled": embeds.pooled[0]}
    return write_entry(to_entry("prompt", tensors, stored))


def read_prompt(
    data: bytes | memoryview, *, device: torch.device, dtype: torch.dtype
) -> PromptEmbeds:
    """Return what ``write_prompt`` wrote.

    Raises:
        EmbeddingInvalid: ``data`` is no entry of a prompt.
    """
    entry = read_entry(data)
    if entry.kind != "prompt":
        raise EmbeddingInvalid(f"of kind {entry.kind!r}, expected 'prompt'")
    tensors = from_entry(entry, device=device, dtype=dtype)
    return PromptEmbeds(hidden=tensors["hidden"][None], pooled=tensors["pooled"][None])
