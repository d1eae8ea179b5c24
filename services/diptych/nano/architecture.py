"""What the nano pair is made of: diffusers' and transformers' own modules, very small.

The layout is SDXL's: an f=8 autoencoder with four channels, two CLIP text encoders whose
penultimate hidden states are joined, and a UNet with ``text_time`` conditioning.
"""

import json
from typing import Any

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from tokenizers import Regex as TokenizerRegex
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

__all__ = [
    "SCHEDULER_CONFIG",
    "TEXT_WINDOW",
    "build_autoencoder",
    "build_scheduler",
    "build_text_encoders",
    "build_tokenizer",
    "build_unet",
]

TEXT_WINDOW = 77
"""Tokens a text encoder sees, start and end included."""
_TEXT_WIDTH = 64
_TIME_ID_WIDTH = 32
_NUM_TIME_IDS = 6

SCHEDULER_CONFIG: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
"""v-prediction to zero terminal SNR with trailing timesteps (Lin et al. 2023)."""

_WORD_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
    r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def build_autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder: [N, 3, H, W] in [-1, 1] to [N, 4, H/8, W/8] and back."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        force_upcast=False,
    )


def build_unet() -> UNet2DConditionModel:
    """Return an untrained UNet of SDXL's kind, 7 million parameters, for 16 x 16 latents."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 160),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(3, 3, 5),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * _TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=_NUM_TIME_IDS * _TIME_ID_WIDTH + _TEXT_WIDTH,
        norm_num_groups=16,
    )


def build_text_encoders(
    tokenizer: CLIPTokenizer,
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Return two untrained encoders for ``tokenizer``; only the second one pools."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TEXT_WINDOW,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def build_scheduler() -> EulerDiscreteScheduler:
    """Return the scheduler the pair is saved with; its config is the pair's noise schedule."""
    # What Euler does not read is for the solvers that do, as in SDXL's own file.
    others = {"clip_sample": False, "set_alpha_to_one": False}
    return EulerDiscreteScheduler.from_config({**SCHEDULER_CONFIG, **others})


def build_tokenizer(corpus: list[str]) -> CLIPTokenizer:
    """Return a CLIP tokenizer whose words are the corpus's; any other text falls back to bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TokenizerRegex(_WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
        special_tokens=[],
    )
    tokenizer.train_from_iterator(sorted(set(corpus)), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    words = [token for token in learned["vocab"] if token not in alphabet]
    tokens = alphabet + [f"{byte}</w>" for byte in alphabet]
    tokens += sorted(set(words) - set(tokens))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=TEXT_WINDOW,
    )
