"""Every module has one name in each spelling, the one that others give it, and comes back."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from diptych.adapters.adapter import Component, Target
from diptych.adapters.keymap import (
    NANO_LAYOUT,
    REFINER_LAYOUT,
    SDXL_LAYOUT,
    BlockLayout,
    Style,
    find_layout,
    is_kohya_name,
    kernel_size,
    name_of,
    reads_like_refiner,
    target_of,
)

NUMBER = st.integers(0, 99)
RESNET = ("conv1", "conv2", "time_emb_proj", "conv_shortcut")
PROJECTIONS = ("proj_in", "proj_out")
TRANSFORMER = (
    *(f"attn{i}.to_{part}" for i in (1, 2) for part in ("q", "k", "v", "out.0")),
    *("ff.net.0.proj", "ff.net.2"),
)
SINGLES = (
    *("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"),
    *("add_embedding.linear_1", "add_embedding.linear_2"),
)
ENCODER = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
SGM_RESNET = ("in_layers.2", "out_layers.3", "emb_layers.1", "skip_connection")
SGM_SINGLES = (
    *("input_blocks.0.0", "out.2", "time_embed.0", "time_embed.2"),
    *("label_emb.0.0", "label_emb.0.2"),
)
STYLES: tuple[Style, ...] = ("diffusers", "sgm")
KINDS = ("weight", "bias")
TINY: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "attention_head_dim": 8,
    "cross_attention_dim": 8,
    "norm_num_groups": 8,
    "projection_class_embeddings_input_dim": 8,
    "use_linear_projection": True,
}
BASE_BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
REFINER_BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 16, 32, 32),
    "down_block_types": (
        *("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
}
WITHOUT_MIDDLE_ATTENTION: dict[str, Any] = {"mid_block_type": "UNetMidBlock2D"}
BUILDS: Mapping[str, tuple[dict[str, Any], BlockLayout]] = {
    "sdxl-base": (BASE_BLOCKS | {"transformer_layers_per_block": (1, 2, 10)}, SDXL_LAYOUT),
    "ssd-1b": (
        BASE_BLOCKS
        | WITHOUT_MIDDLE_ATTENTION
        | {
            "transformer_layers_per_block": (1, 2, 4),
            "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
        },
        SDXL_LAYOUT,
    ),
    "segmind-vega": (
        BASE_BLOCKS | WITHOUT_MIDDLE_ATTENTION | {"transformer_layers_per_block": (1, 1, 2)},
        SDXL_LAYOUT,
    ),
    "sdxl-refiner": (REFINER_BLOCKS, REFINER_LAYOUT),
    "nano": (BASE_BLOCKS | {"layers_per_block": 1}, NANO_LAYOUT),
}


def targets_of(component: Component, network: nn.Module) -> list[Target]:
    weighted = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [Target(component=component, module=name) for name in weighted]


@cache
def unet_targets(family: str) -> tuple[list[Target], BlockLayout, UNet2DConditionModel]:
    blocks, layout = BUILDS[family]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**TINY | blocks)
    return targets_of(Component.UNET, unet), layout, unet


@st.composite
def unet_modules(draw: st.DrawFn, num_layers: int) -> str:
    direction = draw(st.sampled_from(["down", "up", "mid", "sampler", "single"]))
    if direction == "single":
        return draw(st.sampled_from(SINGLES))
    block = draw(st.integers(0, 9))
    if direction == "sampler":
        way = draw(st.sampled_from(["down", "up"]))
        return f"{way}_blocks.{block}.{way}samplers.0.conv"
    is_attention = draw(st.booleans())
    if direction == "mid":
        where, layer = "mid_block", draw(st.integers(0, 0 if is_attention else 1))
    else:
        where = f"{direction}_blocks.{block}"
        layer = draw(st.integers(0, num_layers - (direction == "down")))
    if not is_attention:
        return f"{where}.resnets.{layer}.{draw(st.sampled_from(RESNET))}"
    depth = f"transformer_blocks.{draw(NUMBER)}.{draw(st.sampled_from(TRANSFORMER))}"
    return f"{where}.attentions.{layer}.{draw(st.sampled_from([*PROJECTIONS, depth]))}"


@st.composite
def layouts(draw: st.DrawFn) -> BlockLayout:
    return BlockLayout(
        layers_per_block=draw(st.integers(1, 4)),
        plain_up_blocks=draw(st.frozensets(st.integers(0, 9))),
    )


@given(st.data(), layouts(), st.sampled_from(["diffusers", "sgm"]))
def test_every_unet_module_comes_back(
    data: st.DataObject, layout: BlockLayout, style: Style
) -> None:
    module = data.draw(unet_modules(layout.layers_per_block))
    target = Target(component=Component.UNET, module=module)
    name = name_of(target, style=style, layout=layout)
    assert name is not None
    assert target_of(name, layout=layout) == target


@given(
    st.sampled_from([Component.TEXT_ENCODER, Component.TEXT_ENCODER_2]),
    NUMBER,
    st.sampled_from([*ENCODER, "mlp.fc1", "mlp.fc2"]),
)
def test_every_encoder_module_comes_back(part: Component, layer: int, leaf: str) -> None:
    target = Target(component=part, module=f"text_model.encoder.layers.{layer}.{leaf}")
    assert target_of(name_of(target) or "") == target


@given(st.text(alphabet="abdeiklmnoprstuv_0123456789.", max_size=60))
def test_a_name_means_at_most_one_module_and_that_module_it(text: str) -> None:
    target = target_of(f"lora_unet_{text}")
    assert target is None or target_of(name_of(target) or "") == target


@pytest.mark.parametrize("family", BUILDS)
def test_sgm_names_are_those_that_diffusers_converts(family: str) -> None:
    targets, layout, unet = unet_targets(family)
    names = [name_of(target, style="sgm", layout=layout) or "" for target in targets]
    paths = [f"{dotted_sgm_paths()[name]}.{kind}" for name in names for kind in KINDS]
    theirs = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{path}": path for path in paths}, unet.config
    )
    ours = [f"{target.module}.{kind}" for target in targets for kind in KINDS]
    assert [theirs.get(key) for key in ours] == paths


@cache
def dotted_sgm_paths() -> Mapping[str, str]:
    """Return all of sgm's paths, joined by dots, by the name that they have in a file."""
    depth = [f"transformer_blocks.{i}.{leaf}" for i in range(10) for leaf in TRANSFORMER]
    attention, resnet = (*PROJECTIONS, *depth), SGM_RESNET
    ends = ["0.op", "1.conv", "2.conv", *(f"0.{leaf}" for leaf in resnet)]
    ends += [f"1.{leaf}" for leaf in attention]
    rows = [f"{row}put_blocks.{i}" for row in ("in", "out") for i in range(12)]
    paths = [f"{row}.{end}" for row in rows for end in ends] + list(SGM_SINGLES)
    paths += [f"middle_block.{part}.{leaf}" for part in (0, 2) for leaf in resnet]
    paths += [f"middle_block.1.{leaf}" for leaf in attention]
    return {f"lora_unet_{path.replace('.', '_')}": path for path in paths}


@pytest.mark.parametrize("family", BUILDS)
def test_names_whole_unets_without_clashes(family: str) -> None:
    targets, layout, _ = unet_targets(family)
    names = [name_of(target, style=style, layout=layout) for target in targets for style in STYLES]
    assert None not in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", BUILDS)
def test_finds_the_layout_in_the_names(family: str) -> None:
    targets, layout, _ = unet_targets(family)
    names = [name_of(target, style="sgm", layout=layout) or "" for target in targets]
    found = find_layout(names)
    assert found is not None
    assert found.layers_per_block == layout.layers_per_block


@pytest.mark.parametrize("family", BUILDS)
def test_tells_a_refiner_by_its_modules(family: str) -> None:
    modules = [target.module for target in unet_targets(family)[0]]
    assert reads_like_refiner(modules) == (family == "sdxl-refiner")


def test_is_not_misled_by_stable_diffusion_1() -> None:
    blocks = ["down_blocks.0", "up_blocks.1", "up_blocks.2", "up_blocks.3"]
    assert not reads_like_refiner([f"{block}.attentions.0.proj_in" for block in blocks])


def test_names_that_fit_no_layout_have_none() -> None:
    op, layer = "lora_unet_input_blocks_3_0_op", "lora_unet_input_blocks_3_0_in_layers_2"
    assert find_layout([op, layer]) is None


def test_names_that_do_not_tell_are_sdxls() -> None:
    assert find_layout(["lora_unet_output_blocks_0_0_in_layers_2"]) == SDXL_LAYOUT


@pytest.mark.parametrize("family", BUILDS)
def test_knows_the_kernel_of_every_module(family: str) -> None:
    unet = unet_targets(family)[2]
    kernels = {
        name: module.kernel_size[0] if isinstance(module, nn.Conv2d) else None
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    assert {name: kernel_size(name) for name in kernels} == kernels


def test_names_every_module_of_the_nano_encoders(nano_pair: Path) -> None:
    encoders = {
        Component.TEXT_ENCODER: CLIPTextModel.from_pretrained(nano_pair / "base/text_encoder"),
        Component.TEXT_ENCODER_2: CLIPTextModelWithProjection.from_pretrained(
            nano_pair / "base/text_encoder_2"
        ),
    }
    found = [target for part, encoder in encoders.items() for target in targets_of(part, encoder)]
    whole = [
        Target(component=target.component, module=f"text_model.{target.module}")
        if target.module.startswith("encoder.")
        else target
        for target in found
    ]
    assert [target_of(name_of(target) or "") for target in whole] == whole


@pytest.mark.parametrize(
    ("name", "component", "module"),
    [
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            "unet",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        (
            "lora_unet_output_blocks_2_1_transformer_blocks_9_ff_net_0_proj",
            "unet",
            "up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj",
        ),
        ("lora_unet_middle_block_2_emb_layers_1", "unet", "mid_block.resnets.1.time_emb_proj"),
        ("lora_unet_output_blocks_5_2_conv", "unet", "up_blocks.1.upsamplers.0.conv"),
        ("lora_unet_output_blocks_2_1_conv", "unet", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_label_emb_0_2", "unet", "add_embedding.linear_2"),
        (
            "lora_te1_text_model_encoder_layers_11_mlp_fc2",
            "text_encoder",
            "text_model.encoder.layers.11.mlp.fc2",
        ),
        (
            "lora_te1_encoder_layers_3_self_attn_q_proj",
            "text_encoder",
            "text_model.encoder.layers.3.self_attn.q_proj",
        ),
        ("lora_te2_text_projection", "text_encoder_2", "text_projection"),
        ("lycoris_down_blocks_1_resnets_0_conv1", "unet", "down_blocks.1.resnets.0.conv1"),
        (
            "diffusion_model.input_blocks.7.1.proj_in",
            "unet",
            "down_blocks.2.attentions.0.proj_in",
        ),
        ("output_blocks.3.0.skip_connection", "unet", "up_blocks.1.resnets.0.conv_shortcut"),
        (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.31.self_attn.k_proj",
            "text_encoder_2",
            "text_model.encoder.layers.31.self_attn.k_proj",
        ),
        ("lora_unet_mid_block_attentions_0_proj_out", "unet", "mid_block.attentions.0.proj_out"),
    ],
)
def test_knows_what_programs_write(name: str, component: str, module: str) -> None:
    assert is_kohya_name(name)
    assert target_of(name) == Target(component=Component(component), module=module)


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_proj",
        "lora_unet_input_blocks_3_0_in_layers_2",
        "lora_unet_input_blocks_4_0_op",
        "lora_unet_output_blocks_3_2_conv",
        "lora_unet_output_blocks_4_2_proj_in",
        "lora_unet_input_blocks_0_0_op",
        "lora_unet_down_blocks_01_resnets_0_conv1",
        "lora_unet_down_blocks_1_resnets_0_norm1",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn3_to_q",
        "lora_te1_text_projection",
        "lora_te2_text_model_encoder_layers_0_mlp_fc3",
        "lora_prior_unet_out_2",
        "text_model.encoder.layers.0.mlp.fc1",
        "",
    ],
)
def test_other_names_mean_nothing(name: str) -> None:
    assert target_of(name) is None


@pytest.mark.parametrize(
    "target",
    [
        Target(component=Component.REFINER_UNET, module="conv_in"),
        Target(component=Component.UNET, module="down_blocks.0.norm"),
        Target(component=Component.TEXT_ENCODER, module="embeddings.token_embedding"),
    ],
)
def test_other_modules_have_no_name(target: Target) -> None:
    assert name_of(target) is None


def test_a_layer_beyond_the_layout_has_no_sgm_name() -> None:
    target = Target(component=Component.UNET, module="down_blocks.1.resnets.1.conv1")
    assert name_of(target, style="sgm", layout=NANO_LAYOUT) is None


def test_the_only_encoder_is_who_the_caller_says() -> None:
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    parts = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
    targets = [target_of(name, sole_encoder=part) for part in parts]
    assert [target and target.component for target in targets] == list(parts)
