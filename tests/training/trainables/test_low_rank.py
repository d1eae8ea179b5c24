"""Updates learn as a plain loop with diffusers and peft teaches them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from diptych.nano.pair import expert_path
from diptych.training.spec import AdapterSpec
from diptych.training.trainables.layers import LayerPlan
from diptych.training.trainables.low_rank import (
    LowRankOptions,
    add_low_rank,
    low_ranks_of,
    merged_weights,
)
from support.trained import Batch, batch_of, load
from support.trained_jobs import job

PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]


def plain_unet(method: str) -> UNet2DConditionModel:
    """Return what a user's script trains: diffusers' model and, unless all of it is, peft's."""
    unet = UNet2DConditionModel.from_pretrained(expert_path("base-single") / "unet").float()
    if method != "full":
        unet.requires_grad_(requires_grad=False)
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules=PROJECTIONS, use_dora=method == "dora"
        )
        unet.add_adapter(config)
    return unet


def plain_prediction(unet: UNet2DConditionModel, batch: Batch) -> Tensor:
    noisy, t, told = batch
    added = {"text_embeds": told.pooled, "time_ids": told.time_ids}
    predicted: Tensor = unet(noisy, t, told.prompt_embeds, added_cond_kwargs=added).sample
    return predicted


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_gradients_and_a_step_are_those_of_a_plain_loop(method: Any, tmp_path: Path) -> None:
    adapter = AdapterSpec(rank=4, alpha=8.0) if method != "full" else AdapterSpec()
    trained = load(job(method=method, adapter=adapter), tmp_path)
    theirs = plain_unet(method)
    found = {name: one for name, one in theirs.named_parameters() if one.requires_grad}
    generator = torch.Generator().manual_seed(5)
    state = trained.state()
    if method != "full":  # from factors that are not zero, so that all of them have gradients
        for name in state:
            if "lora_" in name and "magnitude" not in name:
                state[name] = 0.1 * torch.randn(state[name].shape, generator=generator)
        trained.load_state(state)
    assert {f"unet.{name}" for name in found} == state.keys()
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(state[f"unet.{name}"])
    ours = {name: one for name, one in trained.network.named_parameters() if one.requires_grad}
    optimizers = [torch.optim.AdamW(own.values(), lr=1e-4) for own in (ours, found)]
    batch = batch_of()
    for predicted in (trained.predict(*batch), plain_prediction(theirs, batch)):
        torch.autograd.backward((predicted - 1.0).square().mean())
    for name, parameter in found.items():
        assert parameter.grad is not None
        torch.testing.assert_close(ours[f"unet.{name}"].grad, parameter.grad, rtol=0, atol=1e-6)
    for optimizer in optimizers:
        optimizer.step()
    for name, parameter in found.items():
        # Adam's first step is the gradient's sign: nothing is that of a gradient near zero.
        is_clear = parameter.grad.abs() > 1e-6
        difference = (ours[f"unet.{name}"] - parameter).abs()[is_clear]
        assert difference.numel() == 0 or difference.max() <= 1e-6


def network() -> nn.Sequential:
    """Return a linear layer and a convolution, frozen."""
    layers = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(5, 4, 3, padding=1))
    return layers.requires_grad_(requires_grad=False)


def randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for one in network.parameters():
        if one.requires_grad:
            nn.init.normal_(one, generator=generator)


PLANS = {"0": LayerPlan(rank=2, alpha=3.0), "1": LayerPlan(rank=4, alpha=3.0)}


def test_rank_stabilised_scales_become_alphas() -> None:
    made = network()
    add_low_rank(made, PLANS, LowRankOptions(rank_stabilised=True))
    scales = {name: own.scale for name, own in low_ranks_of(made).items()}
    assert scales == pytest.approx({"0": 3.0 / 2**0.5, "1": 3.0 / 4**0.5})


def test_merged_weights_do_what_the_updates_do() -> None:
    made, plain = network(), network()
    add_low_rank(made, PLANS, LowRankOptions())
    randomise(made)
    plain.load_state_dict({name: get() for name, get in merged_weights(made).items()})
    x, pixels = torch.randn(3, 6), torch.randn(1, 5, 7, 7)
    torch.testing.assert_close(plain[0](x), made[0](x))
    torch.testing.assert_close(plain[1](pixels), made[1](pixels))


def test_what_it_starts_from_comes_out_again_to_the_bit() -> None:
    first, second = network(), network()
    add_low_rank(first, PLANS, LowRankOptions(dora=True, rank_stabilised=True))
    randomise(first)
    own = low_ranks_of(first)
    plans = {n: LayerPlan(rank=one.rank, alpha=one.alpha, start=one) for n, one in own.items()}
    add_low_rank(second, plans, LowRankOptions(dora=True))
    for name, one in low_ranks_of(second).items():
        assert one.alpha == own[name].alpha
        assert torch.equal(one.down, own[name].down)
        assert torch.equal(one.up, own[name].up)
        assert one.magnitude is not None
        assert torch.equal(one.magnitude.norms, own[name].magnitude.norms)  # type: ignore[union-attr]


def test_norms_begin_as_the_weights_norms_in_float32_where_weights_are_half() -> None:
    made = network().bfloat16()
    weight = made[0].get_parameter("weight").float()
    add_low_rank(made, PLANS, LowRankOptions(dora=True))
    magnitude = low_ranks_of(made)["0"].magnitude
    assert magnitude is not None
    assert torch.equal(magnitude.norms, torch.linalg.norm(weight, dim=1))


def test_half_precision_computes_in_half_from_float32_factors() -> None:
    made = network().bfloat16()
    add_low_rank(made, PLANS, LowRankOptions())
    randomise(made)
    own = low_ranks_of(made)["0"]
    x = torch.randn(3, 6).bfloat16()
    hidden = nn.functional.linear(x, own.down.bfloat16())
    update = hidden.double() @ own.up.bfloat16().double().T * own.scale
    exact = made[0].get_base_layer().double()(x.double()) + update  # type: ignore[operator]
    made[0].get_base_layer().bfloat16()  # type: ignore[operator]
    found = made[0](x)
    assert found.dtype is torch.bfloat16
    # Rounded where the layer's own output is and where the update is added to it.
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-7)


def test_dropout_drops_only_what_the_update_sees() -> None:
    made = network()
    add_low_rank(made, PLANS, LowRankOptions(dropout=0.5))
    randomise(made)
    x = torch.randn(64, 6)
    assert torch.equal(made.eval()[0](x), made[0](x))
    assert not torch.equal(made.train()[0](x), made[0](x))
