"""A network that shows one source of a zip, all of them merged, or none."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from diptych.adapters.merge.zipping import Columns

__all__ = ["MERGED", "Blend"]

MERGED: Final = -1
"""Instead of a source's position: all of them, with their coefficients."""


class Blend:
    """Adds updates to the outputs of a network's layers; one thread at a time.

    Its hooks stay for as long as the network does, and do nothing outside ``showing``.
    """

    def __init__(self, network: nn.Module, columns: Mapping[str, Columns]) -> None:
        """Hook onto ``network``.

        Args:
            network: Owned by the caller alone.
            columns: By the name of the layer that they change.
        """
        self._shown: int | None = None
        for name, own in columns.items():
            layer = network.get_submodule(name)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            layer.register_forward_hook(self._hook(own))

    @contextmanager
    def showing(self, what: int | None) -> Iterator[None]:
        """Let the network show a source by its position, ``MERGED``, or, with None, neither."""
        self._shown = what
        try:
            yield
        finally:
            self._shown = None

    def _hook(self, columns: Columns) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        of_source = {part.position: columns.of_source(part.position) for part in columns.parts}

        def add(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            if self._shown is None:
                return output
            if self._shown == MERGED:
                return output + _product(layer, args[0], columns.ups, columns.merged_down())
            found = of_source.get(self._shown)
            return output if found is None else output + _product(layer, args[0], *found)

        return add


def _product(layer: nn.Module, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return what factors [out, R] and [R, in, ...] make of a layer's input."""
    up, down = up.to(x.dtype), down.to(x.dtype)
    if isinstance(layer, nn.Linear):
        return functional.linear(functional.linear(x, down.flatten(1)), up)
    assert isinstance(layer, nn.Conv2d)
    kernel = down if down.ndim == 4 else down[:, :, None, None]
    assert not isinstance(layer.padding, str)
    seen = functional.conv2d(
        x, kernel, stride=layer.stride, padding=layer.padding, dilation=layer.dilation
    )
    return functional.conv2d(seen, up[:, :, None, None])
