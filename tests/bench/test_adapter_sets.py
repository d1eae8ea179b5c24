"""The sets are unlike, of every kind, and their requests can share a tick."""

from diptych.adapters.reading import read_adapter
from diptych.bench.adapter_makers import of_base
from diptych.bench.adapter_sets import SETS, files_of, recipes_for
from diptych.bench.serving import Serving

KINDS = 16


def test_there_are_sixteen_unlike_sets() -> None:
    assert len({one.title for one in SETS}) == KINDS
    assert len({repr(one.uses) for one in SETS}) == KINDS


def test_all_adapters_are_used_and_their_files_can_be_read(server: Serving) -> None:
    files = files_of(of_base(server.experts))
    assert {use.name for one in SETS for use in one.uses} == set(files)
    for name, own in files.items():
        read = read_adapter(own.imported, name=name)
        assert read.targets.keys() == own.adapter.targets.keys()


def test_ranks_go_from_4_to_64(server: Serving) -> None:
    files = files_of(of_base(server.experts))
    ranks = {own.adapter.max_rank for own in files.values() if own.adapter.targets}
    assert (min(ranks), max(ranks)) == (4, 64)


def test_requests_are_alike_in_length() -> None:
    recipes = recipes_for(4, num_steps=6)
    assert {(recipe.num_steps, recipe.boundary) for recipe in recipes} == {(6, 0.5)}
    assert all(recipe.solver != "heun" and "<s0>" in recipe.prompt for recipe in recipes)
