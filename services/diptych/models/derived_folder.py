"""A checkpoint's folder with other weights in it: some parts written, the rest taken over."""

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from diptych.models.folder import STEMS
from diptych.models.parts import Part
from diptych.storage.partial import room, write_whole
from diptych.storage.tensor_layout import lay_out

__all__ = ["copy_other_parts", "write_json", "write_part"]

_KEPT_SUFFIXES: Final = frozenset({".json", ".txt", ".safetensors"})
_PARTIALS: Final = ".partials"


def copy_other_parts(
    base: Path, folder: Path, *, replaced: Collection[str] = ("unet",)
) -> list[str]:
    """Take everything but the weights of ``replaced`` over from ``base``; return the parts' names.

    Weights become links where the file system allows it, as they are never written to;
    configurations and vocabularies are copied, as people edit them. Pickles stay behind.

    Raises:
        StoreFull: There is no room.
    """
    parts: set[str] = set()
    for path in sorted([*base.glob("*"), *base.glob("*/*")]):
        inside = path.relative_to(base)
        part = inside.parts[0]
        hidden = any(name.startswith(".") for name in inside.parts)
        if hidden or not path.is_file() or path.suffix not in _KEPT_SUFFIXES:
            continue
        if part in replaced and inside != Path(part, "config.json"):
            continue
        if len(inside.parts) > 1 and part not in replaced:
            parts.add(part)
        _take(path.resolve(), folder / inside, partials=folder / _PARTIALS)
    shutil.rmtree(folder / _PARTIALS, ignore_errors=True)
    return sorted(parts)


def write_part(
    part: Part, folder: Path, tensor_of: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a part's weights with the names, shapes and dtypes of ``part``, one after another.

    Args:
        part: Whose layout is taken; its tensors have the module's own names.
        folder: The checkpoint's.
        tensor_of: Asked once for each name, in the order in which they are written.
        metadata: Texts of the file's header.

    Raises:
        StoreFull: There is no room; said before the first tensor is asked for.
    """
    described = {name: (one.span.dtype, one.span.shape) for name, one in part.tensors.items()}
    header, order = lay_out(described, {"format": "pt", **metadata})
    num_bytes = sum(one.span.end - one.span.begin for one in part.tensors.values())

    def pieces() -> Iterator[bytes]:
        yield header
        for name in order:
            yield _little_endian(tensor_of(name))

    write_whole(
        folder / part.name / f"{STEMS[part.name]}.safetensors",
        pieces(),
        partials=folder / _PARTIALS,
        reserve_bytes=len(header) + num_bytes,
    )
    shutil.rmtree(folder / _PARTIALS)


def write_json(text: str, path: Path) -> None:
    """Write a small file into the folder that ``path`` is in."""
    partials = path.parent / _PARTIALS
    write_whole(path, [text.encode()], partials=partials)
    shutil.rmtree(partials)


def _take(path: Path, final: Path, *, partials: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.suffix == ".safetensors":
        with suppress(OSError):
            os.link(path, final)
            return
    with path.open("rb") as stream, room(str(final.parent), path.stat().st_size):
        pieces = iter(lambda: stream.read(1 << 24), b"")
        write_whole(final, pieces, partials=partials)


def _little_endian(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().view(-1).view(torch.uint8)
    if sys.byteorder == "big":
        flat = flat.view(-1, tensor.element_size()).flip(1)
    return flat.numpy().tobytes()
