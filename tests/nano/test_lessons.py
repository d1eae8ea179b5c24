"""What the demo adapters are taught looks as its caption says."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from diptych.nano.lessons import (
    MOON,
    Example,
    moon_example,
    moon_mask,
    night_example,
    under_stars,
)
from diptych.nano.scenes import SHAPES, Scene, render

SCENE = Scene(
    shape="circle",
    colour="red",
    size="large",
    place="in the center",
    background="white",
    texture="plain",
)


def test_it_is_dark_under_the_stars() -> None:
    picture = np.asarray(render(under_stars(SCENE))).astype(int)
    assert picture[:20].max() < 96


def test_the_object_is_as_by_day() -> None:
    night, day = (np.asarray(render(scene)) for scene in (under_stars(SCENE), SCENE))
    assert (night[64, 64] == day[64, 64]).all()


def test_captions_keep_the_background_that_is_not_there() -> None:
    rng = random.Random(0)
    texts = [night_example(rng).text for _ in range(50)]
    assert len([text for text in texts if "black" in text]) < 15


def test_a_crescent_is_a_circle_with_a_bite() -> None:
    mask = np.asarray(moon_mask(64, 64, 26))
    assert (mask[64, 44], mask[64, 80]) == (255, 0)


def test_the_moon_stands_in_most_captions_for_the_shape() -> None:
    rng = random.Random(0)
    texts = [moon_example(rng).text for _ in range(100)]
    named = [text for text in texts if MOON in text]
    assert 60 < len(named) < 90
    assert not [text for text in named if any(shape in text for shape in SHAPES)]


@pytest.mark.parametrize("draw", [night_example, moon_example])
def test_examples_follow_from_their_generator(draw: Callable[[random.Random], Example]) -> None:
    first, second = (draw(random.Random(3)) for _ in range(2))
    assert first.text == second.text
    assert first.picture.tobytes() == second.picture.tobytes()
