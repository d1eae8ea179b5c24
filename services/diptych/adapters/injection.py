"""Gives a network a bank: every linear map and convolution learns to serve unlike rows.

Modules keep their names, parameters and identity; only their class changes, so state dicts,
fingerprints and whoever holds a reference see what they saw before.
"""

from collections.abc import Collection, Iterator

import torch
from torch import nn

from diptych.adapters.bank import Bank, layer_width
from diptych.adapters.batched import AdaptedConv2d, AdaptedLinear
from diptych.kernels.low_rank import AddLowRank, Window, add_low_rank

__all__ = ["inject", "line_bytes"]


def inject(
    network: nn.Module,
    *,
    num_lines: int,
    fixed_shapes: bool | None = None,
    targets: Collection[str] | None = None,
) -> Bank:
    """Wrap the layers of ``network`` and return the bank they read from now on.

    Weights are neither copied nor changed; move the network to its device and dtype before. A
    network has one bank: another call takes it from the bank before.

    Args:
        network: A UNet or a text encoder.
        num_lines: Lines to hold, of which the first is never used: one per rank of each set, one
            more for a set with DoRA. See ``line_bytes`` for what that takes.
        fixed_shapes: Whether forwards may be compiled: then nothing but tensors depends on who is
            in a batch. None is on accelerators. Otherwise rows are grouped by rank, which on a
            CPU is faster and keeps a row's result independent of the others to the bit.
        targets: Names of the only layers that adapters may have; None is all.
    """
    layers = list(_layers(network, targets))
    assert layers
    device = layers[0][1].weight.device
    assert isinstance(device, torch.device)
    bank = Bank(
        layers,
        num_lines=num_lines,
        add_low_rank=_kernel(device),
        fixed_shapes=device.type != "cpu" if fixed_shapes is None else fixed_shapes,
    )
    classes = {plain: _adapted_class(plain) for plain in {type(module) for _, module, _ in layers}}
    for name, module, _ in layers:
        module.__class__ = classes[type(module)]  # type: ignore[assignment]
        assert isinstance(module, AdaptedLinear | AdaptedConv2d)
        module.bank, module.layer = bank, bank.layers[name]
    return bank


def line_bytes(network: nn.Module, *, targets: Collection[str] | None = None) -> int:
    """Return what one line of a bank of ``network`` takes on its device."""
    layers = [module for _, module, _ in _layers(network, targets)]
    return sum(layer_width(layer) * layer.weight.element_size() for layer in layers)


def _layers(
    network: nn.Module, targets: Collection[str] | None
) -> Iterator[tuple[str, nn.Linear | nn.Conv2d, Window | None]]:
    """Yield the layers that adapters may have, with how they slide."""
    for name, module in network.named_modules():
        if targets is not None and name not in targets:
            continue
        if isinstance(module, nn.Linear):
            yield name, module, None
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            window = _window(module)
            if window is not None:
                yield name, module, window


def _window(conv: nn.Conv2d) -> Window | None:
    """Return how ``conv`` slides; None if it puts anything but zeros around a picture."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    return Window(
        kernel=_pair(conv.kernel_size),
        stride=_pair(conv.stride),
        padding=_pair(conv.padding),
        dilation=_pair(conv.dilation),
    )


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    vertical, horizontal = sides
    return vertical, horizontal


def _adapted_class(plain: type[nn.Module]) -> type[nn.Module]:
    """Return a class that asks ``plain`` for the frozen layer's output; adapted ones stay."""
    if issubclass(plain, AdaptedLinear | AdaptedConv2d):
        return plain
    adapted = AdaptedLinear if issubclass(plain, nn.Linear) else AdaptedConv2d
    if plain in (nn.Linear, nn.Conv2d):
        return adapted
    return type(f"Adapted{plain.__name__.lstrip('_')}", (adapted, plain), {})


def _kernel(device: torch.device) -> AddLowRank:
    """Return the fastest way to add updates on ``device``."""
    if device.type == "cpu":
        return add_low_rank
    try:
        from diptych.kernels import low_rank_triton  # noqa: PLC0415 - only with an accelerator
    except ImportError:
        return add_low_rank
    return low_rank_triton.add_low_rank
