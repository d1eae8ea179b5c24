"""Learned tokens of every form are read under the text that stands for them."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LearnedToken
from diptych.adapters.token_format import TOKENS_KEY, read_tokens, split_tokens, write_tokens
from diptych.errors import AdapterInvalid, ConversionUnsupported
from support.made_adapters import learned_tokens, noise

FIRST, SECOND = Component.TEXT_ENCODER, Component.TEXT_ENCODER_2
SMALL, LARGE = noise(2, 768, seed=1), noise(2, 1280, seed=2)
PAIR = {"clip_l": SMALL, "clip_g": LARGE}


def read(tensors: dict[str, Tensor], source: str = "huggy.safetensors", **fields: Any) -> Any:
    return read_tokens(tensors, fields.pop("metadata", {}), source=source, **fields)


def shapes(tokens: dict[str, LearnedToken]) -> dict[str, dict[Component, tuple[int, ...]]]:
    return {
        text: {part: tuple(vectors.shape) for part, vectors in token.vectors.items()}
        for text, token in tokens.items()
    }


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        learned_tokens(dtypes=(torch.float16,)),
        min_size=1,
        max_size=3,
    )
)
def test_what_is_written_reads_back(tokens: dict[str, LearnedToken]) -> None:
    tensors, texts = write_tokens(Adapter(tokens=tokens), target_format="diffusers")
    found = read_tokens(tensors, texts, source="x")
    assert shapes(found) == shapes(tokens)
    for text, token in tokens.items():
        for part, vectors in token.vectors.items():
            assert torch.equal(found[text].vectors[part], vectors)


@pytest.mark.parametrize(
    ("tensors", "source"),
    [
        (PAIR, "model/huggy_emb.safetensors"),
        ({"text_encoders_0": SMALL, "text_encoders_1": LARGE}, "embeddings.pti.safetensors"),
    ],
)
def test_pivotal_tuning_has_a_token_per_row(tensors: dict[str, Tensor], source: str) -> None:
    found = read(tensors, source)
    assert list(found) == ["<s0>", "<s1>"]
    assert torch.equal(found["<s1>"].vectors[SECOND], LARGE[1:])


def test_rows_beside_updates_are_a_token_each() -> None:
    assert list(read(PAIR, is_pivotal=True)) == ["<s0>", "<s1>"]


def test_any_other_pair_is_one_token_called_as_the_file() -> None:
    assert shapes(read(PAIR)) == {"huggy": {FIRST: (2, 768), SECOND: (2, 1280)}}


def test_the_caller_may_name_all_vectors_or_each() -> None:
    assert shapes(read(PAIR, texts=["a"]))["a"][FIRST] == (2, 768)
    assert list(read(PAIR, texts=["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("key", "text"),
    [("<cat>", "<cat>"), ("emb_params", "huggy"), ("string_to_param.*", "huggy"), ("*", "huggy")],
)
def test_a_file_of_one_encoder_tells_it_by_its_width(key: str, text: str) -> None:
    assert shapes(read({key: SMALL})) == {text: {FIRST: (2, 768)}}
    assert shapes(read({key: LARGE[0]})) == {text: {SECOND: (1, 1280)}}


def test_tokens_are_told_from_updates() -> None:
    update = {"unet.conv_in.lora_A.weight": noise(2, 3)}
    assert split_tokens(PAIR | update) == (PAIR, update)
    assert split_tokens(update) == ({}, update)
    assert split_tokens({"<cat>": SMALL}) == ({"<cat>": SMALL}, {})


def said(*tokens: object) -> dict[str, str]:
    return {TOKENS_KEY: json.dumps({"tokens": tokens})}


ONE = {"text": "a", "num_vectors": 2, "encoders": ["text_encoder", "text_encoder_2"]}
BAD: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "width": ({"<cat>": noise(2, 64)}, {}, "width 64, expected 768"),
    "axes": ({"clip_l": noise(2, 3, 4)}, {}, r"shape \[2, 3, 4\], expected \[n, D\]"),
    "twice": ({"clip_l": SMALL, "text_encoders_0": SMALL}, {}, "under another name too"),
    "unlike": ({"clip_l": SMALL, "clip_g": LARGE[:1]}, {}, "as many of each encoder"),
    "texts": (PAIR, {"texts": ["a", "b", "c"]}, "2 vectors, which 3 tokens"),
    "same texts": (PAIR, {"texts": ["a", "a"]}, "cannot name"),
    "said none": (PAIR, {"metadata": said()}, "does not name"),
    "said some": (PAIR, {"metadata": said({**ONE, "num_vectors": 1})}, "does not name"),
    "said more": (PAIR, {"metadata": said({**ONE, "num_vectors": 3})}, "has not the 3 vectors"),
    "said twice": (PAIR, {"metadata": said(ONE, ONE)}, "no token"),
    "said wrong": (PAIR, {"metadata": said({**ONE, "encoders": ["vae"]})}, "no token"),
    "said unhashable": (PAIR, {"metadata": said({**ONE, "encoders": [[]]})}, "no token"),
}


@pytest.mark.parametrize(("tensors", "fields", "problem"), BAD.values(), ids=BAD)
def test_refuses_rows_that_cannot_be_told_apart(
    tensors: dict[str, Tensor], fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(AdapterInvalid, match=problem):
        read(tensors, **dict(fields))


def test_unlike_precisions_cannot_lie_in_one_tensor() -> None:
    tokens = {
        "a": LearnedToken(vectors={FIRST: SMALL}),
        "b": LearnedToken(vectors={FIRST: SMALL.half()}),
    }
    with pytest.raises(ConversionUnsupported, match="unlike width or precision for text_encoder"):
        write_tokens(Adapter(tokens=tokens), target_format="diffusers")
