"""What no adapter can be is refused, whatever format it came in."""

from dataclasses import replace

import pytest
import torch

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Magnitude,
    Target,
)
from diptych.adapters.soundness import check_numbers, check_shapes
from diptych.errors import AdapterInvalid
from support.made_adapters import noise

TARGET = Target(component=Component.UNET, module="mid_block.attentions.0.proj_in")
UPDATE = LowRank(down=noise(2, 3), up=noise(4, 2), alpha=2.0)
ENCODER, SECOND = Component.TEXT_ENCODER, Component.TEXT_ENCODER_2
TOKEN = LearnedToken(vectors={ENCODER: noise(2, 6), SECOND: noise(2, 7)})
ADAPTER = Adapter(targets={TARGET: UPDATE}, tokens={"<s0>": TOKEN})


def of(update: LowRank) -> Adapter:
    return Adapter(targets={TARGET: update})


def of_module(name: str) -> Adapter:
    return Adapter(targets={Target(component=Component.UNET, module=name): UPDATE})


def of_token(text: str, **vectors: torch.Tensor) -> Adapter:
    return Adapter(
        tokens={text: LearnedToken(vectors={Component(k): v for k, v in vectors.items()})}
    )


def with_norms(norms: torch.Tensor, *, per_input: bool) -> Adapter:
    return of(replace(UPDATE, magnitude=Magnitude(norms=norms, per_input=per_input)))


def test_a_sound_adapter_comes_back_itself() -> None:
    assert check_numbers(check_shapes(ADAPTER, "here"), "here") is ADAPTER


BAD = {
    "nothing": (Adapter(), "neither targets nor learned tokens"),
    "path": (of_module("../../etc/passwd"), "no module's name"),
    "NUL": (of_module("a\0b"), "no module's name"),
    "long name": (of_module("a" * 10_000), "target 'unet.aaa"),
    "ranks": (of(replace(UPDATE, up=noise(4, 3))), r"down \[2, 3\] and up \[4, 3\], expected"),
    "axes": (of(replace(UPDATE, down=noise(2, 3, 4))), "expected"),
    "convolution up": (of(replace(UPDATE, up=noise(4, 2, 1, 1))), "expected"),
    "rank": (
        of(LowRank(down=noise(129, 3), up=noise(4, 129), alpha=1.0)),
        "proj_in has rank 129, the limit is 128",
    ),
    "empty": (of(LowRank(down=noise(0, 3), up=noise(4, 0), alpha=1.0)), "are empty"),
    "alpha": (of(replace(UPDATE, alpha=float("inf"))), "alpha inf, expected a finite number"),
    "integers": (of(replace(UPDATE, down=torch.ones(2, 3, dtype=torch.int32))), "floating point"),
    "norms": (with_norms(noise(3), per_input=False), r"\[3\], expected \[4\], one per output"),
    "norms per input": (with_norms(noise(4), per_input=True), r"expected \[3\], one per input"),
    "norms as a column": (with_norms(noise(4, 1), per_input=False), r"\[4, 1\], expected \[4\]"),
    "integer norms": (with_norms(torch.ones(4, dtype=torch.int8), per_input=False), "floating"),
    "token's text": (of_token("a\nb", text_encoder=noise(1, 4)), "printable characters"),
    "token's padding": (of_token(" a", text_encoder=noise(1, 4)), "printable characters"),
    "no text": (of_token("", text_encoder=noise(1, 4)), "printable characters"),
    "long text": (of_token("a" * 101, text_encoder=noise(1, 4)), "printable characters"),
    "no vectors": (of_token("a"), r"has vectors \{\}"),
    "flat vectors": (of_token("a", text_encoder=noise(4)), r"expected \[n, D\]"),
    "unlike numbers": (
        of_token("a", text_encoder=noise(1, 4), text_encoder_2=noise(2, 4)),
        "as many of each encoder",
    ),
    "no encoder": (of_token("a", unet=noise(1, 4)), "not encoders"),
    "many vectors": (of_token("a", text_encoder=noise(65, 4)), "has 65 vectors, the limit is 64"),
    "integer token": (of_token("a", text_encoder=torch.ones(1, 4).int()), "floating point"),
    "words": (replace(ADAPTER, trigger_words=("\ud800",)), "not Unicode"),
    "family": (replace(ADAPTER, made_for=MadeFor(family="\ud800")), "not Unicode"),
    "metadata": (replace(ADAPTER, metadata={"\udc00": ""}), "not Unicode"),
}


@pytest.mark.parametrize(("adapter", "problem"), BAD.values(), ids=BAD)
def test_refuses_what_no_adapter_can_be(adapter: Adapter, problem: str) -> None:
    with pytest.raises(AdapterInvalid, match=problem) as raised:
        check_shapes(adapter, "here")
    assert str(raised.value).startswith("adapter here: ")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["down", "up", "magnitude", "token"])
def test_refuses_numbers_that_are_not_finite(value: float, place: str) -> None:
    parts = {"down": noise(2, 3), "up": noise(4, 2), "magnitude": noise(4), "token": noise(1, 6)}
    parts[place].view(-1)[-1] = value
    adapter = Adapter(
        targets={
            TARGET: LowRank(
                down=parts["down"],
                up=parts["up"],
                alpha=2.0,
                magnitude=Magnitude(norms=parts["magnitude"], per_input=False),
            )
        },
        tokens={"<s0>": LearnedToken(vectors={ENCODER: parts["token"]})},
    )
    with pytest.raises(AdapterInvalid, match=f"{place}.*holds NaN or infinite values"):
        check_numbers(adapter, "here")


HUGE = {
    "a factor": (replace(UPDATE, down=UPDATE.down * 1e30), "proj_in down holds"),
    "a factor of any dtype": (replace(UPDATE, up=noise(4, 2).double() * 1e200), "proj_in up holds"),
    "alpha": (replace(UPDATE, alpha=1e12), "proj_in up, times alpha / rank, holds"),
    "norms": (
        replace(UPDATE, magnitude=Magnitude(norms=torch.full((4,), 1e6), per_input=False)),
        "proj_in magnitude holds 1e\\+06, the limit is 65504",
    ),
    "their product": (
        replace(UPDATE, down=torch.full((2, 3), 6e4), up=torch.full((4, 2), 6e4)),
        "proj_in changes a weight by rows of norm",
    ),
}


@pytest.mark.parametrize(("update", "problem"), HUGE.values(), ids=HUGE)
def test_refuses_numbers_that_float16_cannot_hold(update: LowRank, problem: str) -> None:
    with pytest.raises(AdapterInvalid, match=problem):
        check_numbers(of(update), "here")


def test_refuses_tokens_that_float16_cannot_hold() -> None:
    adapter = of_token("a", text_encoder=torch.full((1, 4), -7e4))
    with pytest.raises(AdapterInvalid, match="token 'a' of text_encoder holds 7e"):
        check_numbers(adapter, "here")


def test_large_factors_whose_product_cancels_are_taken() -> None:
    up = torch.tensor([[3e4, -3e4]] * 4)
    update = LowRank(down=torch.full((2, 3), 3e4), up=up, alpha=1.0)
    adapter = of(update)
    assert check_numbers(adapter, "here") is adapter
