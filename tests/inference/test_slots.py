"""Batches of slots."""

import numpy as np
import torch

from diptych.diffusion.noise import RowNoise
from diptych.inference.route import Route
from diptych.inference.slots import Slot, gather_noise, gather_state
from diptych.inference.trajectory import Expert


def slot(seed: int, *, needs_noise: bool = False) -> Slot:
    route = Route(
        experts=(Expert.BASE,),
        num_rows=(1,),
        steps=(1,),
        num_steps=1,
        coefficients=np.zeros((1, 1), np.float32),
        needs_noise=(needs_noise,),
        start=(0.0, 1.0),
    )
    batch = torch.full((1, 4, 4, 2, 2), float(seed))
    return Slot(route=route, conditions={}, adapters={}, noise=RowNoise(seed), batch=batch)


def test_rows_that_stay_together_are_not_copied() -> None:
    slots, batch = [slot(0), slot(1)], torch.zeros(2, 4, 4, 2, 2)
    for row, each in enumerate(slots):
        each.commit(batch, row)
    assert gather_state(slots) is batch


def test_rows_from_different_batches_are_stacked_in_order() -> None:
    state = gather_state([slot(1), slot(0)])
    assert state[:, 0, 0, 0, 0].tolist() == [1.0, 0.0]


def test_a_part_of_a_batch_is_no_whole() -> None:
    slots, batch = [slot(0), slot(1)], torch.arange(2.0).view(2, 1, 1, 1, 1).repeat(1, 4, 4, 2, 2)
    for row, each in enumerate(slots):
        each.commit(batch, row)
    assert gather_state(slots[1:])[0, 0, 0, 0, 0] == 1.0


def test_no_noise_is_drawn_where_no_row_needs_it() -> None:
    slots = [slot(0), slot(1)]
    assert gather_noise(slots, [0, 0]) is None
    assert [each.noise.draws for each in slots] == [0, 0]


def test_only_rows_that_need_noise_draw_it() -> None:
    slots = [slot(0), slot(1, needs_noise=True)]
    noise = gather_noise(slots, [0, 0])
    assert noise is not None
    assert [each.noise.draws for each in slots] == [0, 1]
    assert not noise[0].any()


def test_a_tick_that_is_tried_again_gets_the_same_noise() -> None:
    each = slot(5, needs_noise=True)
    first, second = gather_noise([each], [0]), gather_noise([each], [0])
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


def test_a_slot_remembers_its_texts_in_one_unet_at_a_time() -> None:
    image = slot(0)
    first = image.texts(Expert.BASE)
    assert image.texts(Expert.BASE) is first
    assert image.texts(Expert.REFINER) is not first
    assert image.texts(Expert.BASE) is not first
