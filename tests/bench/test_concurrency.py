"""A request's latents do not depend on its neighbours."""

from dataclasses import replace

from diptych.bench.concurrency import Independence, compare_alone
from diptych.bench.recipes import mixed_recipes
from diptych.bench.serving import Serving

FEWEST_STEPS = {"heun": 12}
"""From zero SNR, Heun's long first step magnifies rounding about a hundredfold."""


def test_24_unlike_requests_at_once_equal_each_alone(server: Serving) -> None:
    recipes = [
        replace(recipe, num_steps=FEWEST_STEPS.get(recipe.solver, 4) + index % 5)
        for index, recipe in enumerate(mixed_recipes(24, seed=2))
    ]
    found = compare_alone(server.client, recipes)
    assert len(found.differences) == 24
    assert found.holds, found


def test_one_request_that_differs_is_enough_to_fail() -> None:
    assert not Independence(differences=(0.0, 2e-4, 0.0)).holds
