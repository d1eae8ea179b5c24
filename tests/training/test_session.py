"""Whole jobs on the nano model over a real cache, in this process."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.adapters.naming import Stage
from diptych.digest import Digest
from diptych.errors import EncodersMismatch, ResumeMismatch
from diptych.training.publishing import open_registry
from support.jobs import a_session, a_task, an_attempt, events_of, nano_cache, run_session


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nano_cache(tmp_path_factory.mktemp("cache")) as address:
        yield address


def test_a_job_ends_in_an_adapter_that_has_no_name_yet(cache: str, tmp_path: Path) -> None:
    task = a_task(tmp_path, cache)
    folder = an_attempt(task)
    outcome = a_session(task, folder).run()
    assert outcome.ending == "succeeded"
    digests = outcome.result["digests"]
    assert isinstance(digests, dict)
    registry = open_registry(task)
    card = registry.card(Digest(hex=digests["single"].removeprefix("sha256:")))
    assert (card.family, card.stage, card.max_rank) == ("nano", Stage.BASE, 4)
    assert card.timestep_range == (0, 999)
    assert registry.pointers("default") == {}
    (prepared,) = events_of(folder, "prepared")
    assert (prepared["num_images"], prepared["num_encoded"]) == (6, 6 + 6 + 1)
    assert [told["step"] for told in events_of(folder, "checkpoint")] == [3, 6, 8]
    timesteps = outcome.result["timesteps"]
    assert isinstance(timesteps, dict)
    assert sum(timesteps["single"]["bins"]) == 8 * 2
