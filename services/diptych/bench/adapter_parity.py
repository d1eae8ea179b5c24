"""Whether unlike sets of adapters in one batch paint what each would alone, in diffusers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.bench.adapted_reference import AdaptedReference
from diptych.bench.adapter_makers import of_base
from diptych.bench.adapter_sets import SETS, AdapterSet, files_of, recipes_for
from diptych.bench.recipes import Recipe
from diptych.bench.reference import Reference
from diptych.bench.serving import Serving, paint_calls
from diptych.bench.ticks import Tick
from diptych.clients.adapter_values import ImportCall

__all__ = ["MAX_ADAPTED_DIFFERENCE", "AdaptedParity", "AdapterParity", "compare_adapters"]

MAX_ADAPTED_DIFFERENCE: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedParity:
    """One set of adapters."""

    title: str
    against: str
    """diffusers, or float64 weights."""
    difference: float
    """Largest absolute difference of the final latents."""
    effect: float
    """The same between the picture with these adapters and without any."""

    @property
    def holds(self) -> bool:
        """Whether it is within what is promised."""
        return self.difference <= MAX_ADAPTED_DIFFERENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterParity:
    """All sets, painted at once."""

    sets: tuple[AdaptedParity, ...]
    num_steps: int
    largest_tick: Tick
    """The tick that held most unlike sets, as the engine reported it."""

    @property
    def holds(self) -> bool:
        """Whether every set is near, and all of them were in one batch."""
        met = self.largest_tick.num_adapter_sets == len(self.sets)
        return met and all(one.holds for one in self.sets)


def compare_adapters(
    server: Serving,
    reference: Reference,
    *,
    sets: Sequence[AdapterSet] = SETS,
    num_steps: int = 12,
    progress: Callable[[], None] = lambda: None,
) -> AdapterParity:
    """Import every adapter's file, paint all sets at once, and each alone with diffusers.

    The server paints them twice; the second time all adapters are on the device.

    Args:
        server: Serves nobody else.
        reference: Over the same checkpoints.
        sets: One per request.
        num_steps: Of each request.
        progress: Called after every picture of the reference.
    """
    files = files_of(of_base(server.experts))
    for name in dict.fromkeys(use.name for one in sets for use in one.uses):
        server.adapters.import_adapter(
            ImportCall(
                name=name,
                source=files[name].imported,
                family="nano",
                stage=str(files[name].adapter.made_for.stage),
            )
        )
    recipes = recipes_for(len(sets), num_steps=num_steps)
    _paint(server, recipes, sets)
    server.ticks.clear()
    ours = _paint(server, recipes, sets)
    largest_tick = max(server.ticks.seen(), key=lambda tick: tick.num_adapter_sets)
    plain = _paint(server, recipes, [AdapterSet(title="none")] * len(sets))
    found = []
    with TemporaryDirectory(prefix="diptych-bench-") as folder:
        theirs = AdaptedReference(pristine=reference, files=files, folder=Path(folder))
        for recipe, one, own, without in zip(recipes, sets, ours, plain, strict=True):
            expected = theirs.latents(recipe, one)[0]
            found.append(
                AdaptedParity(
                    title=one.title,
                    against="float64 weights" if one.in_weights else "diffusers",
                    difference=float(np.abs(own - expected).max()),
                    effect=float(np.abs(own - without).max()),
                )
            )
            progress()
    return AdapterParity(sets=tuple(found), num_steps=num_steps, largest_tick=largest_tick)


def _paint(
    server: Serving, recipes: Sequence[Recipe], sets: Sequence[AdapterSet]
) -> list[NDArray[np.float32]]:
    """Ask for all at once and return latents [4, h, w]."""
    calls = [
        replace(recipe.call("latents"), adapters=[use.choice() for use in one.uses])
        for recipe, one in zip(recipes, sets, strict=True)
    ]
    found = [pictures[0].latents for pictures in paint_calls(server.client, calls)]
    return [latents for latents in found if latents is not None]
