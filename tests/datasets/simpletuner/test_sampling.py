"""Images are seen as often, and embeddings kept as they were."""

from typing import Any

import pytest

from diptych.datasets.simpletuner.sampling import cache_of, sampling_of
from support.simpletuner_options import Entry


@pytest.mark.parametrize(("repeats", "expected"), [(0, {}), (9, {"repeats": 10}), (None, {})])
def test_no_repeats_there_is_one_here(repeats: int | None, expected: dict[str, int]) -> None:
    assert sampling_of(Entry(repeats=repeats).options) == expected


def test_schedules_are_the_same() -> None:
    schedule = {"start_epoch": 2, "start_step": 10, "end_epoch": 5, "end_step": 300}
    assert sampling_of(Entry(**schedule).options) == schedule
    idle = {"start_epoch": 1, "start_step": 0, "end_epoch": None, "end_step": 0}
    assert sampling_of(Entry(**idle).options) == {}


def test_weights_batches_and_limits_are_the_same() -> None:
    entry = Entry(probability="0.5", train_batch_size=4, max_num_samples=100)
    assert sampling_of(entry.options) == {"probability": 0.5, "batch_size": 4, "max_samples": 100}
    assert entry.said()["max_num_samples"] == "differs"


@pytest.mark.parametrize(
    ("values", "texts", "expected"),
    [
        ({}, {}, {}),
        ({"vae_cache_ondemand": True}, {}, {"images": "on_demand"}),
        ({"vae_cache_disable": "true"}, {}, {"images": "bypass"}),
        ({"vae_cache_disable": True, "vae_cache_ondemand": True}, {}, {"images": "bypass"}),
        ({}, {"text_cache_ondemand": True}, {"prompts": "on_demand"}),
        ({}, {"text_cache_disable": True}, {"prompts": "bypass"}),
    ],
)
def test_modes_of_caching_have_their_counterparts(
    values: dict[str, Any], texts: dict[str, Any], expected: dict[str, str]
) -> None:
    assert cache_of(Entry(**values).options, Entry(**texts).options) == expected


def test_global_modes_stand_behind() -> None:
    defaults = {"vae_cache_ondemand": True, "text_cache_disable": True}
    found = cache_of(Entry(defaults).options, Entry(defaults).options)
    assert found == {"images": "on_demand", "prompts": "bypass"}


def test_a_dataset_without_text_embeds_has_no_mode_of_theirs() -> None:
    assert cache_of(Entry({"text_cache_disable": True}).options, None) == {}
