"""A card tells what an adapter was made for, and what runs here decides."""

import dataclasses

import pytest

from diptych.adapters.naming import Stage
from diptych.errors import AdapterMismatch
from diptych.inference.fitting import acts_on, check_card, mismatch_of
from diptych.inference.hosted import Hosted, HostedExpert
from diptych.inference.trajectory import Expert
from support.catalogs import a_card


def expert_of(family: str) -> HostedExpert:
    return HostedExpert(
        expert=Expert.BASE,
        family=family,
        model=family,
        prediction_type="epsilon",
        guidance_scale=5.0,
    )


@pytest.mark.parametrize(
    ("stage", "experts"),
    [
        (Stage.BASE, {Expert.BASE}),
        (Stage.REFINER, {Expert.REFINER}),
        (Stage.BOTH, {Expert.BASE, Expert.REFINER}),
    ],
)
def test_stage_says_which_experts_are_acted_on(stage: Stage, experts: set[Expert]) -> None:
    assert acts_on(a_card(stage=stage)) == experts


@pytest.mark.parametrize("family", ["sdxl-base", "sdxl-turbo", "sdxl-lightning", None])
def test_adapters_go_across_few_step_students(family: str | None) -> None:
    assert mismatch_of(a_card(family=family), expert_of("sdxl-turbo"), name="huggy") is None


@pytest.mark.parametrize("family", ["ssd-1b", "playground-v2.5", "sdxl-refiner", "nano"])
def test_adapters_of_other_families_do_not_fit(family: str) -> None:
    assert mismatch_of(a_card(family=family), expert_of("sdxl-base"), name="huggy") is not None


def test_other_prediction_type_does_not_fit() -> None:
    card = a_card(family=None, prediction_type="v_prediction")
    mismatch = mismatch_of(card, expert_of("sdxl-base"), name="huggy")
    assert mismatch is not None
    assert mismatch.field == "prediction type"


def test_stage_that_is_not_hosted_is_named(hosted: Hosted) -> None:
    alone = dataclasses.replace(hosted, refiner=None)
    with pytest.raises(AdapterMismatch, match="its stage is refiner, the model's base"):
        check_card(a_card(stage=Stage.REFINER), alone, name="huggy")


def test_adapter_of_both_fits_if_it_fits_one(hosted: Hosted) -> None:
    assert hosted.refiner is not None
    other = dataclasses.replace(hosted.refiner, family="sdxl-refiner")
    check_card(a_card(stage=Stage.BOTH), dataclasses.replace(hosted, refiner=other), name="huggy")
