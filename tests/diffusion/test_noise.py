"""An image's noise depends on its seed and on nothing else, and is what diffusers draws."""

import torch
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given
from hypothesis import strategies as st

from diptych.diffusion.noise import RowNoise

SHAPE = (4, 6, 10)


def test_equals_diffusers_with_a_generator_per_image() -> None:
    generators = [torch.Generator().manual_seed(7 + i) for i in range(3)]
    theirs = [randn_tensor((3, *SHAPE), generator=generators) for _ in range(4)]
    rows = [RowNoise(7 + i) for i in range(3)]
    ours = [torch.stack([row.draw(SHAPE) for row in rows]) for _ in range(4)]
    assert torch.equal(torch.stack(ours), torch.stack(theirs))


@given(seed=st.integers(0, 2**64 - 1), count=st.integers(0, 5))
def test_skipping_is_drawing_unseen(seed: int, count: int) -> None:
    drawn, skipped = RowNoise(seed), RowNoise(seed)
    for _ in range(count):
        drawn.draw(SHAPE)
    skipped.skip(count, SHAPE)
    assert torch.equal(drawn.draw(SHAPE), skipped.draw(SHAPE))


def test_counts_what_was_drawn_and_skipped() -> None:
    noise = RowNoise(1)
    noise.draw(SHAPE)
    noise.skip(3, SHAPE)
    assert noise.draws == 4


def test_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    RowNoise(3).draw(SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
