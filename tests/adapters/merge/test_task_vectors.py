"""Updates are what PEFT and ComfyUI add to the weights, in float64."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional

from diptych.adapters.adapter import LowRank, Magnitude, Target
from diptych.adapters.merge.task_vectors import (
    Factors,
    dense_update,
    factors_of,
    with_signs_settled,
)
from support.updates import FIRST, KERNEL, update, weight_of


def flipped(low_rank: LowRank) -> LowRank:
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])
    down = low_rank.down * signs.view(-1, *[1] * (low_rank.down.ndim - 1))
    return replace(low_rank, down=down, up=low_rank.up * signs)


@pytest.mark.parametrize("target", [FIRST, KERNEL])
def test_a_plain_update_is_the_scaled_product(target: Target) -> None:
    low_rank = update(target, 1)
    expected = 0.5 * (low_rank.up.double() @ low_rank.down.double().flatten(1))
    assert torch.allclose(dense_update(low_rank, factors_of(low_rank)), expected, rtol=1e-14)


def test_factors_with_other_signs_are_the_same_factors() -> None:
    low_rank = update(FIRST, 1)
    one, other = factors_of(low_rank), factors_of(flipped(low_rank))
    assert torch.equal(one.up, other.up)
    assert torch.equal(one.down, other.down)


def test_settling_signs_leaves_a_row_of_zeros_alone() -> None:
    factors = Factors(up=torch.ones(3, 1), down=torch.zeros(1, 2))
    assert torch.equal(with_signs_settled(factors).up, factors.up)


def test_a_dora_over_outputs_adds_what_peft_adds() -> None:
    low_rank = update(FIRST, 2, side="out")
    weight = weight_of(FIRST)
    found = dense_update(low_rank, factors_of(low_rank), weight)
    inputs = torch.eye(weight.shape[1])
    assert torch.allclose(
        peft_output(low_rank, weight, inputs).T - weight, found.float(), atol=1e-5
    )


def peft_output(low_rank: LowRank, weight: Tensor, inputs: Tensor) -> Tensor:
    model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    model[0].weight.data = weight.clone()
    config = LoraConfig(
        r=low_rank.rank, lora_alpha=int(low_rank.alpha), target_modules=["0"], use_dora=True
    )
    layer = inject_adapter_in_model(config, model)[0]  # type: ignore[index]
    assert low_rank.magnitude is not None
    layer.lora_A["default"].weight.data = low_rank.down
    layer.lora_B["default"].weight.data = low_rank.up
    layer.lora_magnitude_vector["default"].weight.data = low_rank.magnitude.norms
    with torch.no_grad():
        output: Tensor = layer(inputs)
    return output


@pytest.mark.parametrize("side", ["out", "in"])
@pytest.mark.parametrize("target", [FIRST, KERNEL])
def test_a_doras_weight_has_the_norms_it_learned(target: Target, side: str) -> None:
    low_rank, weight = update(target, 3, side=side), weight_of(target)
    changed = weight.double() + dense_update(low_rank, factors_of(low_rank), weight).view(
        weight.shape
    )
    axis = 1 if side == "in" else 0
    norms = changed.transpose(0, axis).flatten(1).norm(dim=1)
    assert low_rank.magnitude is not None
    assert torch.allclose(norms, low_rank.magnitude.norms.double())


def test_a_dora_turns_the_weight_as_the_plain_update_does() -> None:
    low_rank, weight = update(FIRST, 3, side="out"), weight_of(FIRST).double()
    factors = factors_of(low_rank)
    plain = weight + dense_update(replace(low_rank, magnitude=None), factors)
    turned = weight + dense_update(low_rank, factors, weight)
    assert torch.allclose(functional.normalize(plain), functional.normalize(turned))


def test_a_weight_of_zeros_has_no_direction_to_scale() -> None:
    low_rank = replace(
        update(FIRST, 1),
        up=torch.zeros(24, 4),
        magnitude=Magnitude(norms=torch.ones(24), per_input=False),
    )
    found = dense_update(low_rank, factors_of(low_rank), torch.zeros(24, 16))
    assert torch.equal(found, torch.zeros(24, 16, dtype=torch.float64))
