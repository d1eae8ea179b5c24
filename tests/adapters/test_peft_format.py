"""diffusers' and PEFT's files of every age mean what their trainers computed."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LowRank, Stage, Target
from diptych.adapters.bundle import digest_of
from diptych.adapters.peft_format import METADATA_KEY, read_peft, write_diffusers, write_peft
from diptych.errors import AdapterInvalid
from support.made_adapters import adapters, noise

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "mid_block.resnets.0.conv1"
LAYER = "text_model.encoder.layers.0.self_attn.q_proj"
PARTS = (Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)


def pair(module: str, *, rank: int = 4) -> dict[str, Tensor]:
    """Return a linear layer's update in PEFT's spelling."""
    return {
        f"{module}.lora_A.weight": noise(rank, 5, seed=1),
        f"{module}.lora_B.weight": noise(6, rank, seed=2),
    }


def read(tensors: dict[str, Tensor], **fields: Any) -> Adapter:
    return read_peft(tensors, fields.pop("metadata", {}), source="file", **fields)


def only(adapter: Adapter) -> tuple[Target, LowRank]:
    (item,) = adapter.targets.items()
    return item


@settings(deadline=None)
@given(adapters(components=PARTS, per_input=False, dora=False, tokens=False))
def test_what_is_written_for_diffusers_reads_back_to_the_bit(adapter: Adapter) -> None:
    assert digest_of(read_peft(*write_diffusers(adapter), source="file")) == digest_of(adapter)


@settings(deadline=None)
@given(adapters(components=(Component.REFINER_UNET,), dora=False, tokens=False))
def test_a_refiners_folder_reads_back_to_the_bit(adapter: Adapter) -> None:
    ((component, (tensors, texts, config)),) = write_peft(adapter).items()
    read_again = read_peft(
        tensors, texts, source="file", config=json.loads(config), component=component
    )
    assert digest_of(read_again) == digest_of(adapter)


def test_a_file_without_a_configuration_has_scale_1() -> None:
    target, low_rank = only(read(pair(f"unet.{QUERY}")))
    assert target == Target(component=Component.UNET, module=QUERY)
    assert (low_rank.alpha, low_rank.scale) == (4.0, 1.0)


def test_an_alpha_beside_the_pair_counts() -> None:
    tensors = pair(f"unet.{QUERY}") | {f"unet.{QUERY}.alpha": torch.tensor(2)}
    assert only(read(tensors))[1].scale == 0.5


def test_rank_stabilised_scales_are_brought_to_alpha_over_rank() -> None:
    config = {"unet.r": 4, "unet.lora_alpha": 2, "unet.use_rslora": True}
    found = only(read(pair(f"unet.{QUERY}"), metadata={METADATA_KEY: json.dumps(config)}))[1]
    assert found.scale == pytest.approx(2 / math.sqrt(4))


def test_a_component_that_the_configuration_leaves_out_has_scale_1() -> None:
    config = {"text_encoder.lora_alpha": 2}
    found = only(read(pair(f"unet.{QUERY}"), metadata={METADATA_KEY: json.dumps(config)}))[1]
    assert found.scale == 1.0


def test_a_convolutions_up_loses_its_axes_of_one() -> None:
    tensors = {
        f"unet.{CONV}.lora_A.weight": noise(2, 5, 3, 3),
        f"unet.{CONV}.lora_B.weight": noise(6, 2, 1, 1),
        f"unet.{CONV}.lora_magnitude_vector": torch.ones(1, 6, 1, 1),
    }
    low_rank = only(read(tensors))[1]
    assert low_rank.weight_shape == (6, 5, 3, 3)
    assert low_rank.magnitude is not None
    assert low_rank.magnitude.norms.shape == (6,)


def test_a_linear_layer_saved_as_a_convolution_is_linear() -> None:
    tensors = {
        f"unet.{QUERY}.lora_A.weight": noise(2, 5, 1, 1),
        f"unet.{QUERY}.lora_B.weight": noise(6, 2, 1, 1),
    }
    assert only(read(tensors))[1].weight_shape == (6, 5)


@pytest.mark.parametrize(("last", "kernel"), [("conv1", 3), ("conv_shortcut", 1)])
def test_a_flat_convolution_gets_its_kernel_back(last: str, kernel: int) -> None:
    module = f"mid_block.resnets.0.{last}"
    down = noise(2, 5 * kernel**2)
    tensors = {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": noise(6, 2)}
    assert only(read(tensors))[1].weight_shape == (6, 5, kernel, kernel)


def test_the_model_class_tells_whose_encoder_it_is() -> None:
    config = {"lora_alpha": 4, "auto_mapping": {"base_model_class": "CLIPTextModelWithProjection"}}
    tensors = pair("base_model.model.encoder.layers.0.self_attn.q_proj")
    target, _ = only(read(tensors, config=config))
    assert target == Target(component=Component.TEXT_ENCODER_2, module=LAYER)


def test_what_other_trainers_wrote_in_the_header_is_understood_and_kept() -> None:
    metadata = {"modelspec.architecture": "stable-diffusion-xl-v1-refiner/lora", "format": "pt"}
    found = read(pair(f"unet.{QUERY}"), metadata=metadata)
    assert (found.made_for.family, found.made_for.stage) == ("sdxl-refiner", Stage.REFINER)
    assert dict(found.metadata) == {"modelspec.architecture": metadata["modelspec.architecture"]}


def test_names_the_first_unknown_keys() -> None:
    tensors = pair(f"unet.{QUERY}") | {f"unet.x{index}.bias": noise(2) for index in range(5)}
    with pytest.raises(
        AdapterInvalid, match=r"unknown keys 'unet.x0.bias', .*'unet.x2.bias' and 2"
    ):
        read(tensors)


BAD = {
    "half": ({f"unet.{QUERY}.lora_A.weight": noise(2, 5)}, {}, "to_q has no lora_B"),
    "other half": ({f"unet.{QUERY}.lora_B.weight": noise(2, 5)}, {}, "to_q has no lora_A"),
    "twice": (
        pair(f"unet.{QUERY}") | {f"unet.{QUERY}.lora.down.weight": noise(2, 5)},
        {},
        "is there under another name too",
    ),
    "whose": (pair(f"base_model.model.{LAYER}"), {}, "does not tell whose module"),
    "flux": (
        pair("transformer.transformer_blocks.0.attn.to_q"),
        {},
        "of a transformer such as Flux; only SDXL's kind is read",
    ),
    "third encoder": (
        pair("text_encoder_3.encoder.block.0.layer.0.SelfAttention.k"),
        {},
        "of a third text encoder; only SDXL's kind is read",
    ),
    "kernel": (pair(f"unet.{CONV}"), {}, r"lora_down \[4, 5\] for a 3 x 3 convolution"),
    "alpha": (
        pair(f"unet.{QUERY}") | {f"unet.{QUERY}.alpha": noise(2)},
        {},
        r"alpha of shape \[2\], expected one",
    ),
    "no JSON": (pair(f"unet.{QUERY}"), {METADATA_KEY: "{"}, "no valid JSON"),
    "deep JSON": (pair(f"unet.{QUERY}"), {METADATA_KEY: "[" * 100_000}, "no valid JSON"),
    "key twice": (pair(f"unet.{QUERY}"), {METADATA_KEY: '{"a": 1, "a": 2}'}, "key occurs twice"),
    "method": (
        pair(f"unet.{QUERY}"),
        {METADATA_KEY: '{"unet.peft_type": "LOKR"}'},
        "method 'LOKR'",
    ),
}


@pytest.mark.parametrize(("tensors", "metadata", "problem"), BAD.values(), ids=BAD)
def test_refuses_what_is_no_update(
    tensors: dict[str, Tensor], metadata: dict[str, str], problem: str
) -> None:
    with pytest.raises(AdapterInvalid, match=problem):
        read(tensors, metadata=metadata)
