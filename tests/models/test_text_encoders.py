"""Prompts become the embeddings that diffusers' pipelines would make of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from diptych.errors import InvalidRequest, PromptTooLong
from diptych.models.experts import Expert
from diptych.models.text_encoders import PromptRow, TextEncoder, TextEncoders, TextVariant

PROMPTS = (
    "a red circle in the top left",
    "",
    "A Blue SQUARE, on a striped background; 你好 éé",
    "green triangle " * 20,
)
LEARNED = {
    name: {
        "<moon>": 0.3 * torch.randn(1, 64, generator=rng),
        "<sky>": torch.randn(3, 64, generator=rng),
    }
    for name, rng in (
        ("text_encoder", torch.Generator().manual_seed(0)),
        ("text_encoder_2", torch.Generator().manual_seed(1)),
    )
}
VARIANT = TextVariant(tokens=LEARNED)
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


def table_of(encoder: TextEncoder) -> torch.Tensor:
    weight = encoder.module.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.clone()


@pytest.fixture
def taught(nano_pair: Path) -> StableDiffusionXLPipeline:
    """Return diffusers' pipeline after it was taught ``<moon>``, of one vector and of three."""
    pipe = StableDiffusionXLPipeline.from_pretrained(nano_pair / "base", dtype=torch.float32)
    for name in ("", "_2"):
        encoder, tokenizer = getattr(pipe, f"text_encoder{name}"), getattr(pipe, f"tokenizer{name}")
        for token, vectors in LEARNED[f"text_encoder{name}"].items():
            pipe.load_textual_inversion(
                vectors, token=token, text_encoder=encoder, tokenizer=tokenizer
            )
    return pipe


@pytest.mark.parametrize(
    "prompt", ["a <moon> on the left", "<sky><moon>, red", "<MOON>", "no token", "<moon" + "> " * 9]
)
def test_embeds_a_learned_token_as_diffusers_does(
    base: Expert, taught: StableDiffusionXLPipeline, prompt: str
) -> None:
    hidden, _, pooled, _ = taught.encode_prompt(prompt, do_classifier_free_guidance=False)
    (embeds,) = base.text.encode([PromptRow(text=prompt, variant=VARIANT)])
    torch.testing.assert_close(embeds.hidden, hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(embeds.pooled, pooled, atol=1e-5, rtol=0)


def test_two_variants_of_one_token_do_not_meet(base: Expert) -> None:
    other = TextVariant(
        tokens={name: {"<moon>": -found["<moon>"]} for name, found in LEARNED.items()}
    )
    rows = [PromptRow(text="a <moon>", variant=variant) for variant in (VARIANT, other, None)]
    together = base.text.encode(rows)
    for row, found in zip(rows, together, strict=True):
        (alone,) = base.text.encode([row])
        torch.testing.assert_close(found.hidden, alone.hidden, atol=1e-5, rtol=0)
    assert (together[0].hidden - together[1].hidden).abs().max() > 1e-3
    assert (together[0].hidden - together[2].hidden).abs().max() > 1e-3


def test_learned_tokens_leave_tokenizer_and_table_as_they_were(base: Expert) -> None:
    before = [(table_of(own), own.vocabulary.tokenizer.to_str()) for own in base.text.encoders]
    base.text.encode([PromptRow(text="a <moon>", variant=VARIANT)])
    for encoder, (table, tokenizer) in zip(base.text.encoders, before, strict=True):
        assert torch.equal(table_of(encoder), table)
        assert encoder.vocabulary.tokenizer.to_str() == tokenizer


def test_a_token_takes_as_many_places_as_it_has_vectors(base: Expert) -> None:
    words = " ".join(["red"] * 72)
    fits, too_long = (
        PromptRow(text=f"{words} {end}", variant=VARIANT) for end in ("<sky>", "<sky><moon>")
    )
    assert base.text.num_windows(fits) == 1
    with pytest.raises(PromptTooLong, match="<moon>"):
        base.text.num_windows(too_long)


def test_rows_are_told_apart_by_the_weights_they_ask_for(base: Expert) -> None:
    asked: list[list[object]] = []

    def using(
        _: TextEncoder, variants: Sequence[TextVariant | None]
    ) -> AbstractContextManager[None]:
        asked.append([None if variant is None else variant.weights for variant in variants])
        return nullcontext()

    variants = [TextVariant(weights="one"), TextVariant(weights="two"), None, None]
    rows = [PromptRow(text="a cat", variant=variant) for variant in variants]
    base.text.encode(rows, using)
    assert asked == [["one", "two", None]] * 2


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
def test_skips_layers_as_diffusers_counts_them(
    base: Expert, pipeline: StableDiffusionXLPipeline, clip_skip: int
) -> None:
    hidden, _, pooled, _ = pipeline.encode_prompt(
        "a red circle", do_classifier_free_guidance=False, clip_skip=clip_skip
    )
    row = PromptRow(text="a red circle", clip_skip=clip_skip)
    plain, embeds = base.text.encode([PromptRow(text="a red circle"), row])
    torch.testing.assert_close(embeds.hidden, hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(embeds.pooled, pooled, atol=1e-5, rtol=0)
    assert torch.equal(plain.hidden, embeds.hidden) == (clip_skip == 0)


@pytest.mark.parametrize("clip_skip", [-1, 3])
def test_refuses_to_skip_more_layers_than_there_are(base: Expert, clip_skip: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{clip_skip} layers cannot be skipped.* 0 to 2"):
        base.text.encode([PromptRow(text="a", clip_skip=clip_skip)])


def test_a_truncated_text_does_not_go_on_in_windows_it_is_filled_up_to(base: Expert) -> None:
    one, filled = base.text.encode(
        [
            PromptRow(text=LONG, long_prompt="truncate"),
            PromptRow(text=LONG, long_prompt="truncate", min_windows=2),
        ]
    )
    (empty,) = base.text.encode([PromptRow(text="")])
    assert torch.equal(filled.hidden, torch.cat([one.hidden, empty.hidden], dim=1))


def test_rows_of_a_call_on_a_cpu_do_not_change_each_other_by_a_bit(base: Expert) -> None:
    rows = [PromptRow(text=f"a red circle {index}") for index in range(5)]
    for row, found in zip(rows, base.text.encode(rows), strict=True):
        (alone,) = base.text.encode([row])
        assert torch.equal(found.hidden, alone.hidden)
        assert torch.equal(found.pooled, alone.pooled)
