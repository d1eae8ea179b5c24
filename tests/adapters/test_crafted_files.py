"""Files made to be wrong, or for other models, are refused by what is wrong with them."""

import pytest
import torch
from torch import Tensor

from diptych.adapters.reading import read_adapter
from diptych.adapters.tensor_file import to_pieces
from diptych.errors import AdapterInvalid
from support.made_adapters import noise

KOHYA = "lora_unet_mid_block_attentions_0_proj_in"
CONVOLUTION = "lora_unet_mid_block_resnets_0_conv1"
DIFFUSERS = "unet.mid_block.attentions.0.proj_in"
ONE = torch.tensor(1.0)


def pair(module: str) -> dict[str, Tensor]:
    return {f"{module}.lora_down.weight": noise(2, 5), f"{module}.lora_up.weight": noise(6, 2)}


def peft(module: str) -> dict[str, Tensor]:
    return {f"{module}.lora_A.weight": noise(2, 5), f"{module}.lora_B.weight": noise(6, 2)}


CRAFTED = {
    "down of no axes": (
        pair(KOHYA) | {f"{KOHYA}.lora_down.weight": ONE},
        "lora_down that is one number",
    ),
    "up of no axes": (
        pair(KOHYA) | {f"{KOHYA}.lora_up.weight": ONE},
        "lora_up that is one number",
    ),
    "down of no axes under a middle": (
        {
            f"{CONVOLUTION}.lora_down.weight": ONE,
            f"{CONVOLUTION}.lora_mid.weight": noise(2, 2, 3, 3),
            f"{CONVOLUTION}.lora_up.weight": noise(6, 2),
        },
        "lora_down that is one number",
    ),
    "norms of no axes": (pair(KOHYA) | {f"{KOHYA}.dora_scale": ONE}, r"dora_scale \[\]"),
    "norms twice": (
        pair(KOHYA)
        | {f"{KOHYA}.dora_scale": noise(6, 1), f"{KOHYA}.lora_magnitude_vector": noise(6)},
        "both dora_scale and lora_magnitude_vector",
    ),
    "factors of no axes": (
        {f"{DIFFUSERS}.lora_A.weight": ONE, f"{DIFFUSERS}.lora_B.weight": ONE},
        r"down \[\] and up \[\]",
    ),
    "huge": (
        peft(DIFFUSERS) | {f"{DIFFUSERS}.lora_B.weight": noise(6, 2) * 1e30},
        "unet.mid_block.attentions.0.proj_in up holds .* the limit is 65504",
    ),
    "huge alpha": (
        pair(KOHYA) | {f"{KOHYA}.alpha": ONE * 1e20},
        "unet.mid_block.attentions.0.proj_in up, times alpha / rank, holds",
    ),
    "Flux of diffusers": (
        peft("transformer.transformer_blocks.0.attn.to_q"),
        "of a transformer such as Flux",
    ),
    "Flux of its makers": (peft("double_blocks.0.img_attn.qkv"), "a transformer such as Flux"),
    "Flux of kohya": (
        pair("lora_unet_double_blocks_0_img_attn_proj"),
        "of a transformer such as Flux",
    ),
    "SD3 of ComfyUI": (
        pair("diffusion_model.joint_blocks.0.x_block.attn.proj"),
        "of Stable Diffusion 3",
    ),
    "T5 of kohya": (
        pair("lora_te3_encoder_block_0_layer_0_SelfAttention_k"),
        "of a third text encoder",
    ),
}


@pytest.mark.parametrize(("tensors", "problem"), CRAFTED.values(), ids=CRAFTED)
def test_refused_by_what_is_wrong(tensors: dict[str, Tensor], problem: str) -> None:
    data = b"".join(to_pieces(tensors, {}))
    with pytest.raises(AdapterInvalid, match=problem):
        read_adapter(data, name="crafted.safetensors")
