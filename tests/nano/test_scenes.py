"""Scenes are words, drawn the same way every time, and split cleanly."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.nano.scenes import (
    NUM_TEMPLATES,
    PICTURE_SIZE,
    SHAPES,
    TEXTURES,
    caption,
    held_out_scenes,
    is_held_out,
    object_mask,
    render,
    sample_scene,
    texture_mask,
)


@given(st.integers(0, 2**32))
def test_first_four_phrasings_leave_nothing_out(seed: int) -> None:
    scene = sample_scene(random.Random(seed))
    words = (scene.shape, scene.colour, scene.size, scene.place, scene.background, scene.texture)
    assert all(word in caption(scene, template) for template in range(4) for word in words)


@given(st.integers(0, 2**32), st.integers(0, NUM_TEMPLATES - 1))
def test_every_phrasing_names_shape_and_colour(seed: int, template: int) -> None:
    scene = sample_scene(random.Random(seed))
    assert f"{scene.colour} {scene.shape}" in caption(scene, template)


def test_held_out_scenes_are_held_out_and_repeatable() -> None:
    scenes = held_out_scenes(40, seed=3)
    assert all(map(is_held_out, scenes))
    assert scenes == held_out_scenes(40, seed=3)


def test_about_one_scene_in_eight_is_held_out() -> None:
    rng = random.Random(0)
    share = sum(is_held_out(sample_scene(rng)) for _ in range(4000)) / 4000
    assert 0.1 < share < 0.15


def test_a_scene_without_jitter_is_always_the_same_picture() -> None:
    scene = sample_scene(random.Random(1))
    picture = render(scene)
    assert picture.size == (PICTURE_SIZE, PICTURE_SIZE)
    assert picture.tobytes() == render(scene).tobytes()


def test_jitter_comes_from_the_given_generator_alone() -> None:
    scene = sample_scene(random.Random(1))
    first, again = (render(scene, random.Random(7)).tobytes() for _ in range(2))
    assert first == again
    assert first != render(scene).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_stays_within_its_radius(shape: str) -> None:
    mask = np.asarray(object_mask(shape, centre=(64.0, 64.0), radius=20.0, edge=128))
    rows, columns = np.nonzero(mask > 127)
    assert max(abs(rows - 63.5).max(), abs(columns - 63.5).max()) <= 20 * 1.1


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_differ_and_only_plain_is_empty(texture: str) -> None:
    assert (np.asarray(texture_mask(texture)).max() == 0) == (texture == "plain")
