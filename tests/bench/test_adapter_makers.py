"""Made adapters have the sizes and kinds that were asked for, and fit the networks."""

import pytest
import torch

from diptych.adapters.adapter import Component, Target
from diptych.bench.adapter_makers import CONVOLUTIONS, EVERY_LAYER, Made, make, of_base
from diptych.bench.serving import Serving
from diptych.inference.base_weights import BaseWeights, check_shapes

ALL = (Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)


@pytest.fixture(scope="module")
def base(server: Serving) -> BaseWeights:
    return of_base(server.experts)


@pytest.mark.parametrize("layers", [CONVOLUTIONS, EVERY_LAYER])
def test_they_fit_the_networks(base: BaseWeights, layers: str) -> None:
    made = Made(seed=0, rank=3, layers=layers, components=ALL, token="<s0>")
    adapter = make(made, base)
    check_shapes(adapter, base, name="made")
    assert {low_rank.rank for low_rank in adapter.targets.values()} == {3}
    assert adapter.components() == set(ALL)


def test_a_seed_gives_the_same_again(base: BaseWeights) -> None:
    first, second = (make(Made(seed=4, rank=2), base) for _ in range(2))
    assert all(torch.equal(first.targets[t].up, second.targets[t].up) for t in first.targets)


def test_an_update_is_as_large_as_asked_for(base: BaseWeights) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    target = Target(component=Component.UNET, module=name)
    update = make(Made(seed=0, rank=8, alpha=2, strength=0.5), base).targets[target]
    spread = float((update.scale * update.up @ update.down).std())
    assert spread == pytest.approx(0.5 * float(base.weights[Component.UNET][name].std()), rel=0.2)


@pytest.mark.parametrize(("norms", "side"), [("outputs", 0), ("inputs", 1)])
def test_norms_lie_over_the_side_asked_for(base: BaseWeights, norms: str, side: int) -> None:
    adapter = make(Made(seed=0, rank=2, norms=norms), base)
    for update in adapter.targets.values():
        assert update.magnitude is not None
        assert len(update.magnitude.norms) == update.weight_shape[side]
