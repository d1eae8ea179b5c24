"""Recipes say the same to both sides and can be drawn again."""

from dataclasses import replace

import pytest

from diptych.bench.recipes import SEED_RECIPE, mixed_recipes, single_recipe


def test_mixed_recipes_are_the_same_for_the_same_seed() -> None:
    assert mixed_recipes(8, seed=3) == mixed_recipes(8, seed=3)


@pytest.mark.parametrize("field", ["num_steps", "guidance_scale", "solver", "boundary", "seed"])
def test_mixed_recipes_differ_in_everything(field: str) -> None:
    assert len({getattr(recipe, field) for recipe in mixed_recipes(32)}) > 1


def test_the_seed_recipe_is_the_two_pipeline_recipe() -> None:
    recipe = single_recipe()
    settings = (recipe.solver, recipe.num_steps, recipe.boundary)
    assert settings == ("unipc", 40, 0.65)
    assert (recipe.guidance_scale, recipe.guidance_rescale) == (9.2, 0.7)


def test_a_recipe_without_boundary_asks_for_the_base_alone() -> None:
    call = replace(SEED_RECIPE, boundary=None).call("png")
    assert call.base_only
    assert call.refiner is None


def test_the_refiner_is_conditioned_like_the_base_unless_told_otherwise() -> None:
    assert SEED_RECIPE.refiner_stage == SEED_RECIPE.base_stage


def test_a_refiner_prompt_brings_its_own_negative_prompt() -> None:
    recipe = replace(SEED_RECIPE, negative_prompt="blurry", refiner_prompt="a ring")
    assert (recipe.refiner_stage.prompt, recipe.refiner_stage.negative_prompt) == ("a ring", None)


@pytest.mark.parametrize(("solver", "eta"), [("ddim", 0.0), ("tcd", 0.0), ("euler", None)])
def test_eta_is_named_only_for_solvers_that_take_one(solver: str, eta: float | None) -> None:
    assert replace(SEED_RECIPE, solver=solver).call("png").eta == eta
