"""Names of modules decide alone what PEFT would be told to adapt."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.utils.other import get_pattern_key

from diptych.nano.pair import expert_path
from diptych.training.spec import AdapterSpec
from diptych.training.targets import (
    Targets,
    matched_pattern,
    pattern_problem,
    pattern_value,
    slow_pattern,
    target_modules,
    text_modules,
)
from diptych.training.trainables.layers import plan_unet_layers


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """Return nano's network, without its weights."""
    config = UNet2DConditionModel.load_config(expert_path("base") / "unet")
    with torch.device("meta"):
        module: UNet2DConditionModel = UNet2DConditionModel.from_config(config)
    return module


@pytest.mark.parametrize("targets", ["prompt", "attention", "linear", "linear_conv"])
def test_modules_are_those_that_training_adapts(
    unet: UNet2DConditionModel, targets: Targets
) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    found = {name for name, _ in target_modules(shapes, targets)}
    assert found == set(plan_unet_layers(unet, AdapterSpec(targets=targets)))


def test_the_original_layouts_names_mean_the_same() -> None:
    block = "input_blocks.4.1.transformer_blocks.0"
    shapes: dict[str, tuple[int, ...]] = {
        f"{block}.attn1.to_q.weight": (8, 8),
        f"{block}.attn2.to_k.weight": (8, 4),
        f"{block}.attn2.to_out.0.weight": (8, 8),
        f"{block}.ff.net.2.weight": (8, 32),
        f"{block}.norm1.weight": (8,),
        "input_blocks.4.1.proj_in.weight": (8, 8),
        "input_blocks.4.0.in_layers.2.weight": (8, 8, 3, 3),
        "input_blocks.4.0.emb_layers.1.weight": (8, 8),
        "input_blocks.0.0.weight": (8, 4, 3, 3),
        "time_embed.0.weight": (8, 8),
        "label_emb.0.0.weight": (8, 8),
    }
    counts = {targets: len(list(target_modules(shapes, targets))) for targets in TARGETS}
    assert counts == {"prompt": 2, "attention": 3, "linear": 5, "linear_conv": 6}


TARGETS: tuple[Targets, ...] = ("prompt", "attention", "linear", "linear_conv")


def test_text_encoders_have_four_projections_a_layer() -> None:
    layer = "text_model.encoder.layers.0"
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
    shapes: dict[str, tuple[int, ...]] = {
        f"{layer}.{name}.weight": (8, 8) for name in (*names, "mlp.fc1")
    }
    shapes |= {f"{layer}.{name}.bias": (8,) for name in names}
    assert [name for name, _ in text_modules(shapes)] == [f"{layer}.{name}" for name in names]


def test_fused_projections_are_three() -> None:
    attention = "transformer.resblocks.0.attn"
    shapes = {f"{attention}.in_proj_weight": (24, 8), f"{attention}.out_proj.weight": (8, 8)}
    assert [shape for _, shape in text_modules(shapes)] == [(8, 8)] * 4


@pytest.mark.parametrize(
    ("name", "value"), [("a.to_q", 4), ("a.b_to_q", 16), ("down.0.to_k", 8), ("to_k", 16)]
)
def test_patterns_match_the_end_of_a_name(name: str, value: int) -> None:
    assert pattern_value({"to_q": 4, "down.*to_k": 8}, name, 16) == value


def test_patterns_match_names_as_peft_matches_them() -> None:
    patterns = (r"mid_block\..*", "to_q", r"attentions\.\d+\.proj_in", "q", "^down_blocks")
    names = (
        "mid_block.attentions.0.proj_in",
        "up_blocks.1.attentions.2.proj_in",
        "up_blocks.1.attentions.0.to_q",
        "down_blocks.0.attentions.0.to_k",
    )
    for name in names:
        found = matched_pattern(patterns, name)
        assert (name if found is None else found) == get_pattern_key(list(patterns), name)


def test_a_pattern_that_takes_too_long_is_named() -> None:
    names = ["up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_q"]
    endless = r"(?:.|\w){30,}\d{3}"
    assert slow_pattern(["to_q", endless], names, limit_s=0.2) == endless
    assert slow_pattern(["to_q", ".*to_k"], names) is None


def test_a_pattern_that_is_none_is_told_why() -> None:
    assert pattern_problem("to_(q|k)") == ""
    assert "missing )" in pattern_problem("(")
    assert "not at the start" in pattern_problem("(?i)TO_Q"), "PEFT sets something before it"
