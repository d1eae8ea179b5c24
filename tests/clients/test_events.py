"""Events are values: equal when they say the same, and fixed once made."""

import dataclasses

import pytest

from diptych.clients.events import Picture, Progress


def a_picture() -> Picture:
    return Picture(image_index=0, seed=1, width=8, height=8, media_type="image/png", data=b"x")


def test_events_that_say_the_same_are_equal() -> None:
    first = Progress(image_index=0, step=1, num_steps=2, expert="base")
    assert first == Progress(image_index=0, step=1, num_steps=2, expert="base")


def test_event_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_picture().seed = 2  # type: ignore[misc]


def test_picture_is_no_latents_unless_it_says_so() -> None:
    assert a_picture().latents is None
