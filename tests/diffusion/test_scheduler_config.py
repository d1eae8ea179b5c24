"""A scheduler configuration that is not what it should be is refused by key."""

import pytest

from diptych.diffusion.scheduler_config import DISCRETE_SCHEDULERS, ConfigReader
from diptych.errors import CheckpointInvalid


def reader(**config: object) -> ConfigReader:
    return ConfigReader({"_class_name": "EulerDiscreteScheduler", **config}, "repo/scheduler")


@pytest.mark.parametrize("value", ["0.1", True, None, float("nan"), float("inf"), -1.0, 0.0])
def test_a_number_is_finite_and_positive(value: object) -> None:
    with pytest.raises(CheckpointInvalid, match=r"repo/scheduler: beta_start"):
        reader(beta_start=value).number("beta_start", 0.1)


@pytest.mark.parametrize("value", [0, 1.5, "1000", True, 10**9])
def test_an_integer_is_whole_and_within_reach(value: object) -> None:
    with pytest.raises(CheckpointInvalid, match="num_train_timesteps"):
        reader(num_train_timesteps=value).integer("num_train_timesteps", 1000, low=2)


def test_a_flag_is_a_boolean() -> None:
    with pytest.raises(CheckpointInvalid, match="use_karras_sigmas"):
        reader(use_karras_sigmas="yes").flag("use_karras_sigmas", default=False)


def test_null_counts_as_an_absent_flag() -> None:
    assert reader(use_karras_sigmas=None).flag("use_karras_sigmas", default=False) is False


def test_a_choice_is_one_of_a_few() -> None:
    with pytest.raises(CheckpointInvalid, match="linspace, leading"):
        reader(timestep_spacing=3).choice("timestep_spacing", ("linspace", "leading"), "linspace")


def test_two_sigma_schedules_contradict() -> None:
    with pytest.raises(CheckpointInvalid, match="contradicts"):
        reader(use_karras_sigmas=True, use_beta_sigmas=True).sigma_schedule()


def test_a_number_may_be_written_as_an_integer() -> None:
    assert reader(timestep_scaling=10).number("timestep_scaling", 1.0) == 10.0


@pytest.mark.parametrize("name", DISCRETE_SCHEDULERS)
def test_every_listed_scheduler_is_read(name: str) -> None:
    assert not ConfigReader({"_class_name": name}, "source").is_edm


def test_an_unsupported_setting_is_named() -> None:
    with pytest.raises(CheckpointInvalid, match="use_lu_lambdas"):
        reader(use_lu_lambdas=True).refuse_unsupported()
