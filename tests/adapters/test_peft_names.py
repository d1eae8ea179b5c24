"""Every spelling of a key means the module it was saved from."""

import pytest

from diptych.adapters.adapter import Component
from diptych.adapters.peft_names import is_peft, module_of_encoder, parse_key

ATTENTION = "up_blocks.0.attentions.1.transformer_blocks.0.attn2"
LAYER = "encoder.layers.3.self_attn"
UNET, FIRST, SECOND = Component.UNET, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2

KEYS = {
    f"unet.{ATTENTION}.to_q.lora_A.weight": (UNET, f"{ATTENTION}.to_q", "down"),
    f"unet.{ATTENTION}.to_out.0.lora_B.weight": (UNET, f"{ATTENTION}.to_out.0", "up"),
    f"unet.{ATTENTION}.to_q.lora.down.weight": (UNET, f"{ATTENTION}.to_q", "down"),
    f"unet.{ATTENTION}.processor.to_q_lora.up.weight": (UNET, f"{ATTENTION}.to_q", "up"),
    f"unet.{ATTENTION}.processor.to_out_lora.up.weight": (UNET, f"{ATTENTION}.to_out.0", "up"),
    f"{ATTENTION}.processor.to_v_lora.down.weight": (UNET, f"{ATTENTION}.to_v", "down"),
    f"base_model.model.{ATTENTION}.to_k.lora_A.weight": (UNET, f"{ATTENTION}.to_k", "down"),
    f"unet.{ATTENTION}.to_k.lora_magnitude_vector": (UNET, f"{ATTENTION}.to_k", "magnitude"),
    f"unet.{ATTENTION}.to_out.lora_magnitude_vector": (UNET, f"{ATTENTION}.to_out.0", "magnitude"),
    f"unet.{ATTENTION}.to_k.alpha": (UNET, f"{ATTENTION}.to_k", "alpha"),
    "time_embedding.linear_1.lora_A.weight": (UNET, "time_embedding.linear_1", "down"),
    f"text_encoder.text_model.{LAYER}.q_proj.lora_linear_layer.up.weight": (
        FIRST,
        f"text_model.{LAYER}.q_proj",
        "up",
    ),
    f"text_encoder.{LAYER}.q_proj.lora_A.weight": (FIRST, f"text_model.{LAYER}.q_proj", "down"),
    f"text_encoder_2.text_model.{LAYER}.to_out_lora.down.weight": (
        SECOND,
        f"text_model.{LAYER}.out_proj",
        "down",
    ),
    f"text_encoder_2.text_model.{LAYER}.to_v_lora.up.weight": (
        SECOND,
        f"text_model.{LAYER}.v_proj",
        "up",
    ),
    f"base_model.model.{LAYER}.q_proj.lora_B.weight": (None, f"text_model.{LAYER}.q_proj", "up"),
}


@pytest.mark.parametrize(("name", "meant"), KEYS.items(), ids=KEYS)
def test_a_key_means_a_part_of_a_module(name: str, meant: tuple[object, ...]) -> None:
    key = parse_key(name)
    assert key is not None
    assert (key.component, key.module, key.part) == meant


@pytest.mark.parametrize(
    "name",
    [
        *("", "unet", "unet.conv_in.weight", "unet.conv_in.lora_A.bias", "clip_l"),
        *("unet.conv_in.lora_embedding_A", "lora_A.weight", "unet.conv_in.modules_to_save.weight"),
    ],
)
def test_any_other_key_means_nothing(name: str) -> None:
    assert parse_key(name) is None


def test_a_file_of_pairs_is_known_by_its_keys() -> None:
    assert is_peft(["x", f"unet.{ATTENTION}.to_q.lora_A.weight"])
    assert not is_peft(["lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.alpha"])


def test_an_encoders_module_is_named_under_text_model() -> None:
    names = ["encoder.layers.0.mlp.fc1", "text_model.final_layer_norm", "text_projection"]
    assert [module_of_encoder(name) for name in names] == [
        "text_model.encoder.layers.0.mlp.fc1",
        "text_model.final_layer_norm",
        "text_projection",
    ]
