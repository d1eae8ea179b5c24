"""Where answers are written, and latents as a file: safetensors, key ``latents``, float32.

Every file appears whole or not at all: bytes go beside it first, its name last.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from diptych.errors import FieldViolation, InvalidRequest

__all__ = [
    "DEFAULT_FORMAT",
    "FORMATS",
    "LATENTS_KEY",
    "LatentsFile",
    "check_destination",
    "format_of",
    "is_latents_file",
    "picture_paths",
    "read_latents",
    "write_latents",
    "write_whole",
]

LATENTS_KEY = "latents"
FORMATS: Mapping[str, tuple[str, ...]] = {
    "png": (".png",),
    "webp": (".webp",),
    "jpeg": (".jpg", ".jpeg"),
    "latents": (".safetensors",),
}
"""Output format -> the suffixes that mean it, the usual one first."""
DEFAULT_FORMAT = "png"
_LATENT_DTYPES = frozenset({"F32", "F16"})
"""As safetensors names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsFile:
    """Latents [N, 4, h, w] float32 and the settings they were made with, as text."""

    latents: NDArray[np.float32]
    metadata: Mapping[str, str]


def format_of(output_format: str | None, out: Path | None) -> str:
    """Return the format that the flag, or else the file's suffix, asks for; PNG when neither does.

    Raises:
        InvalidRequest: The flag and the suffix name two formats, or the format is unknown.
    """
    suffix = "" if out is None or _is_folder(out) else out.suffix.lower()
    by_suffix = next((name for name, known in FORMATS.items() if suffix in known), None)
    if output_format is None:
        if suffix and by_suffix is None:
            known = ", ".join(name for names in FORMATS.values() for name in names)
            _refuse("output", f"{suffix!r} of {out} is none of {known}; name the format beside it")
        return by_suffix or DEFAULT_FORMAT
    if output_format not in FORMATS:
        _refuse("output", f"{output_format!r} is none of {', '.join(FORMATS)}")
    if by_suffix not in (None, output_format):
        _refuse(
            "output", f"{out} is a {by_suffix} file and the format asked for is {output_format}"
        )
    return output_format


def picture_paths(out: Path | None, *, seeds: Sequence[int], output_format: str) -> list[Path]:
    """Return where each picture goes.

    ``out`` is a folder when it has no suffix (or is one), a pattern when it holds ``{seed}`` or
    ``{index}``, else a file; several pictures turn the file ``a.png`` into ``a-0.png``,
    ``a-1.png``.
    """
    suffix = FORMATS[output_format][0]
    if out is None or _is_folder(out):
        folder = out or Path()
        return [folder / f"diptych-{seed}{suffix}" for seed in seeds]
    if "{seed}" in out.name or "{index}" in out.name:
        names = [
            out.name.replace("{seed}", str(seed)).replace("{index}", str(index))
            for index, seed in enumerate(seeds)
        ]
        if len(set(names)) == len(names):
            return [out.with_name(name) for name in names]
    if len(seeds) == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{index}{out.suffix}") for index in range(len(seeds))]


def check_destination(out: Path | None, *, output_format: str) -> None:
    """Check that ``out`` can be written, before anything is painted for it; makes nothing.

    Raises:
        InvalidRequest: It cannot, by its name or by the folder it would lie in.
    """
    (path,) = picture_paths(out, seeds=[0], output_format=output_format)
    try:
        with suppress(FileNotFoundError):
            path.lstat()
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        _refuse_writing(path, problem)


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, making its folder; a reader never sees a part of it.

    Raises:
        InvalidRequest: It cannot be written; what was there before is unharmed.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=".diptych-", suffix=".part", delete=False
        ) as file:
            part = Path(file.name)
            file.write(data)
        part.chmod(0o644)
        part.replace(path)
    except OSError as problem:
        _refuse_writing(path, problem)
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def write_latents(path: Path, latents: NDArray[np.float32], settings: Mapping[str, object]) -> None:
    """Write latents [N, 4, h, w]; settings that are None are left out of the metadata."""
    metadata = {key: str(value) for key, value in settings.items() if value is not None}
    data = save({LATENTS_KEY: np.ascontiguousarray(latents, dtype=np.float32)}, metadata)
    write_whole(path, data)


def is_latents_file(path: Path) -> bool:
    """Return whether ``path`` is named as latents rather than as a picture."""
    return path.suffix.lower() in FORMATS["latents"]


def read_latents(path: Path) -> LatentsFile:
    """Read what ``write_latents`` wrote, or any file with a float32 tensor of that key.

    Raises:
        InvalidRequest: It is not safetensors, lacks the key, or the tensor is not [N, 4, h, w].
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if LATENTS_KEY not in file.keys():  # noqa: SIM118 - safe_open is no mapping
                _refuse("latents", f"{path} holds no tensor named {LATENTS_KEY!r}")
            tensor = file.get_slice(LATENTS_KEY)
            kind, shape = tensor.get_dtype(), tensor.get_shape()
            if len(shape) != 4 or kind not in _LATENT_DTYPES:
                _refuse("latents", f"{path} holds {kind} {shape}, expected float32 [N, 4, h, w]")
            latents = file.get_tensor(LATENTS_KEY)
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as problem:
        raise InvalidRequest(
            [FieldViolation(field="latents", description=f"cannot read {path}: {problem}")]
        ) from problem
    return LatentsFile(latents=latents.astype(np.float32), metadata=metadata)


def _is_folder(out: Path) -> bool:
    """Return whether ``out`` is or names a folder; a name that no system takes is none."""
    return not out.suffix or os.path.isdir(out)  # noqa: PTH112 - Path.is_dir raises on long names


def _refuse_writing(path: Path, problem: OSError) -> NoReturn:
    _refuse("out", f"cannot write {path}: {problem.strerror or problem}")


def _refuse(field: str, description: str) -> NoReturn:
    raise InvalidRequest([FieldViolation(field=field, description=description)])
