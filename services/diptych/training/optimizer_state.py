"""An optimizer's whole state as named tensors and plain JSON, and back bit for bit."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from diptych.errors import CheckpointInvalid

__all__ = ["load_optimizer_state", "optimizer_state"]

Json = dict[str, Any] | list[Any] | str | int | float | bool | None

_SOURCE = "optimizer state"


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return everything that the optimizer's next steps depend on, but for the weights.

    Returns:
        Tensors by their place in the state, detached and not copied, no two the same memory (as
        safetensors wants them); and the rest, hyperparameters and counts, as one JSON object that
        names those places.
    """
    tensors: dict[str, Tensor] = {}
    plain = _encode(optimizer.state_dict(), "", tensors, {})
    assert isinstance(plain, dict)
    return tensors, plain


def load_optimizer_state(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Bring an optimizer, made of the same spec and groups, to a state that was read.

    Its weights are to be those that were trained when the state was taken: of a schedule-free
    optimizer the ones it trains, not their average.

    Raises:
        CheckpointInvalid: The state is not one, or is another set of parameters'.
    """
    try:
        state: Any = _decode(
            dict(plain), {place: tensor.clone() for place, tensor in tensors.items()}
        )
        groups, states = state["param_groups"], state["state"]
        layout = [len(group["params"]) for group in groups]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointInvalid(_SOURCE, f"cannot be read: {error}") from error
    own = [len(group["params"]) for group in optimizer.param_groups]
    if layout != own:
        raise CheckpointInvalid(_SOURCE, f"is of groups of {layout} parameters, ours are {own}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in states.items():
        _check_shapes(index, values, parameters[index])
    optimizer.load_state_dict(state)


def _check_shapes(index: int, values: Mapping[str, object], parameter: Tensor) -> None:
    """Refuse averages of gradients that are of another shape than their parameter."""
    for name in ("exp_avg", "exp_avg_sq", "z"):
        value = values.get(name)
        if isinstance(value, Tensor) and value.shape != parameter.shape:
            found, wanted = list(value.shape), list(parameter.shape)
            raise CheckpointInvalid(
                _SOURCE, f"{name} of parameter {index} is {found}, not {wanted}"
            )


def _encode(value: object, place: str, tensors: dict[str, Tensor], seen: dict[int, str]) -> Json:
    """Return plain JSON for a value; what JSON has no form of becomes an object with one key."""
    if isinstance(value, Tensor):
        if id(value) not in seen:
            seen[id(value)] = place.removesuffix("/")
            tensors[seen[id(value)]] = value.detach()
        return {"tensor": seen[id(value)]}
    if isinstance(value, Mapping):
        pairs = [[key, _encode(one, f"{place}{key}/", tensors, seen)] for key, one in value.items()]
        return {"mapping": pairs}
    if isinstance(value, list | tuple):
        items = [_encode(one, f"{place}{i}/", tensors, seen) for i, one in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    assert value is None or isinstance(value, str | int | float)
    return value


def _decode(value: Json, tensors: Mapping[str, Tensor]) -> object:
    """Return the value that ``_encode`` wrote; what was one tensor is one again."""
    if isinstance(value, list):
        return [_decode(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decode(one, tensors) for one in content)
    if kind == "float":
        return float(content)
    return {key: _decode(one, tensors) for key, one in content}
