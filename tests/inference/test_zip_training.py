"""A zip trains all over its experts' timesteps, on errors relative to what sources change."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from diptych.diffusion.noise import RowNoise
from diptych.diffusion.schedule import NoiseSchedule
from diptych.errors import InvalidRequest
from diptych.inference.conditions import Conditions
from diptych.inference.trajectory import Expert
from diptych.inference.zip_training import (
    NUM_DRAWING_STEPS,
    Place,
    Source,
    Training,
    draw_pictures,
    interval_places,
)
from diptych.models.family import FAMILIES

ROWS = Conditions(hidden=torch.zeros(2, 1, 1), pooled=torch.zeros(2, 1), time_ids=torch.zeros(2, 6))
SHAPE = (4, 2, 2)


class FakeExpert:
    """What the trainer asks of a loaded expert."""

    family = FAMILIES["nano"]

    def __init__(self, prediction_type: str) -> None:
        self.schedule = NoiseSchedule(prediction_type=prediction_type)
        self.unet = self
        self.device = torch.device("cpu")


class FakeNetwork:
    """Predicts x times a number of its own for each source."""

    def __init__(
        self, effects: dict[int | None, Tensor], prediction_type: str = "v_prediction"
    ) -> None:
        self.expert = FakeExpert(prediction_type)
        self.effects = effects
        self.blend: object | None = object()
        self.asked: list[int] = []

    def predict(self, x: Tensor, timestep: int, told: Conditions, *, shows: int | None) -> Tensor:
        self.asked.append(timestep)
        return x * self.effects.get(shows, torch.tensor(0.0))


def source(rows: Iterable[Expert] = Expert) -> Source:
    told = dict.fromkeys(rows, ROWS)
    return Source(told=told, told_merged=told, pictures=torch.ones(2, *SHAPE))


def training(network: FakeNetwork) -> Training:
    places = [Place(expert=Expert.BASE, timestep=t) for t in range(100, 1000)]
    networks = {Expert.BASE: network}
    return Training(networks, [source(), source()], places, RowNoise(0))  # type: ignore[arg-type]


def effects(*values: float) -> dict[int | None, Tensor]:
    """Return those of sources 0 and 1 and, last, of the merge."""
    named = zip((0, 1, -1), values, strict=True)
    return {shows: torch.tensor(value) for shows, value in named}


def test_a_merge_that_changes_nothing_has_error_one() -> None:
    assert training(FakeNetwork(effects(1.0, 3.0, 0.0))).judge() == pytest.approx((1.0, 1.0))


def test_a_merge_that_is_a_source_has_no_error_there() -> None:
    assert training(FakeNetwork(effects(1.0, 3.0, 3.0))).judge() == pytest.approx((4.0, 0.0))


def test_a_source_that_changes_nothing_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"adapters\[1\]: changes nothing"):
        training(FakeNetwork(effects(1.0, 0.0, 1.0)))


def test_the_loss_has_a_gradient_in_the_merge() -> None:
    network = FakeNetwork(effects(1.0, 3.0, 1.0))
    network.effects[-1].requires_grad_()
    training(network).loss_at(0).backward()  # type: ignore[no-untyped-call]
    assert float(network.effects[-1].grad or 0) < 0


def test_steps_fall_evenly_into_the_interval() -> None:
    network = FakeNetwork(effects(1.0, 1.0, 1.0))
    lesson = training(network)
    network.asked.clear()
    for step in range(90):
        lesson.loss_at(step)
    counts = torch.histc(torch.tensor(network.asked, dtype=torch.float32), 9, 100, 1000)
    assert float(counts.max() - counts.min()) <= 6  # of 30, as every step asks thrice


def places_of(
    *names: Expert, frozen: Expert | None = None, within: tuple[int, int] | None = None
) -> list[Place]:
    networks = {name: FakeNetwork({}) for name in names}
    if frozen is not None:
        networks[frozen].blend = None
    return interval_places(networks, cut=350, within=within)  # type: ignore[arg-type]


def test_two_experts_share_the_schedule_at_the_cut() -> None:
    places = places_of(Expert.BASE, Expert.REFINER)
    assert [place.timestep for place in places] == list(range(1000))
    assert [place.expert for place in places[349:351]] == [Expert.REFINER, Expert.BASE]


def test_only_experts_that_learn_are_trained_on() -> None:
    places = places_of(Expert.BASE, Expert.REFINER, frozen=Expert.REFINER)
    assert (places[0].timestep, places[-1].timestep) == (350, 999)


def test_one_expert_has_the_whole_schedule() -> None:
    assert len(places_of(Expert.REFINER)) == 1000


def test_the_adapters_own_range_is_kept_to() -> None:
    places = places_of(Expert.BASE, within=(200, 299))
    assert (places[0].timestep, places[-1].timestep) == (200, 299)


def test_a_range_of_another_experts_is_ignored() -> None:
    places = places_of(Expert.BASE, Expert.REFINER, frozen=Expert.REFINER, within=(0, 99))
    assert len(places) == 650


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_pictures_of_a_perfect_network_are_what_it_knows(prediction_type: str) -> None:
    known = 0.5
    network = Knowing(known, prediction_type)
    pictures = draw_pictures(
        {Expert.BASE: network},  # type: ignore[dict-item]
        {Expert.BASE: ROWS},
        SHAPE,
        RowNoise(0),
        shows=0,
        cut=350,
        go_on=lambda: None,
    )
    assert torch.allclose(pictures, torch.full((2, *SHAPE), known), atol=1e-4)


def test_experts_draw_their_own_part() -> None:
    networks = {name: FakeNetwork({}) for name in Expert}
    calls: list[int] = []
    draw_pictures(
        networks,  # type: ignore[arg-type]
        dict.fromkeys(Expert, ROWS),
        SHAPE,
        RowNoise(0),
        shows=0,
        cut=350,
        go_on=lambda: calls.append(1),
    )
    assert networks[Expert.BASE].asked == [999, 874, 749, 624, 499, 374]
    assert networks[Expert.REFINER].asked == [249, 124]
    assert len(calls) == NUM_DRAWING_STEPS


class Knowing(FakeNetwork):
    """Predicts as one would that knows the only picture there is."""

    def __init__(self, known: float, prediction_type: str) -> None:
        super().__init__({}, prediction_type)
        self.known = known

    @override
    def predict(self, x: Tensor, timestep: int, told: Conditions, *, shows: int | None) -> Tensor:
        share = float(self.expert.schedule.alphas_cumprod[timestep])
        signal, sigma = share**0.5, (1 - share) ** 0.5
        eps = (x - signal * self.known) / sigma
        said: dict[str, Tensor] = {
            "epsilon": eps,
            "v_prediction": signal * eps - sigma * self.known,
            "sample": torch.full_like(x, self.known),
        }
        return said[self.expert.schedule.prediction_type]
