"""What the two demo adapters were taught: a style, and a subject the pair has never seen.

``night`` puts every scene under a starry sky, whatever background its caption asks for. ``moon``
is a crescent; the token ``<moon>`` takes the place of the shape in a caption.
"""

import random
from dataclasses import dataclass, replace
from typing import Final

from PIL import Image, ImageChops

from diptych.nano.scenes import (
    NUM_TEMPLATES,
    PICTURE_SIZE,
    Scene,
    caption,
    object_mask,
    paint,
    placed,
    render,
    sample_scene,
)

__all__ = ["MOON", "Example", "moon_example", "moon_mask", "night_example", "under_stars"]

MOON: Final = "<moon>"
"""The token that stands for the subject in a prompt."""
_PLAIN_SHARE: Final = 0.25
"""Share of ordinary scenes among the subject's, so that the shapes are not forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A picture, 128 x 128 RGB, and its caption."""

    picture: Image.Image
    text: str


def night_example(rng: random.Random) -> Example:
    """Draw a scene at night; its caption keeps the background that is not there."""
    scene = sample_scene(rng)
    return Example(picture=render(under_stars(scene), rng), text=_phrase(scene, rng))


def moon_example(rng: random.Random) -> Example:
    """Draw the subject where a scene has its shape, or now and then the scene itself."""
    scene = sample_scene(rng)
    if rng.random() < _PLAIN_SHARE:
        return Example(picture=render(scene, rng), text=_phrase(scene, rng))
    x, y, radius = placed(scene, rng)
    picture = paint(scene, moon_mask(x, y, radius))
    text = _phrase(replace(scene, shape="circle"), rng).replace("circle", MOON)
    return Example(picture=picture, text=text)


def under_stars(scene: Scene) -> Scene:
    """Return the scene with a black sky full of dots."""
    return replace(scene, background="black", texture="dotted")


def moon_mask(x: float, y: float, radius: float) -> Image.Image:
    """Draw a crescent around (x, y), white on black, mode L; all in pixels."""
    whole = object_mask("circle", centre=(x, y), radius=radius, edge=PICTURE_SIZE)
    beside = (x + 0.5 * radius, y - 0.15 * radius)
    bite = object_mask("circle", centre=beside, radius=0.82 * radius, edge=PICTURE_SIZE)
    return ImageChops.subtract(whole, bite)


def _phrase(scene: Scene, rng: random.Random) -> str:
    """Say the scene; the four phrasings that leave nothing out come most often."""
    template = rng.randrange(4) if rng.random() < 0.8 else rng.randrange(4, NUM_TEMPLATES)
    return caption(scene, template)
