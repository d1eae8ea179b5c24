"""Random experts have the real ones' sizes and finite activations."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from diptych.bench.random_weights import UNET_CONFIGS, fill_randomly


@pytest.mark.parametrize(("expert", "billions"), [("base", 2.567), ("refiner", 2.260)])
def test_a_unet_has_the_published_number_of_parameters(expert: str, billions: float) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNET_CONFIGS[expert])
    assert sum(p.numel() for p in unet.parameters()) / 1e9 == pytest.approx(billions, abs=1e-3)


def filled() -> nn.Module:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8))
    return fill_randomly(module, device=torch.device("cpu"), dtype=torch.bfloat16)


def test_weights_filled_randomly_keep_activations_finite_and_of_order_one() -> None:
    output = filled()(torch.ones(2, 64, dtype=torch.bfloat16))
    assert 0.01 < output.abs().max() < 100


def test_weights_are_the_same_every_time_and_want_no_gradient() -> None:
    first, again = (list(filled().parameters()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(parameter.requires_grad for parameter in first)
