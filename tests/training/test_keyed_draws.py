"""Draws that are named, so that a run may go on from anywhere."""

import torch

from diptych.training.keyed_draws import KeyedDraws

CPU = torch.device("cpu")


def drawn(purpose: str, batch: int, *, seed: int = 1, expert: str = "base") -> torch.Tensor:
    draws = KeyedDraws(seed=seed, expert=expert)
    return torch.rand(4, generator=draws.generator(purpose, batch))


def test_a_draw_does_not_depend_on_those_before_it() -> None:
    first = drawn("noise", 7)
    drawn("noise", 8)
    assert drawn("noise", 7).equal(first)


def test_every_part_of_the_name_changes_the_draw() -> None:
    named = [
        drawn("noise", 7),
        drawn("timesteps", 7),
        drawn("noise", 8),
        drawn("noise", 7, seed=2),
        drawn("noise", 7, expert="refiner"),
    ]
    assert len({tuple(one.tolist()) for one in named}) == len(named)


def test_dropout_follows_from_the_batch() -> None:
    draws = KeyedDraws(seed=1, expert="base")
    found = []
    for batch in (3, 4, 3):
        draws.seed_modules(batch, CPU)
        found.append(torch.nn.functional.dropout(torch.ones(64)))
    assert found[0].equal(found[2])
    assert not found[0].equal(found[1])
