"""How many steps a job takes."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from diptych.datasets.plan import Plan
from diptych.datasets.sampling import Sampler
from diptych.datasets.spec import SamplingSpec
from diptych.training.run_length import count_steps, sampler_config
from diptych.training.spec import JobSpec, RunSpec
from support.looping import a_job
from support.planned import plan_of


def plans(**sampling: int) -> Mapping[str, Plan]:
    return {"one": plan_of([(64, 64)] * 10, batch_size=2, sampling=SamplingSpec(**sampling))}


def epochs(num_epochs: int, **run: int) -> JobSpec:
    return replace(a_job(), run=RunSpec(num_epochs=num_epochs, **run))  # type: ignore[arg-type]


def test_steps_that_are_asked_for_count() -> None:
    assert count_steps(a_job(num_steps=7), plans(), num_ranks=1) == 7


@pytest.mark.parametrize(
    ("spec", "num_ranks", "expected"),
    [(epochs(3), 1, 15), (epochs(3, num_accumulated=2), 1, 8), (epochs(3), 4, 4)],
    ids=["alone", "accumulating", "on four"],
)
def test_epochs_have_as_many_steps_as_the_sampler_gives(
    spec: JobSpec, num_ranks: int, expected: int
) -> None:
    found = count_steps(spec, plans(), num_ranks=num_ranks)
    config = sampler_config(spec, rank=0, num_ranks=num_ranks)
    assert found == expected == len(list(Sampler(plans(), config).steps()))


def test_a_run_is_no_longer_than_its_datasets() -> None:
    assert count_steps(a_job(num_steps=100), plans(end_epoch=2), num_ranks=1) == 10
    assert count_steps(a_job(num_steps=6), plans(end_epoch=2), num_ranks=1) == 6
