"""Tensors as safetensors files of a store, one tensor in memory at a time on the way out."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diptych.errors import CheckpointInvalid
from diptych.storage.blobs import BlobStore
from diptych.storage.tensor_layout import lay_out

__all__ = ["read_tensors", "tensor_pieces"]

_SPELLINGS: Final[Mapping[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def tensor_pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """Yield the bytes of a safetensors file of ``tensors``, which may be on any device.

    Raises:
        KeyError: A tensor is of a dtype that has no spelling.
    """
    layout = {name: (_SPELLINGS[one.dtype], tuple(one.shape)) for name, one in tensors.items()}
    header, order = lay_out(layout, {})
    yield header
    for name in order:
        own = tensors[name].detach().to("cpu").contiguous()
        if own.numel():
            yield own.view(-1).view(torch.uint8).numpy().tobytes()


def read_tensors(blobs: BlobStore, key: str) -> dict[str, Tensor]:
    """Return the tensors of a file of ``blobs``, on the CPU, sharing no memory with it.

    Raises:
        BlobNotFound: There is no such file.
        CheckpointInvalid: It is no safetensors file.
        SourceUnavailable: The store does not answer.
    """
    path = blobs.local_path(key)
    if path is not None:
        return _load(path, key)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as copy:
        for piece in blobs.read(key):
            copy.write(piece)
        copy.flush()
        return _load(Path(copy.name), key)


def _load(path: Path, key: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointInvalid(key, str(error)) from error
