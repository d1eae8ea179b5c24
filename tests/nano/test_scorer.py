"""The judge sees what was drawn, through noise too, and is not fooled by other pictures."""

import io
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from diptych.nano.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    object_mask,
    render,
    sample_scene,
)
from diptych.nano.scorer import Score, Seen, judge, look, score

ATTRIBUTES = ("shape", "colour", "place", "background", "texture", "size")
SCENE = Scene(
    shape="star",
    colour="blue",
    size="small",
    place="on the left",
    background="cream",
    texture="dotted",
)
OTHER = {
    "shape": "heart",
    "colour": "purple",
    "place": "in the top left corner",
    "background": "white",
    "texture": "plain",
    "size": "large",
}


def drawn(count: int, seed: int) -> tuple[list[Image.Image], list[Scene]]:
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    return [render(scene, rng) for scene in scenes], scenes


def spoiled(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur by 0.8 px, add noise of sigma 6, and pass through JPEG at quality 70."""
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float64)
    noisy = np.clip(blurred + rng.normal(0, 6, blurred.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=70)
    return Image.open(buffer)


@pytest.fixture(scope="module")
def clean() -> Score:
    return score(*drawn(120, seed=11))


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_clean_renders_are_read_right(clean: Score, attribute: str) -> None:
    assert getattr(clean, attribute) >= 0.995


def test_noise_blur_and_jpeg_leave_almost_all_right() -> None:
    pictures, scenes = drawn(80, seed=12)
    rng = np.random.default_rng(12)
    shares = asdict(score([spoiled(picture, rng) for picture in pictures], scenes))
    assert min(shares[attribute] for attribute in ATTRIBUTES) >= 0.97


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_one_wrong_word_is_the_only_one_judged_wrong(attribute: str) -> None:
    verdict = judge(render(replace(SCENE, **{attribute: OTHER[attribute]})), SCENE)
    assert [name for name in ATTRIBUTES if not getattr(verdict, name)] == [attribute]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_shape_is_seen_on_every_background(shape: str, size: str, background: str) -> None:
    scene = replace(SCENE, shape=shape, size=size, background=background)
    assert look(render(scene)) == Seen(**asdict(scene))


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("texture", TEXTURES)
def test_every_colour_is_seen_on_every_texture(colour: str, texture: str) -> None:
    scene = replace(SCENE, colour=colour, texture=texture)
    assert look(render(scene)) == Seen(**asdict(scene))


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_seen(place: str) -> None:
    assert look(render(replace(SCENE, place=place))).place == place


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (128, 128), (246, 246, 244)),
        Image.new("RGB", (128, 128), (214, 40, 40)),
        Image.new("L", (64, 64)),
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)),
    ],
    ids=["white", "red", "small and black", "noise"],
)
def test_a_picture_without_an_object_is_wrong(picture: Image.Image) -> None:
    assert not judge(picture, SCENE).joint


def test_two_objects_are_wrong() -> None:
    second = object_mask("star", centre=(96.0, 64.0), radius=17.0, edge=128)
    picture = Image.composite(Image.new("RGB", (128, 128), COLOURS["blue"]), render(SCENE), second)
    assert not judge(picture, SCENE).joint


def test_shares_are_of_the_pictures_given() -> None:
    result = score([render(SCENE), render(replace(SCENE, shape="ring"))], [SCENE, SCENE])
    assert (result.num_pictures, result.shape, result.colour, result.joint) == (2, 0.5, 1.0, 0.5)


def test_no_pictures_score_nothing() -> None:
    assert score([], []).joint == 0.0
