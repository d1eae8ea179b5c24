"""How strongly one adapter acts on each layer: diffusers' ``set_adapters``, torch-free.

A scale may be one number or differ by block of the UNet. Diffusers' dictionaries name transformers
("attentions"); what else lies in such a block follows from how it looks a layer up: a resnet
takes the factor of the transformer of its number, a sampler that of the first one, and layers
outside such blocks keep 1.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from diptych.adapters.naming import Component, Stage
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["BlockLayout", "Scaled", "check_parts", "scale_by_module"]

_UNET: Final = "unet"
_WHOLE: Final = (
    *(stage.value for stage in (Stage.BASE, Stage.REFINER)),
    Component.TEXT_ENCODER.value,
    Component.TEXT_ENCODER_2.value,
    _UNET,
)
_ATTENTION: Final = re.compile(
    r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.|(mid)_block\.attentions"
)
_NUMBERED: Final = re.compile(r"(down|up)_blocks\.(\d+)\.[a-z]+\.(\d+)\.")


class Scaled(Protocol):
    """A caller's use of an adapter, as ``inference.trajectory.AdapterUse``."""

    @property
    def scale(self) -> float:
        """Return what everything is multiplied by."""

    @property
    def parts(self) -> Sequence[tuple[str, float]]:
        """Return factors by part, such as ``refiner`` or ``unet.up.block_1.0``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLayout:
    """Which blocks of a UNet hold transformers, and how many."""

    transformers: Mapping[str, int]
    """By block as ``down.block_1``, and ``mid``; blocks without are absent."""

    @classmethod
    def from_names(cls, modules: Iterable[str]) -> "BlockLayout":
        """Return the layout of the UNet whose modules have these names."""
        found: dict[str, set[str]] = {}
        for module in modules:
            match = _ATTENTION.match(module)
            if match:
                side, level, number, mid = match.groups()
                found.setdefault(mid or f"{side}.block_{level}", set()).add(number or "0")
        return cls(transformers={block: len(numbers) for block, numbers in sorted(found.items())})

    def parts(self) -> list[str]:
        """Return every part of the UNet that may have a factor of its own."""
        names = [_UNET]
        for block, num_transformers in self.transformers.items():
            names += [f"{_UNET}.{block.split('.')[0]}", f"{_UNET}.{block}"]
            if block != "mid":
                names += [f"{_UNET}.{block}.{number}" for number in range(num_transformers)]
        return list(dict.fromkeys(names))

    def part_of(self, module: str) -> str | None:
        """Return the most specific part that ``module`` is scaled with; None if none is."""
        if module.startswith("mid_block.attentions.") and "mid" in self.transformers:
            return f"{_UNET}.mid"
        match = _NUMBERED.match(module)
        if match is None:
            return None
        side, level, number = match.groups()
        block = f"{side}.block_{level}"
        if int(number) >= self.transformers.get(block, 0):
            return None
        return f"{_UNET}.{block}.{number}"


def check_parts(use: Scaled, layouts: Iterable[BlockLayout], *, field: str) -> None:
    """Check that every part ``use`` names is one of a UNet of ``layouts``, or a whole network.

    Raises:
        InvalidRequest: One is not; its path begins with ``field``.
    """
    known = {*_WHOLE, *(part for layout in layouts for part in layout.parts())}
    unknown = [part for part, _ in use.parts if part not in known]
    if unknown:
        description = f"is no part; there are {', '.join(sorted(known))}"
        raise InvalidRequest(
            [FieldViolation(field=f"{field}.{part}", description=description) for part in unknown]
        )


def scale_by_module(
    use: Scaled, component: Component, *, stage: Stage, layout: BlockLayout
) -> Callable[[str], float]:
    """Return a function from modules of one network to the scale ``use`` has there.

    It is ``use.scale``, times the factor of the stage, times that of the text encoder or of the
    most specific part of the UNet which has one.

    Args:
        use: A caller's use of an adapter.
        component: The network: ``UNET``, whichever expert's, or a text encoder.
        stage: The expert it works for, ``BASE`` or ``REFINER``.
        layout: That expert's UNet.
    """
    factors = dict(use.parts)
    whole = use.scale * factors.get(stage.value, 1.0)
    if component is not Component.UNET:
        constant = whole * factors.get(component.value, 1.0)
        return lambda _module: constant

    def scale_of(module: str) -> float:
        part = layout.part_of(module) or _UNET
        while part not in factors and "." in part:
            part = part.rpartition(".")[0]
        return whole * factors.get(part, 1.0)

    return scale_of
