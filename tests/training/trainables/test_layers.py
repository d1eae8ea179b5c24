"""Targets and patterns choose layers, ranks and alphas, as PEFT reads them."""

import pytest
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from diptych.errors import InvalidRequest
from diptych.training.spec import AdapterSpec, TextEncoderSpec
from diptych.training.trainables.layers import plan_text_layers, plan_unet_layers, unread_parts
from support.small_experts import small_unet


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return small_unet()  # type: ignore[no-any-return]


def test_attention_is_the_four_projections(unet: nn.Module) -> None:
    planned = plan_unet_layers(unet, AdapterSpec())
    assert {name.split(".attn")[1][2:] for name in planned} == {
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
    }


def test_prompt_is_what_reads_the_tokens_and_the_pooled_embedding(unet: nn.Module) -> None:
    planned = plan_unet_layers(unet, AdapterSpec(targets="prompt"))
    attention = plan_unet_layers(unet, AdapterSpec())
    readers = {name for name in attention if name.endswith((".attn2.to_k", ".attn2.to_v"))}
    assert planned.keys() == readers | {"add_embedding.linear_1"}
    assert readers


def test_linear_is_every_linear_layer_of_the_transformers(unet: nn.Module) -> None:
    planned = plan_unet_layers(unet, AdapterSpec(targets="linear"))
    expected = {
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and ".attentions." in name
    }
    assert planned.keys() == expected
    assert any(name.endswith("ff.net.2") for name in planned)
    assert any(name.endswith("proj_in") for name in planned)


def test_linear_conv_is_that_and_the_blocks_convolutions(unet: nn.Module) -> None:
    planned = plan_unet_layers(unet, AdapterSpec(targets="linear_conv"))
    more = planned.keys() - plan_unet_layers(unet, AdapterSpec(targets="linear")).keys()
    assert all(isinstance(unet.get_submodule(name), nn.Conv2d) for name in more)
    assert any(name.endswith("downsamplers.0.conv") for name in more)
    assert not {"conv_in", "conv_out"} & more


def test_patterns_give_ranks_and_alphas_and_the_first_counts(unet: nn.Module) -> None:
    spec = AdapterSpec(
        rank=8,
        rank_pattern={r"mid_block.*to_q": 2, "to_q": 4},
        alpha_pattern={r"attn1\.to_k": 3.0},
    )
    planned = plan_unet_layers(unet, spec)
    ranks = {name: (one.rank, one.alpha) for name, one in planned.items()}
    mid = "mid_block.attentions.0.transformer_blocks.0"
    assert ranks[f"{mid}.attn1.to_q"] == (2, 2.0)
    assert ranks["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"] == (4, 4.0)
    assert ranks[f"{mid}.attn1.to_k"] == (8, 3.0)
    assert ranks[f"{mid}.attn2.to_k"] == (8, 8.0)


def test_an_alpha_that_is_given_is_every_layer_s(unet: nn.Module) -> None:
    planned = plan_unet_layers(unet, AdapterSpec(alpha=1.0, rank_pattern={"to_q": 2}))
    assert {one.alpha for one in planned.values()} == {1.0}


def test_every_pattern_that_matches_nothing_is_named(unet: nn.Module) -> None:
    spec = AdapterSpec(rank_pattern={"to_x": 2, "to_q": 2}, alpha_pattern={"proj_in": 2.0})
    with pytest.raises(InvalidRequest, match=r"rank_pattern\.to_x") as rank:
        plan_unet_layers(unet, spec)
    assert [one.field for one in rank.value.violations] == [
        "adapter.rank_pattern.to_x",
        "adapter.alpha_pattern.proj_in",
    ]


def test_an_encoder_s_last_layer_is_left_out_where_nothing_reads_it() -> None:
    config = CLIPTextConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=1
    )
    encoder = CLIPTextModel(config)
    planned = plan_text_layers(encoder, TextEncoderSpec(method="lora", rank=2))
    assert {name.split("layers.")[1][0] for name in planned} == {"0", "1"}
    assert len(planned) == 8
    assert {(one.rank, one.alpha) for one in planned.values()} == {(2, 2.0)}
    unread = [
        name for name, _ in encoder.named_parameters() if name.startswith(unread_parts(encoder))
    ]
    assert len(unread) == 18
