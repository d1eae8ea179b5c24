"""Whether a picture depends on its neighbours: many unlike requests at once, and each alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.bench.recipes import Recipe
from diptych.bench.serving import paint_all
from diptych.clients.inference import InferenceClient

__all__ = ["MAX_DIFFERENCE", "Independence", "compare_alone"]

MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Independence:
    """The largest absolute difference of latents, request by request."""

    differences: tuple[float, ...]

    @property
    def largest(self) -> float:
        """Return the difference of the request that differs most."""
        return max(self.differences)

    @property
    def holds(self) -> bool:
        """Whether every request is within what is promised."""
        return self.largest <= MAX_DIFFERENCE


def compare_alone(client: InferenceClient, recipes: Sequence[Recipe]) -> Independence:
    """Paint all recipes at once, then one after another, and compare their latents."""
    together = paint_all(client, recipes, output="latents")
    differences = []
    for recipe, pictures in zip(recipes, together, strict=True):
        alone = client.generate_images(recipe.call("latents"))
        pairs = [(one.latents, other.latents) for one, other in zip(pictures, alone, strict=True)]
        differences.append(
            max(float(np.abs(a - b).max()) for a, b in pairs if a is not None and b is not None)
        )
    return Independence(differences=tuple(differences))
