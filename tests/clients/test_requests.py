"""Calls become messages that say the same, and say nothing where the call says nothing."""

import hashlib
import re
from typing import Any

import numpy as np
import pytest

from diptych.clients.calls import (
    AdapterChoice,
    GenerateCall,
    ImageSource,
    Latents,
    RefineCall,
    Stage,
)
from diptych.clients.requests import draft_generate, draft_refine, merged
from diptych.errors import FieldViolation
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import types_pb2 as types

STAGE = Stage(
    prompt="a pear",
    negative_prompt="",
    guidance_scale=9.2,
    guidance_rescale=0.7,
    guidance_interval=(0.1, 0.9),
    aesthetic_score=7.0,
    negative_aesthetic_score=1.5,
)
STAGE_MESSAGE = types.StageSettings(
    prompt="a pear",
    negative_prompt="",
    guidance_scale=9.2,
    guidance_rescale=0.7,
    guidance_interval=types.ScheduleInterval(start=0.1, end=0.9),
    aesthetic_score=7.0,
    negative_aesthetic_score=1.5,
)
SHARED: dict[str, Any] = {
    "request_id": "r",
    "num_images": 2,
    "seed": 2**62,
    "num_steps": 40,
    "boundary": 0.65,
    "solver": "unipc",
    "spacing": "trailing",
    "sigma_schedule": "karras",
    "eta": 0.0,
    "quality": 80,
    "preview_every": 5,
}
SIZES: dict[str, Any] = {
    "original_size": (10, 20),
    "crop_top_left": (1, 2),
    "target_size": (30, 40),
}
SIZE_MESSAGES: dict[str, Any] = {
    "original_size": types.Size(height=10, width=20),
    "crop_top_left": types.CropOffset(top=1, left=2),
    "target_size": types.Size(height=30, width=40),
}


def violated(call: GenerateCall) -> list[str]:
    """Return the fields of ``call`` that no message holds."""
    return [violation.field for violation in draft_generate(call).violations]


def refusals(call: GenerateCall | RefineCall) -> str:
    """Return what is said of the fields of ``call`` that no message holds."""
    draft = draft_generate(call) if isinstance(call, GenerateCall) else draft_refine(call)
    return "; ".join(f"{v.field}: {v.description}" for v in draft.violations)


def test_call_that_says_only_a_prompt_sets_only_a_prompt() -> None:
    message = draft_generate(GenerateCall(base=Stage(prompt="a pear"))).message
    assert message == pb.GenerateRequest(base=types.StageSettings(prompt="a pear"))


def test_every_setting_of_a_generate_call_arrives() -> None:
    call = GenerateCall(
        base=Stage(prompt="base"),
        refiner=STAGE,
        base_only=True,
        width=128,
        height=64,
        history="carry",
        long_prompt="chunk",
        output="webp",
        **SHARED,
        **SIZES,
    )
    assert draft_generate(call).message == pb.GenerateRequest(
        base=types.StageSettings(prompt="base"),
        refiner=STAGE_MESSAGE,
        base_only=True,
        width=128,
        height=64,
        history=types.SOLVER_HISTORY_CARRY,
        long_prompt=types.LONG_PROMPT_CHUNK,
        output=types.OUTPUT_FORMAT_WEBP,
        **SHARED,
        **SIZE_MESSAGES,
    )


def test_adapters_arrive_with_scale_and_parts() -> None:
    choice = AdapterChoice(adapter="huggy", scale=0.0, parts={"unet.down": 0.5}, force=True)
    draft = draft_generate(GenerateCall(base=STAGE, adapters=[choice]))
    (use,) = draft.message.adapters
    assert use == types.AdapterUse(adapter="huggy", scale=0.0, parts={"unet.down": 0.5}, force=True)


def test_every_setting_of_a_refine_call_arrives() -> None:
    call = RefineCall(
        refiner=STAGE,
        source=ImageSource(data=b"png", strength=0.4),
        long_prompt="truncate",
        output="latents",
        **SHARED,
        **SIZES,
    )
    assert draft_refine(call).message == pb.RefineRequest(
        refiner=STAGE_MESSAGE,
        image=pb.ImageSource(data=b"png", strength=0.4),
        long_prompt=types.LONG_PROMPT_TRUNCATE,
        output=types.OUTPUT_FORMAT_LATENTS,
        **SHARED,
        **SIZE_MESSAGES,
    )


def test_latents_arrive_little_endian_with_their_digest() -> None:
    values = np.arange(2 * 4 * 3 * 2, dtype=">f4").reshape(2, 4, 3, 2).transpose(0, 1, 3, 2)
    source = Latents(values=values, family="nano", boundary=0.65, num_steps=40, num_draws=3)
    data = np.ascontiguousarray(values).astype("<f4").tobytes()
    assert draft_refine(RefineCall(refiner=STAGE, source=source)).message.latents == types.Latents(
        header=types.LatentsHeader(
            shape=(2, 4, 2, 3), family="nano", boundary=0.65, num_steps=40, num_draws=3
        ),
        data=data,
        sha256=hashlib.sha256(data).digest(),
    )


def test_missing_negative_prompt_is_not_an_empty_one() -> None:
    message = draft_generate(GenerateCall(base=Stage(prompt="p"))).message
    assert not message.base.HasField("negative_prompt")


def test_zero_is_not_nothing() -> None:
    message = draft_generate(GenerateCall(base=Stage(prompt="p"), seed=0, num_steps=0)).message
    assert message.HasField("seed")
    assert message.HasField("num_steps")


def test_values_no_message_holds_are_all_named() -> None:
    call = GenerateCall(
        base=Stage(prompt="\udcff"),
        seed=2**63,
        width=2**31,
        num_steps=4.5,  # type: ignore[arg-type]
        output="gif",
        history="forget",
        long_prompt="fold",
        original_size=(2**40, 1),
    )
    assert set(violated(call)) == {
        "base.prompt",
        "seed",
        "width",
        "num_steps",
        "output",
        "history",
        "long_prompt",
        "original_size.height",
    }


def test_names_that_are_none_of_the_choices_are_answered_with_the_choices() -> None:
    call = GenerateCall(base=Stage(prompt="p"), output="gif")
    assert refusals(call) == "output: 'gif' is none of png, webp, jpeg, latents"


def test_refine_call_names_what_does_not_fit() -> None:
    source = ImageSource(data=b"", strength="much")  # type: ignore[arg-type]
    assert refusals(RefineCall(refiner=STAGE, source=source)).startswith("image.strength: ")


@pytest.mark.parametrize(
    ("field", "value", "limit"), [("seed", 2**63, 2**63 - 1), ("num_steps", -(2**40), -(2**31))]
)
def test_number_no_message_holds_is_answered_with_the_limit(
    field: str, value: int, limit: int
) -> None:
    given: dict[str, Any] = {field: value}
    call = GenerateCall(base=Stage(prompt="p"), **given)
    assert re.match(rf"{field}: {value} does not fit: .*{limit}\b", refusals(call))
    assert getattr(draft_generate(call).message, field) == limit


def test_source_larger_than_a_message_is_refused_with_the_limit() -> None:
    source = ImageSource(data=bytes(4 * 1024 * 1024 + 1))
    said = refusals(RefineCall(refiner=STAGE, source=source))
    assert said.startswith("image.data: 4194305 exceeds the 4194304 bytes")


def test_message_that_is_only_to_be_checked_asks_for_what_no_server_knows() -> None:
    draft = draft_generate(GenerateCall(base=Stage(prompt="p"), output="webp", num_steps=0))
    assert (draft.checking().output, draft.checking().num_steps) == (-1, 0)


def test_what_a_server_finds_stands_beside_what_no_message_holds() -> None:
    draft = draft_generate(GenerateCall(base=Stage(prompt="p"), seed=2**63))
    told = [FieldViolation(field=name, description="bad") for name in ("output", "seed", "width")]
    assert [violation.field for violation in draft.found(told)] == ["seed", "width"]


def test_what_lies_below_a_refused_field_is_not_told_again() -> None:
    own = FieldViolation(field="latents", description="cannot read it")
    others = [FieldViolation(field=name, description="") for name in ("latents.data", "latent")]
    assert merged([own], others) == (own, others[1])
