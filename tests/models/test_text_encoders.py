"""Prompts become the embeddings that diffusers' pipelines would make of them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from diptych.errors import CheckpointInvalid, PromptTooLong
from diptych.models.experts import Expert
from diptych.models.parts import TokenizerFiles
from diptych.models.text_encoders import (
    PromptRow,
    TextEncoders,
    load_vocabulary,
)

PROMPTS = (
    "a red circle in the top left",
    "",
    "A Blue SQUARE, on a striped background; 你好 éé",
    "green triangle " * 20,
)
LONG = "a red circle and a blue square in the middle " * 12


@pytest.mark.parametrize("prompt", PROMPTS)
def test_embeds_a_prompt_as_diffusers_does(
    base: Expert, pipeline: StableDiffusionXLPipeline, prompt: str
) -> None:
    hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    (embeds,) = base.text.encode([PromptRow(text=prompt)])
    torch.testing.assert_close(embeds.hidden, hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(embeds.pooled, pooled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("negative", [None, "", "blurry"])
def test_embeds_a_negative_prompt_as_diffusers_does(
    base: Expert, pipeline: StableDiffusionXLPipeline, negative: str | None
) -> None:
    _, hidden, _, pooled = pipeline.encode_prompt("a red circle", negative_prompt=negative)
    (embeds,) = base.text.encode([PromptRow(text=negative)])
    torch.testing.assert_close(embeds.hidden, hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(embeds.pooled, pooled, atol=1e-5, rtol=0)


def test_encodes_empty_text_for_none_where_the_checkpoint_asks_for_no_zeros(base: Expert) -> None:
    text = TextEncoders(base.text.encoders, zeros_for_none=False)
    none, empty = text.encode([PromptRow(text=None), PromptRow(text="")])
    assert torch.equal(none.hidden, empty.hidden)


def test_truncates_as_diffusers_does(base: Expert, pipeline: StableDiffusionXLPipeline) -> None:
    hidden, _, pooled, _ = pipeline.encode_prompt(LONG, do_classifier_free_guidance=False)
    (embeds,) = base.text.encode([PromptRow(text=LONG, long_prompt="truncate")])
    torch.testing.assert_close(embeds.hidden, hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(embeds.pooled, pooled, atol=1e-5, rtol=0)


def test_rows_of_a_call_do_not_change_each_other(base: Expert) -> None:
    together = base.text.encode([PromptRow(text=prompt) for prompt in PROMPTS])
    alone = [base.text.encode([PromptRow(text=prompt)])[0] for prompt in PROMPTS]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, atol=1e-5, rtol=0)


def test_computes_equal_texts_of_a_call_once(base: Expert, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    module = base.text.encoders[0].module
    original = module.forward

    def counting(ids: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(ids))
        return original(ids, **options)

    monkeypatch.setattr(module, "forward", counting)
    base.text.encode([PromptRow(text="a red circle")] * 5 + [PromptRow(text="a square")])
    assert sizes == [2]


def test_refuses_a_long_prompt_and_names_what_would_be_cut(base: Expert) -> None:
    words = " ".join(["red"] * 75)
    with pytest.raises(PromptTooLong) as raised:
        base.text.num_windows(PromptRow(text=f"{words} Blue square", field="base.prompt"))
    assert (raised.value.field, raised.value.limit) == ("base.prompt", 75)
    assert raised.value.cut_text == "Blue square"
    assert raised.value.num_tokens == 77


def test_a_prompt_that_just_fits_is_not_refused(base: Expert) -> None:
    assert base.text.num_windows(PromptRow(text=" ".join(["red"] * 75))) == 1


def test_chunks_a_long_prompt_into_windows(base: Expert) -> None:
    words = " ".join(["red"] * 75 + ["blue"] * 10)
    chunked, first, second = base.text.encode(
        [
            PromptRow(text=words, long_prompt="chunk"),
            PromptRow(text=" ".join(["red"] * 75)),
            PromptRow(text=" ".join(["blue"] * 10)),
        ]
    )
    assert chunked.hidden.shape == (1, 154, base.family.cross_attention_dim)
    assert torch.equal(chunked.hidden, torch.cat([first.hidden, second.hidden], dim=1))
    assert torch.equal(chunked.pooled, first.pooled)


@pytest.mark.parametrize("text", ["a red circle", "", None])
def test_fills_a_short_row_up_to_the_windows_of_its_partner(base: Expert, text: str | None) -> None:
    (embeds,) = base.text.encode([PromptRow(text=text, min_windows=3)])
    assert embeds.hidden.shape == (1, 231, base.family.cross_attention_dim)


def test_threads_share_the_encoders(base: Expert) -> None:
    rows = [PromptRow(text=f"a red circle {i % 7}") for i in range(24)]
    expected = base.text.encode(rows)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: base.text.encode([row])[0], rows))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, atol=1e-5, rtol=0)


def test_weights_are_frozen(base: Expert) -> None:
    modules = [encoder.module for encoder in base.text.encoders]
    assert not any(p.requires_grad for module in modules for p in module.parameters())
    assert not any(module.training for module in modules)


def test_refuses_a_tokenizer_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match=r"misses vocab\.json, merges\.txt"):
        load_vocabulary(TokenizerFiles(folder=tmp_path), "here", window=77)


def test_refuses_a_tokenizer_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("[")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(CheckpointInvalid):
        load_vocabulary(TokenizerFiles(folder=tmp_path), "here", window=77)


def test_pads_with_the_word_a_single_file_needs(nano_pair: Path) -> None:
    files = TokenizerFiles(folder=nano_pair / "base" / "tokenizer", pad_token="!")
    vocabulary = load_vocabulary(files, "nano", window=77)
    (window,) = vocabulary.windows([], 1)
    assert window[2] == vocabulary.tokenizer.token_to_id("!")
