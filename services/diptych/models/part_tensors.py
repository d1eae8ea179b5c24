"""A part's tensors, out of the files that hold them."""

import math
from itertools import groupby

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diptych.errors import CheckpointInvalid
from diptych.models.parts import Part

__all__ = ["read_tensors"]


def read_tensors(part: Part, *, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the part's tensors on ``device``, floating ones as ``dtype``, in the module's names.

    Raises:
        CheckpointInvalid: a file changed after its header was checked, or holds weights that are
            not finite or not finite as ``dtype``.
    """
    tensors: dict[str, Tensor] = {}
    not_finite: list[str] = []
    items = sorted(part.tensors.items(), key=lambda item: str(item[1].path))
    for path, group in groupby(items, key=lambda item: item[1].path):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name, stored in group:
                    tensor = file.get_tensor(stored.key)
                    tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
                    if not _is_finite(tensors[name]):
                        not_finite.append(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointInvalid(part.source, f"{path.name}: {error}") from error
    if not_finite:
        problem = f"{part.name} {not_finite[0]} holds values that are not finite as {dtype}"
        others = f"; so do {len(not_finite) - 1} more tensors" if len(not_finite) > 1 else ""
        raise CheckpointInvalid(part.source, problem + others)
    return tensors if part.convert is None else part.convert(tensors)


def _is_finite(tensor: Tensor) -> bool:
    """Return whether every value is; extremes carry NaN along and need no second tensor."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(math.isfinite(extreme) for extreme in torch.stack(torch.aminmax(tensor)).tolist())
