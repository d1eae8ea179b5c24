"""Teaching the demo adapters: what comes out is what a server takes in."""

from pathlib import Path

import pytest
import torch

from diptych.adapters.adapter import Adapter, Component, Stage
from diptych.adapters.bundle import from_bytes
from diptych.nano.adapters import LESSONS, LessonConfig, teach
from diptych.nano.lessons import MOON


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """Return the subject after two steps of each expert."""
    config = LessonConfig(
        out=tmp_path_factory.mktemp("adapters"),
        num_examples=50,
        base_steps=2,
        refiner_steps=1,
        batch=4,
        base_rank=4,
        refiner_rank=2,
    )
    return from_bytes(teach("moon", config))


def test_each_expert_has_factors_of_its_own(taught: Adapter) -> None:
    ranks = {target.component: update.rank for target, update in taught.targets.items()}
    assert ranks == {Component.UNET: 4, Component.REFINER_UNET: 2}
    assert taught.made_for.stage is Stage.BOTH


def test_both_text_encoders_learn_the_token(taught: Adapter) -> None:
    vectors = taught.tokens[MOON].vectors
    assert {part: tuple(v.shape) for part, v in vectors.items()} == {
        Component.TEXT_ENCODER: (1, 64),
        Component.TEXT_ENCODER_2: (1, 64),
    }


def test_training_moves_the_factors(taught: Adapter) -> None:
    assert all(update.up.abs().max() > 0 for update in taught.targets.values())


def test_the_same_seed_teaches_the_same(tmp_path: Path) -> None:
    configs = [
        LessonConfig(out=tmp_path / name, num_examples=50, base_steps=1, refiner_steps=1, batch=2)
        for name in ("one", "two")
    ]
    before = torch.get_rng_state()
    one, two = (teach("night", config).read_bytes() for config in configs)
    assert one == two
    assert torch.equal(torch.get_rng_state(), before)


def test_there_are_a_style_and_a_subject() -> None:
    assert {name: lesson.token for name, lesson in LESSONS.items()} == {
        "night": None,
        "moon": MOON,
    }
