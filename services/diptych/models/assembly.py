"""From a checkpoint's part to the module it describes, checked before a weight is read."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from diptych.errors import CheckpointInvalid
from diptych.models.part_tensors import read_tensors
from diptych.models.parts import Part
from diptych.models.row_independence import keep_rows_independent

__all__ = ["assemble", "module_name", "require_class"]

_Module = TypeVar("_Module", bound=nn.Module)

_OLD_ATTENTION_NAMES: Mapping[str, str] = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names VAEs were saved with before diffusers 0.12."""
_DERIVED_BUFFER = "position_ids"
_CONFIG_ERRORS = (TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError)


def assemble(
    part: Part,
    build: Callable[[dict[str, object]], _Module],
    *,
    device: torch.device,
    dtype: torch.dtype,
    keep_rows: bool = True,
) -> _Module:
    """Return ``build(part.config)`` with the part's weights, none of which requires a gradient.

    The module is first built without storage, so that names and shapes are compared while the
    weights are still on disk. Floating weights become ``dtype``. ``keep_rows`` makes rows
    independent of each other, as serving needs; without it layers are torch's own, for training.

    Raises:
        CheckpointInvalid: the configuration builds nothing, or its names and shapes are not
            those of the tensors.
    """
    try:
        with torch.device("meta"):
            module = build(dict(part.config))
    except _CONFIG_ERRORS as error:
        problem = f"configuration of {part.name} builds no module: {error}"
        raise CheckpointInvalid(part.source, problem) from error
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = _described_shapes(part)
    names = {name: module_name(name, expected) for name in found}
    _compare(part, expected, {names[name]: shape for name, shape in found.items()})
    tensors = read_tensors(part, device=device, dtype=dtype)
    state = {names[name]: tensor for name, tensor in tensors.items() if names[name] in expected}
    module.load_state_dict(state, strict=True, assign=True)
    _materialize_buffers(part, module, device)
    if keep_rows:
        keep_rows_independent(module)
    return module.requires_grad_(requires_grad=False).eval()


def require_class(part: Part, key: str, expected: str) -> None:
    """Check which class a configuration says it is of; saying nothing is accepted.

    Raises:
        CheckpointInvalid: it names another class.
    """
    value = part.config.get(key, expected)
    names = value if isinstance(value, list) else [value]
    if expected not in names:
        raise CheckpointInvalid(part.source, f"{part.name} is a {value!r}, expected {expected}")


def _described_shapes(part: Part) -> dict[str, tuple[int, ...]]:
    """Return the shapes the tensors will have in the module's names, by converting empty ones."""
    if part.convert is None:
        return {name: stored.span.shape for name, stored in part.tensors.items()}
    empty = {
        name: torch.empty(stored.span.shape, device="meta") for name, stored in part.tensors.items()
    }
    try:
        converted: dict[str, Tensor] = part.convert(empty)
        return {name: tuple(tensor.shape) for name, tensor in converted.items()}
    except _CONFIG_ERRORS as error:
        problem = f"{part.name} is not SDXL's original layout: {error!r}"
        raise CheckpointInvalid(part.source, problem) from error


def module_name(name: str, expected: Mapping[str, object]) -> str:
    """Return the module's own name for a stored one; versions of the libraries differ in it."""
    renamed = name
    for old, new in _OLD_ATTENTION_NAMES.items():
        renamed = renamed.replace(old, new)
    spellings = (name, name.removeprefix("text_model."), f"text_model.{name}", renamed)
    return next((spelling for spelling in spellings if spelling in expected), name)


def _compare(
    part: Part, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    if missing := expected.keys() - found.keys():
        raise CheckpointInvalid(part.source, f"{part.name} misses tensors {_some(missing)}")
    unknown = {name for name in found.keys() - expected.keys() if _DERIVED_BUFFER not in name}
    if unknown:
        raise CheckpointInvalid(part.source, f"{part.name} has unknown tensors {_some(unknown)}")
    for name, shape in expected.items():
        if found[name] != shape:
            problem = f"{part.name} {name} has shape {list(found[name])}, expected {list(shape)}"
            raise CheckpointInvalid(part.source, problem)


def _some(names: Iterable[str], limit: int = 3) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + rest


def _materialize_buffers(part: Part, module: nn.Module, device: torch.device) -> None:
    """Give the buffers that are computed, never stored, their storage on ``device``."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if not buffer.is_meta:
                continue
            if name != _DERIVED_BUFFER:
                raise CheckpointInvalid(part.source, f"{part.name} stores no buffer {name}")
            owner.register_buffer(
                name, torch.arange(buffer.shape[-1], device=device)[None], persistent=False
            )
