"""The untrained parts fit together as SDXL's do."""

import pytest
import torch
from transformers import CLIPTokenizer

from diptych.nano.architecture import (
    SCHEDULER_CONFIG,
    TEXT_WINDOW,
    build_autoencoder,
    build_scheduler,
    build_text_encoders,
    build_tokenizer,
    build_unet,
)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(["a small red star on the left", "a large blue ring at the top"])


@pytest.mark.parametrize("text", ["a small red star", "naïve 42%!", "星とハート", "\x00\t🙂"])
def test_any_text_becomes_known_tokens_between_start_and_end(
    tokenizer: CLIPTokenizer, text: str
) -> None:
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert all(0 <= token < len(tokenizer) - 2 for token in ids[1:-1])


def test_a_known_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    assert len(tokenizer("star").input_ids) == 3


def test_case_does_not_matter(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer("RED Star").input_ids == tokenizer("red star").input_ids


def test_long_text_is_cut_at_the_window(tokenizer: CLIPTokenizer) -> None:
    assert len(tokenizer("star " * 200, truncation=True).input_ids) == TEXT_WINDOW


def test_autoencoder_is_f8_with_four_channels() -> None:
    latents = build_autoencoder().encode(torch.zeros(1, 3, 64, 128)).latent_dist.mean
    assert latents.shape == (1, 4, 8, 16)


def test_unet_takes_what_both_text_encoders_give(tokenizer: CLIPTokenizer) -> None:
    first, second = build_text_encoders(tokenizer)
    ids = torch.tensor(tokenizer([""], padding="max_length").input_ids)
    pooled = second(ids).text_embeds
    hidden = torch.cat(
        [model(ids, output_hidden_states=True).hidden_states[-2] for model in (first, second)],
        dim=-1,
    )
    added = {"text_embeds": pooled, "time_ids": torch.zeros(1, 6)}
    x = torch.zeros(1, 4, 16, 16)
    assert build_unet()(x, 500, hidden, added_cond_kwargs=added).sample.shape == x.shape


def test_scheduler_is_zero_snr_v_prediction_with_trailing_timesteps() -> None:
    config = build_scheduler().config
    assert {key: config[key] for key in SCHEDULER_CONFIG} == SCHEDULER_CONFIG
