"""Files of kohya's form mean what their trainers computed, and ours come back as they were."""

from collections.abc import Mapping

import pytest
import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    Stage,
    Target,
)
from diptych.adapters.bundle import digest_of
from diptych.adapters.keymap import NANO_LAYOUT, Style
from diptych.adapters.kohya import is_kohya, is_kohya_key, read_kohya, write_kohya
from diptych.errors import AdapterInvalid, ConversionUnsupported
from support.made_adapters import adapters, noise
from support.weight_updates import delta

KOHYA_COMPONENTS = (Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
LINEAR = "lora_unet_mid_block_attentions_0_proj_in"
CONVOLUTION = "lora_unet_mid_block_resnets_0_conv1"
LINEAR_TARGET = Target(component=Component.UNET, module="mid_block.attentions.0.proj_in")
CONVOLUTION_TARGET = Target(component=Component.UNET, module="mid_block.resnets.0.conv1")


def pair(name: str, *, num_out: int = 6, num_in: int = 5, rank: int = 2) -> dict[str, Tensor]:
    """Return a linear layer's update as files have it, without alpha."""
    return {
        f"{name}.lora_down.weight": noise(rank, num_in, seed=1),
        f"{name}.lora_up.weight": noise(num_out, rank, seed=2),
    }


def convolution(*, rank: int = 2) -> dict[str, Tensor]:
    """Return the update of a 3 x 3 convolution from 5 channels to 6, without alpha."""
    return {
        f"{CONVOLUTION}.lora_down.weight": noise(rank, 5, 3, 3, seed=1),
        f"{CONVOLUTION}.lora_up.weight": noise(6, rank, 1, 1, seed=2),
    }


def read(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Adapter:
    return read_kohya(tensors, metadata or {}, source="file")


def only(adapter: Adapter) -> LowRank:
    (low_rank,) = adapter.targets.values()
    return low_rank


def decomposed(weight: Tensor, low_rank: LowRank) -> Tensor:
    """Return the weight that a DoRA makes, from the adapter's own words, in float64."""
    merged = weight.double() + delta(low_rank)
    assert low_rank.magnitude is not None
    side = 1 if low_rank.magnitude.per_input else 0
    others = [axis for axis in range(merged.ndim) if axis != side]
    shape = [-1 if axis == side else 1 for axis in range(merged.ndim)]
    norms = torch.linalg.vector_norm(merged, dim=others)
    scaled: Tensor = merged * (low_rank.magnitude.norms.double() / norms).reshape(shape)
    return scaled


# What we write.


@settings(max_examples=40)
@given(
    adapters(components=KOHYA_COMPONENTS, per_input=False), st.sampled_from(["diffusers", "sgm"])
)
def test_what_is_written_reads_back_to_the_bit(adapter: Adapter, style: Style) -> None:
    tensors, metadata = write_kohya(adapter, style=style)
    assert digest_of(read(tensors, metadata)) == digest_of(adapter)


@settings(max_examples=20)
@given(st.sampled_from(["diffusers", "sgm"]), st.booleans(), st.booleans())
def test_either_magnitude_comes_back(style: Style, per_input: bool, is_linear: bool) -> None:
    tensors = pair(LINEAR) if is_linear else convolution()
    name = LINEAR if is_linear else CONVOLUTION
    ones = [1] * (0 if is_linear else 2)
    shape = [1, 5, *ones] if per_input else [6, 1, *ones]
    adapter = read({**tensors, f"{name}.dora_scale": noise(*shape)})
    again = read(*write_kohya(adapter, style=style))
    assert digest_of(again) == digest_of(adapter)


def test_alphas_that_float32_cannot_hold_stay_exact() -> None:
    low_rank = LowRank(down=noise(3, 5), up=noise(6, 3), alpha=8 * 3**0.5)
    tensors, metadata = write_kohya(Adapter(targets={LINEAR_TARGET: low_rank}), style="sgm")
    assert only(read(tensors, metadata)).alpha == low_rank.alpha


def test_leaves_alphas_out_that_are_ranks_and_unlike() -> None:
    tensors, _ = write_kohya(read({**pair(LINEAR, rank=2), **convolution(rank=3)}), style="sgm")
    assert not [key for key in tensors if key.endswith(".alpha")]


def test_what_is_written_says_its_rank_to_others() -> None:
    _, metadata = write_kohya(read(pair(LINEAR)), style="sgm")
    assert metadata["ss_network_dim"] == "2"


def test_a_dora_is_written_as_lycoris_shapes_it() -> None:
    adapter = read({**convolution(), f"{CONVOLUTION}.dora_scale": noise(6, 1, 1, 1)})
    tensors, _ = write_kohya(adapter, style="diffusers")
    assert tensors[f"{CONVOLUTION}.dora_scale"].shape == (6, 1, 1, 1)


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        (
            Adapter(
                targets={
                    Target(component=Component.REFINER_UNET, module="conv_in"): LowRank(
                        down=noise(1, 4, 3, 3), up=noise(8, 1), alpha=1.0
                    )
                }
            ),
            "target refiner_unet.conv_in",
        ),
        (
            Adapter(
                targets={
                    Target(component=Component.UNET, module="mid_block.other"): LowRank(
                        down=noise(1, 4), up=noise(8, 1), alpha=1.0
                    )
                }
            ),
            "target unet.mid_block.other",
        ),
        (
            Adapter(tokens={"a.b": LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, 8)})}),
            "token 'a.b', which has a dot",
        ),
    ],
)
def test_refuses_what_the_form_cannot_say(adapter: Adapter, problem: str) -> None:
    with pytest.raises(ConversionUnsupported) as refusal:
        write_kohya(adapter, style="sgm")
    assert refusal.value.content == problem


def test_reads_what_diffusers_exports() -> None:
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    peft = {
        f"unet.{module}.lora_A.weight": noise(2, 6, seed=1),
        f"unet.{module}.lora_B.weight": noise(6, 2, seed=2),
        f"unet.{module}.lora_magnitude_vector.weight": noise(6, seed=3),
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": noise(2, 6, seed=1),
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_B.weight": noise(7, 2, seed=2),
    }
    adapter = read(convert_state_dict_to_kohya(peft))
    found = {f"{target.component}.{target.module}" for target in adapter.targets}
    assert found == {f"unet.{module}", "text_encoder_2.text_model.encoder.layers.0.mlp.fc1"}
    magnitude = adapter.targets[Target(component=Component.UNET, module=module)].magnitude
    assert magnitude is not None
    assert not magnitude.per_input


# What others wrote.


def test_a_missing_alpha_is_the_rank() -> None:
    assert only(read(pair(LINEAR, rank=3))).scale == 1.0


@pytest.mark.parametrize(
    "alpha", [torch.tensor(1), torch.tensor([1.0]), torch.tensor(1.0, dtype=torch.bfloat16)]
)
def test_an_alpha_may_be_any_single_number(alpha: Tensor) -> None:
    assert only(read({**pair(LINEAR), f"{LINEAR}.alpha": alpha})).scale == 0.5


def test_lycoris_trained_scalar_is_part_of_the_scale() -> None:
    tensors = {**pair(LINEAR), f"{LINEAR}.scalar": torch.tensor(0.25)}
    assert only(read(tensors)).scale == 0.25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_factors_keep_their_dtype(dtype: torch.dtype) -> None:
    low_rank = only(read({key: value.to(dtype) for key, value in pair(LINEAR).items()}))
    assert (low_rank.down.dtype, low_rank.up.dtype) == (dtype, dtype)


def test_every_target_has_its_own_rank_and_alpha() -> None:
    tensors = {**pair(LINEAR, rank=2), **convolution(rank=5)}
    tensors |= {f"{LINEAR}.alpha": torch.tensor(8.0), f"{CONVOLUTION}.alpha": torch.tensor(1.0)}
    targets = read(tensors).targets
    assert targets[LINEAR_TARGET].scale == 4.0
    assert targets[CONVOLUTION_TARGET].scale == 0.2


def test_a_convolution_is_that_of_down_then_up() -> None:
    tensors, x = convolution(), noise(1, 5, 8, 8, seed=9).double()
    inner = conv2d(x, tensors[f"{CONVOLUTION}.lora_down.weight"].double(), padding=1)
    expected = conv2d(inner, tensors[f"{CONVOLUTION}.lora_up.weight"].double())
    found = conv2d(x, delta(only(read(tensors))), padding=1)
    torch.testing.assert_close(found, expected)


def test_a_middle_convolution_is_folded_in() -> None:
    down, mid, up = noise(3, 5, 1, 1, seed=1), noise(3, 3, 3, 3, seed=2), noise(6, 3, 1, 1, seed=3)
    ends = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}
    x = noise(1, 5, 8, 8, seed=9).double()
    inner = conv2d(conv2d(x, down.double()), mid.double(), padding=1)
    found = delta(only(read({f"{CONVOLUTION}.{end}": value for end, value in ends.items()})))
    expected = conv2d(inner, up.double())
    torch.testing.assert_close(conv2d(x, found, padding=1), expected, atol=1e-5, rtol=0.0)


def test_a_flat_convolution_gets_its_kernel_back() -> None:
    tensors = convolution()
    flat = {key: value.flatten(1) for key, value in tensors.items()}
    assert torch.equal(delta(only(read(flat))), delta(only(read(tensors))))


def test_a_linear_layer_may_come_as_a_convolution() -> None:
    tensors = pair(LINEAR)
    boxed = {key: value[..., None, None] for key, value in tensors.items()}
    assert torch.equal(delta(only(read(boxed))), delta(only(read(tensors))))


@pytest.mark.parametrize("name", [LINEAR, CONVOLUTION])
@pytest.mark.parametrize("side", [0, 1])
def test_dora_scales_over_the_side_that_its_shape_says(name: str, side: int) -> None:
    """The weight is square, so that only the shape of ``dora_scale`` tells the sides apart."""
    kernel = (3, 3) if name == CONVOLUTION else ()
    weight = noise(6, 6, *kernel, seed=4).double()
    down, up = noise(2, 6, *kernel, seed=1), noise(6, 2, *[1] * len(kernel), seed=2)
    shape = [6 if axis == side else 1 for axis in range(weight.ndim)]
    dora_scale = noise(*shape, seed=3, dtype=torch.float64).abs()
    ends = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": dora_scale}
    low_rank = only(read({f"{name}.{end}": value for end, value in ends.items()}))

    merged = weight + delta(low_rank)
    others = [axis for axis in range(weight.ndim) if axis != side]
    expected = dora_scale * merged / torch.linalg.vector_norm(merged, dim=others, keepdim=True)
    torch.testing.assert_close(decomposed(weight, low_rank), expected)


@pytest.mark.parametrize(
    ("key", "module"),
    [
        (
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        ),
        ("input_blocks.4.1.proj_in", "down_blocks.1.attentions.0.proj_in"),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
            "text_model.encoder.layers.0.mlp.fc1",
        ),
    ],
)
def test_reads_comfyuis_and_onetrainers_dotted_names(key: str, module: str) -> None:
    tensors = {
        f"{key}.lora_A.weight": noise(2, 5),
        f"{key}.lora_B.weight": noise(6, 2),
        f"{key}.alpha": torch.tensor(1.0),
        f"{key}.dora_scale": noise(1, 5),
    }
    adapter = read(tensors)
    assert [target.module for target in adapter.targets] == [module]
    assert only(adapter).scale == 0.5


def test_reads_tokens_that_lie_beside() -> None:
    tokens = {
        "bundle_emb.<huggy>.clip_l": noise(2, 768),
        "bundle_emb.<huggy>.clip_g": noise(2, 1280),
        "bundle_emb.plain.clip_l": noise(768),
    }
    adapter = read({**pair(LINEAR), **tokens})
    found = {text: token.num_vectors for text, token in adapter.tokens.items()}
    assert found == {"<huggy>": 2, "plain": 1}


def test_the_only_encoder_of_a_refiner_is_the_second() -> None:
    refiner = "lora_unet_output_blocks_6_1_proj_in"
    adapter = read({**pair(refiner), **pair("lora_te_text_model_encoder_layers_0_mlp_fc1")})
    assert adapter.components() == {Component.UNET, Component.TEXT_ENCODER_2}


def test_a_file_that_reads_like_a_refiners_is_for_it() -> None:
    assert read(pair("lora_unet_output_blocks_6_1_proj_in")).made_for.stage is Stage.REFINER


def test_sgm_blocks_are_counted_as_the_names_allow() -> None:
    adapter = read(pair("lora_unet_input_blocks_3_1_proj_in"))
    assert [target.module for target in adapter.targets] == ["down_blocks.1.attentions.0.proj_in"]


def test_sgm_blocks_are_counted_as_the_caller_says() -> None:
    tensors = pair("lora_unet_output_blocks_2_1_proj_in")
    adapter = read_kohya(tensors, {}, source="file", layout=NANO_LAYOUT)
    assert [target.module for target in adapter.targets] == ["up_blocks.1.attentions.0.proj_in"]


def test_keeps_what_the_header_says() -> None:
    adapter = read(pair(LINEAR), {"ss_seed": "42", "modelspec.trigger_phrase": "huggy"})
    assert adapter.metadata["ss_seed"] == "42"
    assert adapter.trigger_words == ("huggy",)


# What is refused.

OTHER = "lora_unet_mid_block_attentions_0_proj_out"


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({f"{LINEAR}.hada_w1_a": noise(2, 2)}, "holds LoHa factors"),
        ({f"{LINEAR}.lokr_w2": noise(2, 2)}, "holds LoKr factors"),
        ({f"{LINEAR}.on_input": torch.tensor(True)}, "holds the side of an IA3 scale"),
        ({f"{LINEAR}.oft_blocks": noise(2, 2)}, "holds an OFT rotation"),
        ({f"{LINEAR}.a1.weight": noise(2, 2)}, "holds GLoRA factors"),
        ({f"{LINEAR}.w_norm": noise(2)}, "holds what a norm became"),
        ({f"{LINEAR}.diff": noise(2, 2)}, "holds a whole weight"),
        ({f"{LINEAR}.diff_b": noise(2)}, "holds a bias"),
        ({f"{LINEAR}.lora_up.bias": noise(2)}, "holds a bias"),
        ({f"{LINEAR}.lora_other": noise(2)}, "is unknown"),
        ({"bundle_emb.<s0>.clip_l_out": noise(2, 768)}, "is no vector of a token"),
        (pair("lora_unet_double_blocks_0_img_attn_proj"), "is no module of an SDXL UNet"),
        (pair("lora_te2_text_model_embeddings"), "is no module of an SDXL UNet"),
        ({f"{LINEAR}.lora_down.weight": noise(2, 5)}, r"has no lora_up\.weight"),
        ({f"{LINEAR}.alpha": torch.tensor(1.0)}, r"has no lora_down\.weight"),
        (
            pair(LINEAR) | pair("lora_unet_middle_block_1_proj_in"),
            "is a second name for unet.mid_block.attentions.0.proj_in",
        ),
        (
            pair(LINEAR) | {f"{LINEAR}.lora_A.weight": noise(2, 5)},
            "is there under another name too",
        ),
        (pair(LINEAR) | {f"{LINEAR}.alpha": noise(2)}, r"alpha of shape \[2\]"),
        (pair(LINEAR) | {f"{LINEAR}.alpha": torch.tensor(float("nan"))}, "alpha nan"),
        (pair(LINEAR) | {f"{LINEAR}.dora_scale": noise(5)}, r"dora_scale \[5\]"),
        (pair(LINEAR) | {f"{LINEAR}.dora_scale": noise(6, 5)}, r"dora_scale \[6, 5\]"),
        (
            pair(LINEAR) | {f"{LINEAR}.lora_magnitude_vector.weight": noise(5)},
            r"dora_scale \[5\]",
        ),
        (pair(LINEAR, rank=129), "rank 129, the limit is 128"),
        (
            pair(LINEAR) | {f"{LINEAR}.lora_up.weight": noise(6, 3)},
            r"down \[2, 5\] and up \[6, 3\]",
        ),
        (pair(CONVOLUTION, num_in=44), r"lora_down \[2, 44\] for a 3 x 3 convolution"),
        (
            convolution() | {f"{CONVOLUTION}.lora_mid.weight": noise(2, 2, 3, 3)},
            "which cannot be multiplied",
        ),
    ],
)
def test_refuses_by_name(tensors: dict[str, Tensor], problem: str) -> None:
    with pytest.raises(AdapterInvalid, match=problem):
        read(pair(OTHER) | tensors)


@pytest.mark.parametrize(
    "key",
    [
        f"{LINEAR}.lora_down.weight",
        f"{LINEAR}.hada_w1_a",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
        "diffusion_model.out.2.lora_A.weight",
        "out.2.lora_A.weight",
        "bundle_emb.<s0>.clip_l",
    ],
)
def test_knows_a_file_of_this_form_by_any_key(key: str) -> None:
    assert is_kohya(["other", key])


@pytest.mark.parametrize(
    "key",
    [
        "unet.mid_block.attentions.0.proj_in.lora_A.weight",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight",
        "down_blocks.1.attentions.0.proj_in.lora_A.weight",
        "clip_l",
        "output.2.weight",
    ],
)
def test_other_keys_are_not_of_this_form(key: str) -> None:
    assert not is_kohya_key(key)
