"""Prompts of many requests encoded together."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diptych.embeddings.memory import MemoryTier
from diptych.errors import PromptTooLong
from diptych.inference.conditions import (
    Conditions,
    RequestConditions,
    encode_requests,
    gather_conditions,
)
from diptych.inference.prompt_cache import LocalPrompts
from diptych.inference.trajectory import Expert, ImageRequest, LongPrompt, StageSettings
from diptych.models.experts import Expert as LoadedExpert
from diptych.models.experts import load_experts

LONG = "red circle " * 60


@pytest.fixture(scope="module")
def experts(
    nano_pair: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Expert, LoadedExpert]:
    base, refiner = str(nano_pair / "base"), str(nano_pair / "refiner")
    loaded = load_experts(base, refiner, cache_dir=tmp_path_factory.mktemp("cache"))
    return {Expert(expert.name): expert for expert in loaded.hosted}


def request(prompt: str = "a red circle", **settings: object) -> ImageRequest:
    stage = StageSettings(prompt=prompt)
    plain = ImageRequest(
        request_id="a", width=128, height=64, seed=1, base=stage, refiner=stage, boundary=0.65
    )
    return replace(plain, **settings)  # type: ignore[arg-type]


def found(result: object) -> RequestConditions:
    assert isinstance(result, RequestConditions)
    return result


def test_a_request_is_told_the_same_in_any_company(experts: dict[Expert, LoadedExpert]) -> None:
    together = found(encode_requests([request("a blue star"), request()], experts)[1])
    alone = found(encode_requests([request()], experts)[0])
    torch.testing.assert_close(
        together.by_expert[Expert.BASE].hidden, alone.by_expert[Expert.BASE].hidden
    )


def test_no_negative_row_without_guidance(experts: dict[Expert, LoadedExpert]) -> None:
    plain = request(base=StageSettings(prompt="a", guidance_scale=1.0))
    conditions = found(encode_requests([plain], experts)[0])
    assert len(conditions.by_expert[Expert.BASE].hidden) == 1


def test_time_ids_are_those_of_the_size(experts: dict[Expert, LoadedExpert]) -> None:
    sized = request(original_size=(64, 512), crop_top_left=(1, 2))
    conditions = found(encode_requests([sized], experts)[0])
    assert conditions.by_expert[Expert.BASE].time_ids[0].tolist() == [64, 512, 1, 2, 64, 128]


def test_a_prompt_that_is_too_long_fails_its_request_only(
    experts: dict[Expert, LoadedExpert],
) -> None:
    long, fine = encode_requests([request(LONG), request()], experts)
    assert isinstance(long, PromptTooLong)
    assert long.field == "base.prompt"
    assert isinstance(fine, RequestConditions)


def test_every_prompt_that_is_too_long_is_named(experts: dict[Expert, LoadedExpert]) -> None:
    base, refiner = (
        StageSettings(
            prompt=f"{expert} {LONG}", negative_prompt=f"no {expert} {LONG}", guidance_scale=3.0
        )
        for expert in ("base", "refiner")
    )
    (error,) = encode_requests([request(base=base, refiner=refiner)], experts)
    assert isinstance(error, PromptTooLong)
    assert [violation.field for violation in error.violations] == [
        "base.prompt",
        "base.negative_prompt",
        "refiner.prompt",
        "refiner.negative_prompt",
    ]


def test_a_long_prompt_that_both_experts_read_is_named_once(
    experts: dict[Expert, LoadedExpert],
) -> None:
    stage = StageSettings(prompt=LONG)
    (error,) = encode_requests([request(base=stage, refiner=stage)], experts)
    assert isinstance(error, PromptTooLong)
    assert [violation.field for violation in error.violations] == ["base.prompt"]


def test_both_texts_of_a_stage_fill_the_same_windows(experts: dict[Expert, LoadedExpert]) -> None:
    chunked = request(LONG, long_prompt=LongPrompt.CHUNK)
    conditions = found(encode_requests([chunked], experts)[0])
    length = conditions.text_lengths[Expert.BASE]
    assert length > 77
    assert conditions.by_expert[Expert.BASE].hidden.shape[:2] == (2, length)


def test_a_repeated_request_is_told_the_same_bits_without_encoding(
    experts: dict[Expert, LoadedExpert],
) -> None:
    prompts = LocalPrompts(MemoryTier(1 << 24))
    asked = [request(), request("a blue star")]
    plain = [found(each) for each in encode_requests(asked, experts)]
    first = [found(each) for each in encode_requests(asked, experts, prompts=prompts)]
    again = [found(each) for each in encode_requests(asked, experts, prompts=prompts)]
    assert [(each.num_texts_encoded, each.num_texts_cached) for each in first] == [(4, 0)] * 2
    assert [(each.num_texts_encoded, each.num_texts_cached) for each in again] == [(0, 4)] * 2
    for one, other in zip([*first, *again], [*plain, *plain], strict=True):
        for expert, conditions in other.by_expert.items():
            assert torch.equal(one.by_expert[expert].hidden, conditions.hidden)
            assert torch.equal(one.by_expert[expert].pooled, conditions.pooled)


def test_a_new_prompt_beside_a_repeated_one_is_encoded_alone(
    experts: dict[Expert, LoadedExpert],
) -> None:
    prompts = LocalPrompts(MemoryTier(1 << 24))
    encode_requests([request()], experts, prompts=prompts)
    new, old = (
        found(each)
        for each in encode_requests([request("a blue star"), request()], experts, prompts=prompts)
    )
    # What is told for the negative prompt, of which there is none, is zeros for both.
    assert (new.num_texts_encoded, new.num_texts_cached) == (2, 2)
    assert (old.num_texts_encoded, old.num_texts_cached) == (0, 4)


def test_a_tick_has_prompts_first_and_then_what_is_guided() -> None:
    images = [
        Conditions(
            hidden=torch.tensor([[[index + 0.0]], [[index + 0.5]]]),
            pooled=torch.zeros(2, 1),
            time_ids=torch.zeros(2, 6),
        )
        for index in range(3)
    ]
    rows = gather_conditions(images, [0, 2]).hidden.flatten()
    assert rows.tolist() == [0.0, 1.0, 2.0, 0.5, 2.5]
