"""For the same checkpoint, prompt, seed and settings our pictures are diffusers'."""

from dataclasses import replace

import pytest

from diptych.bench.parity import (
    OTHER_SCHEDULES,
    Parity,
    compare,
    compare_refined,
    compare_schedules,
    parity_recipes,
)
from diptych.bench.recipes import SEED_RECIPE, Recipe
from diptych.bench.reference import Reference
from diptych.bench.serving import Serving
from diptych.bench.steps import load_architecture
from diptych.diffusion import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

QUICK = dict(parity_recipes(num_steps=10))


def test_the_seed_recipe_paints_the_same_picture(server: Serving, reference: Reference) -> None:
    found = compare(server.client, reference, "seed recipe", SEED_RECIPE)
    assert found.holds, found


@pytest.mark.parametrize("name", [name for name in QUICK if name != "seed recipe"])
def test_every_variant_paints_the_same_picture(
    server: Serving, reference: Reference, name: str
) -> None:
    found = compare(server.client, reference, name, QUICK[name])
    assert found.holds, found


@pytest.mark.parametrize("solver", ["euler", "ddim", "unipc", "dpmpp_2m_sde"])
@pytest.mark.parametrize("strength", [0.35, 0.8])
def test_a_refined_picture_is_the_same(
    server: Serving, reference: Reference, solver: str, strength: float
) -> None:
    recipe: Recipe = replace(SEED_RECIPE, solver=solver, num_steps=10, boundary=None)
    found = compare_refined(server.client, reference, recipe, strength=strength)
    assert found.holds, found


@pytest.fixture(scope="module")
def elsewhere(reference: Reference) -> dict[str, Parity]:
    experts = load_architecture("nano", random_weights=False, device="cpu")
    found = compare_schedules(experts, reference, num_steps=10)
    return dict(zip(OTHER_SCHEDULES, found, strict=True))


@pytest.mark.parametrize("solver", OTHER_SCHEDULES)
def test_solvers_for_other_schedules_paint_the_same_picture(
    elsewhere: dict[str, Parity], solver: str
) -> None:
    assert elsewhere[solver].holds, elsewhere[solver]


def test_every_solver_is_compared() -> None:
    assert {recipe.solver for recipe in QUICK.values()} | set(OTHER_SCHEDULES) == set(SOLVERS)


@pytest.mark.parametrize(
    ("latents", "pixels", "holds"),
    [(1e-3, 0.999, True), (1.1e-3, 1.0, False), (0.0, 0.99, False)],
)
def test_both_latents_and_pixels_must_be_near(latents: float, pixels: float, holds: bool) -> None:
    found = Parity(name="", latent_difference=latents, equal_pixels=pixels)
    assert found.holds is holds
