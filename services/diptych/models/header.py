"""The header of a checkpoint's .safetensors file, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from diptych.errors import CheckpointInvalid, ModelNotFound
from diptych.storage import tensor_header
from diptych.storage.tensor_header import TensorSpan

__all__ = ["Header", "parse_json", "read_header"]


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
    refuse = partial(CheckpointInvalid, str(path))
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            header = tensor_header.read_header(stream, size_bytes=size_bytes, refuse=refuse)
    except FileNotFoundError as error:
        raise ModelNotFound(str(path), "no such file") from error
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from error
    return Header(path=path, tensors=header.tensors, metadata=header.metadata)


def parse_json(source: str, raw: bytes) -> dict[str, object]:
    """Return the JSON object in ``raw``; ``source`` names it in errors.

    Raises:
        CheckpointInvalid: not UTF-8, not JSON, not an object, a key twice, or nested too deeply.
    """
    return tensor_header.parse_json(raw, partial(CheckpointInvalid, source))
