"""The measured server is the real one, over loopback."""

from dataclasses import replace

from diptych.bench.recipes import mixed_recipes
from diptych.bench.serving import Serving, paint_all


def test_answers_come_in_the_order_of_the_recipes(server: Serving) -> None:
    recipes = [replace(recipe, num_steps=2, boundary=0.5) for recipe in mixed_recipes(5)]
    painted = paint_all(server.client, recipes)
    assert [pictures[0].seed for pictures in painted] == [recipe.seed for recipe in recipes]


def test_the_engine_can_be_looked_at(server: Serving) -> None:
    assert server.stats().slots_free == server.num_slots


def test_no_recipes_are_no_pictures(server: Serving) -> None:
    assert paint_all(server.client, []) == []
