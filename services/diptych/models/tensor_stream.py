"""One tensor of a checkpoint at a time, in the module's own names, for models that do not fit."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diptych.errors import CheckpointInvalid
from diptych.models.parts import Part, StoredTensor

__all__ = ["read_one", "stored_by_name"]


def stored_by_name(part: Part) -> Mapping[str, StoredTensor]:
    """Return where each tensor lies, by the name it has in the module.

    Raises:
        CheckpointInvalid: The layout joins or splits tensors, so they cannot be read one by one.
    """
    if part.convert is None:
        return part.tensors
    places = {
        name: torch.empty(stored.span.shape, device="meta") for name, stored in part.tensors.items()
    }
    names = {id(place): name for name, place in places.items()}
    try:
        converted = part.convert(dict(places))
        return {name: part.tensors[names[id(place)]] for name, place in converted.items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        problem = f"{part.name} cannot be read tensor by tensor: {error!r}"
        raise CheckpointInvalid(part.source, problem) from error


def read_one(part: Part, stored: StoredTensor) -> Tensor:
    """Return one tensor, mapped: its pages are read as they are used and go with the tensor.

    Raises:
        CheckpointInvalid: The file changed after its header was checked, or holds what is not a
            finite number.
    """
    try:
        # Opened anew each time: an open file would keep every page that was ever read.
        with safe_open(stored.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(stored.key)
    except (SafetensorError, OSError) as error:
        raise CheckpointInvalid(part.source, f"{stored.path.name}: {error}") from error
    if tuple(tensor.shape) != stored.span.shape:
        raise CheckpointInvalid(part.source, f"{stored.path.name} changed while it was read")
    if not bool(tensor.isfinite().all()):
        raise CheckpointInvalid(part.source, f"tensor {stored.key} holds NaN or infinity")
    return tensor
