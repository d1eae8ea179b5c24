"""Scales reach the layers that diffusers' ``set_adapters`` reaches, block by block."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from diptych.adapters.naming import Component, Stage
from diptych.adapters.scales import BlockLayout, check_parts, scale_by_module
from diptych.errors import InvalidRequest
from diptych.inference.trajectory import AdapterUse

TARGETS = ["to_q", "to_out.0", "proj_in", "conv1", "time_emb_proj", "conv"]


def used(scale: float = 1.0, **parts: float) -> AdapterUse:
    named = tuple(sorted((name.replace("__", "."), factor) for name, factor in parts.items()))
    return AdapterUse(digest=f"sha256:{'0' * 64}", name="a", scale=scale, parts=named)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """Return a UNet of several transformers per block with one adapter on layers of all kinds."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        module = UNet2DConditionModel(
            block_out_channels=(8, 16, 16),
            norm_num_groups=4,
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=8,
        )
        module.add_adapter(LoraConfig(r=1, target_modules=TARGETS), "a")
    return module


@pytest.fixture(scope="module")
def layout(unet: UNet2DConditionModel) -> BlockLayout:
    return BlockLayout.from_names(name for name, _ in unet.named_modules())


def diffusers_scales(unet: UNet2DConditionModel, weights: Any) -> dict[str, float]:
    unet.set_adapters(["a"], [weights])
    return {
        name: module.scaling["a"] / (module.lora_alpha["a"] / module.r["a"])
        for name, module in unet.named_modules()
        if isinstance(module, LoraLayer)
    }


CASES: dict[str, tuple[Any, AdapterUse]] = {
    "one number": (0.7, used(0.7)),
    "down": ({"down": 0.9}, used(unet__down=0.9)),
    "mid": ({"mid": 0.3}, used(unet__mid=0.3)),
    "a block": ({"up": {"block_0": 0.6}}, used(unet__up__block_0=0.6)),
    "everything": (
        {"down": 0.9, "mid": 0.2, "up": {"block_0": 0.6, "block_1": [0.4, 0.8, 1.5]}},
        used(
            unet__down=0.9,
            unet__mid=0.2,
            unet__up__block_0=0.6,
            unet__up__block_1__0=0.4,
            unet__up__block_1__1=0.8,
            unet__up__block_1__2=1.5,
        ),
    ),
}


@pytest.mark.parametrize(("weights", "use"), CASES.values(), ids=CASES)
def test_reaches_the_layers_diffusers_reaches(
    unet: UNet2DConditionModel, layout: BlockLayout, weights: Any, use: AdapterUse
) -> None:
    expected = diffusers_scales(unet, weights)
    scale_of = scale_by_module(use, Component.UNET, stage=Stage.BASE, layout=layout)
    assert {name: scale_of(name) for name in expected} == pytest.approx(expected)


def test_parts_multiply_the_scale(layout: BlockLayout) -> None:
    use = used(0.5, base=0.8, unet__mid=0.25)
    scale_of = scale_by_module(use, Component.UNET, stage=Stage.BASE, layout=layout)
    assert scale_of("mid_block.attentions.0.proj_in") == pytest.approx(0.5 * 0.8 * 0.25)


def test_the_most_specific_part_holds(layout: BlockLayout) -> None:
    use = used(unet=0.5, unet__up=0.4, unet__up__block_0=0.3)
    scale_of = scale_by_module(use, Component.UNET, stage=Stage.BASE, layout=layout)
    names = [f"up_blocks.{block}.attentions.1.proj_in" for block in (0, 1)]
    assert [scale_of(name) for name in [*names, "conv_in"]] == [0.3, 0.4, 0.5]


def test_stages_have_factors_of_their_own(layout: BlockLayout) -> None:
    use = used(base=0.8, refiner=0.1)
    scales = [
        scale_by_module(use, Component.UNET, stage=stage, layout=layout)("conv_in")
        for stage in (Stage.BASE, Stage.REFINER)
    ]
    assert scales == [0.8, 0.1]


def test_text_encoders_have_factors_of_their_own(layout: BlockLayout) -> None:
    use = used(0.5, text_encoder=0.2, unet=3.0)
    encoders = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
    scales = [
        scale_by_module(use, encoder, stage=Stage.BASE, layout=layout)("text_model.q_proj")
        for encoder in encoders
    ]
    assert scales == [0.1, 0.5]


@pytest.mark.parametrize(
    "part",
    ["unet__down__block_0", "unet__up__block_1__3", "unet__sideways", "vae", "unet__mid__0"],
)
def test_names_a_part_that_does_not_exist(layout: BlockLayout, part: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_parts(used(**{part: 1.0}), [layout], field="adapters[0].parts")
    assert caught.value.violations[0].field == f"adapters[0].parts.{part.replace('__', '.')}"


def test_accepts_every_part_there_is(layout: BlockLayout) -> None:
    parts = [*layout.parts(), "base", "refiner", "text_encoder", "text_encoder_2"]
    use = used(**{part.replace(".", "__"): 1.0 for part in parts})
    check_parts(use, [layout], field="adapters[0].parts")
