"""Nested state, as optimizers and schedules give it, as named tensors and JSON: exact, both ways.

Floats are spelt so that they come back bit for bit; keys that are numbers stay numbers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.errors import CheckpointInvalid

__all__ = ["flatten", "restore"]

Json = Any
"""What the standard library's json reads and writes."""


def flatten(state: object) -> tuple[dict[str, Tensor], Json]:
    """Return the tensors of ``state`` by a name, not copied, and the rest of it as JSON.

    Raises:
        TypeError: It holds what neither has a spelling for.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _spelt(state, "", tensors)


def restore(tensors: Mapping[str, Tensor], text: Json) -> Any:  # noqa: ANN401 - whatever it was
    """Return what ``flatten`` was given.

    Raises:
        CheckpointInvalid: The two do not belong together.
    """
    try:
        return _read(text, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointInvalid("state", f"is not one that was written: {error!r}") from error


def _spelt(value: object, name: str, tensors: dict[str, Tensor]) -> Json:
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        items = [
            [_spelt(key, "", {}), _spelt(held, _joined(name, key), tensors)]
            for key, held in value.items()
        ]
        return {"map": items}
    if isinstance(value, list | tuple):
        items = [_spelt(held, _joined(name, place), tensors) for place, held in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    raise TypeError(f"state {name or 'itself'} is a {type(value).__name__}")


def _joined(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _read(text: Json, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - whatever it was
    if not isinstance(text, dict):
        return text
    ((kind, held),) = text.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "map":
        return {_read(key, {}): _read(value, tensors) for key, value in held}
    if kind == "dtype":
        return getattr(torch, held)
    items = [_read(one, tensors) for one in held]
    return {"list": list, "tuple": tuple}[kind](items)
