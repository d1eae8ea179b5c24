"""Experts of full size with random weights: the cost of the real thing without its files.

Configurations are those of SDXL base 1.0 and refiner 1.0 (Podell et al. 2023). Prompts are read
with the nano pair's tokenizer, whose ids are valid in the larger vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diptych.diffusion.schedule import NoiseSchedule
from diptych.models.autoencoder import Autoencoder
from diptych.models.experts import Expert, Experts
from diptych.models.family import FAMILIES
from diptych.models.parts import TokenizerFiles
from diptych.models.text_encoders import TextEncoder, TextEncoders
from diptych.models.unet import Unet
from diptych.models.vocabulary import Vocabulary, load_vocabulary
from diptych.nano.pair import expert_path

__all__ = ["SCHEDULE", "UNET_CONFIGS", "fill_randomly", "random_sdxl"]

_Module = TypeVar("_Module", bound=nn.Module)

_SHARED_UNET: Mapping[str, Any] = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
}
UNET_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "base": {
        **_SHARED_UNET,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "projection_class_embeddings_input_dim": 2816,
    },
    "refiner": {
        **_SHARED_UNET,
        "block_out_channels": (384, 768, 1536, 1536),
        "down_block_types": (
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (4, 4, 4, 4),
        "attention_head_dim": (6, 12, 24, 24),
        "cross_attention_dim": 1280,
        "projection_class_embeddings_input_dim": 2560,
    },
}
"""Expert -> configuration of its UNet: 2.57 and 2.26 billion parameters."""
_VAE_CONFIG: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
_CLIP_L: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_CLIP_BIG_G: Mapping[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
SCHEDULE: Mapping[str, object] = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def random_sdxl(*, device: torch.device, dtype: torch.dtype) -> Experts:
    """Return SDXL base and refiner with random weights; they share ``text_encoder_2`` and VAE."""
    files = TokenizerFiles(folder=expert_path("base") / "tokenizer")
    vocabulary = load_vocabulary(files, "random", window=77)

    def made(build: Callable[[], _Module]) -> _Module:
        with torch.device("meta"):
            module = build()
        return fill_randomly(module, device=device, dtype=dtype)

    first = _encoder(made(lambda: CLIPTextModel(_clip(_CLIP_L, vocabulary))), vocabulary)
    second = _encoder(
        made(lambda: CLIPTextModelWithProjection(_clip(_CLIP_BIG_G, vocabulary))), vocabulary
    )
    vae = Autoencoder(made(lambda: AutoencoderKL.from_config(_VAE_CONFIG)), fingerprint="random")
    schedule = NoiseSchedule.from_config(SCHEDULE, source="random")

    def expert(name: str, encoders: list[TextEncoder], *, zeros_for_none: bool) -> Expert:
        unet = made(lambda: UNet2DConditionModel.from_config(UNET_CONFIGS[name]))
        return Expert(
            name=name,
            source="random",
            family=FAMILIES[f"sdxl-{name}"],
            schedule=schedule,
            unet=Unet(unet, fingerprint=f"random-{name}"),
            text=TextEncoders(encoders, zeros_for_none=zeros_for_none),
            vae=vae,
        )

    return Experts(
        base=expert("base", [first, second], zeros_for_none=True),
        refiner=expert("refiner", [second], zeros_for_none=False),
    )


def fill_randomly(module: _Module, *, device: torch.device, dtype: torch.dtype) -> _Module:
    """Give a module built without storage weights that keep activations finite.

    Matrices and kernels are normal with variance 1 / fan-in, gains 1 and biases 0.
    """
    generator = torch.Generator(device).manual_seed(0)
    module.to(dtype).to_empty(device=device)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            scale = 1 / math.sqrt(parameter[0].numel())
            parameter.data.normal_(0.0, scale, generator=generator)
        else:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
    for name, buffer in module.named_buffers():
        assert name.endswith("position_ids")
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return module.requires_grad_(requires_grad=False).eval()


def _clip(sizes: Mapping[str, Any], vocabulary: Vocabulary) -> CLIPTextConfig:
    return CLIPTextConfig(
        **sizes,
        vocab_size=49408,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
    )


def _encoder(
    module: CLIPTextModel | CLIPTextModelWithProjection, vocabulary: Vocabulary
) -> TextEncoder:
    return TextEncoder(module, vocabulary, fingerprint=f"random-{type(module).__name__}")
