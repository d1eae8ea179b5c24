"""The world the nano pair was trained on: one object on a textured background, with a caption.

Every scene is a handful of words, so a picture can be judged by looking at its pixels
(``nano.scorer``) and a held-out split can be named exactly (``is_held_out``).
"""

import hashlib
import random
from dataclasses import dataclass
from itertools import product
from math import cos, pi, sin

from PIL import Image, ImageChops, ImageDraw, ImageFilter

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "NUM_TEMPLATES",
    "PICTURE_SIZE",
    "PLACES",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "Scene",
    "caption",
    "held_out_scenes",
    "is_held_out",
    "object_mask",
    "paint",
    "placed",
    "render",
    "sample_scene",
    "texture_mask",
]

PICTURE_SIZE = 128
"""Edge of a picture in pixels."""

Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "ring", "heart")
SIZES = {"small": 17.0, "large": 26.0}
"""Size word -> half the object's extent in pixels."""
COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (244, 132, 20),
    "yellow": (250, 214, 40),
    "green": (46, 150, 60),
    "blue": (38, 92, 214),
    "purple": (132, 50, 180),
}
BACKGROUNDS: dict[str, tuple[Colour, Colour]] = {
    "white": ((246, 246, 244), (222, 224, 228)),
    "gray": ((150, 152, 158), (126, 128, 136)),
    "black": ((26, 26, 32), (56, 56, 66)),
    "cream": ((250, 232, 198), (234, 208, 166)),
    "pink": ((250, 196, 212), (238, 166, 190)),
    "mint": ((186, 236, 210), (150, 214, 184)),
    "sky": ((176, 218, 248), (140, 192, 234)),
}
"""Background word -> its ground tone and the tone its texture is drawn in."""
TEXTURES = ("plain", "striped", "dotted", "checkered", "wavy")
PLACES: dict[str, tuple[float, float]] = {
    "in the center": (0.5, 0.5),
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
    "in the top left corner": (0.27, 0.27),
    "in the top right corner": (0.73, 0.27),
    "in the bottom left corner": (0.27, 0.73),
    "in the bottom right corner": (0.73, 0.73),
}
"""Place phrase -> (x, y) of the object's middle, as fractions of the picture."""

_SUPERSAMPLING = 3
_PERIOD = 16
"""Edge of a texture's cell in pixels."""
_NUM_CELLS = PICTURE_SIZE // _PERIOD + 1
_TEMPLATES = (
    "a {size} {colour} {shape} {place} on a {texture} {background} background",
    "a {colour} {shape} {place}, {size}, {texture} {background} background",
    "{texture} {background} background with a {size} {colour} {shape} {place}",
    "a {size} {colour} {shape} {place}, on {background}, {texture}",
    "a {colour} {shape} {place}",
    "{colour} {shape}",
    "a {size} {colour} {shape} on a {background} background",
    "{colour} {shape} on {texture} {background}",
)
NUM_TEMPLATES = len(_TEMPLATES)
"""Phrasings of a caption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture in words; each field is a key of the table of its name."""

    shape: str
    colour: str
    size: str
    place: str
    background: str
    texture: str


def sample_scene(rng: random.Random) -> Scene:
    """Draw one scene; every combination of words is equally likely."""
    return Scene(
        shape=rng.choice(SHAPES),
        colour=rng.choice(list(COLOURS)),
        size=rng.choice(list(SIZES)),
        place=rng.choice(list(PLACES)),
        background=rng.choice(list(BACKGROUNDS)),
        texture=rng.choice(TEXTURES),
    )


def caption(scene: Scene, template: int = 0) -> str:
    """Say the scene in one of the ``NUM_TEMPLATES`` phrasings; the first four leave nothing out."""
    return _TEMPLATES[template % len(_TEMPLATES)].format(
        size=scene.size,
        colour=scene.colour,
        shape=scene.shape,
        place=scene.place,
        texture=scene.texture,
        background=scene.background,
    )


def is_held_out(scene: Scene) -> bool:
    """Return whether the combination is kept from training (one in eight, by hash)."""
    return hashlib.sha256(caption(scene).encode()).digest()[0] < 32


def held_out_scenes(count: int, seed: int = 0) -> list[Scene]:
    """Draw ``count`` scenes whose combination of words training has never seen."""
    rng = random.Random(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng)
        if is_held_out(scene):
            scenes.append(scene)
    return scenes


def object_mask(
    shape: str, *, centre: tuple[float, float], radius: float, edge: int
) -> Image.Image:
    """Draw the object alone, white on black, mode L, ``edge`` x ``edge`` pixels, antialiased.

    Args:
        shape: One of ``SHAPES``.
        centre: Middle of the object in pixels.
        radius: Half the object's extent in pixels.
        edge: Edge of the picture in pixels.
    """
    k = _SUPERSAMPLING
    mask = Image.new("L", (edge * k, edge * k))
    draw = ImageDraw.Draw(mask)
    x, y, r = centre[0] * k, centre[1] * k, radius * k
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif shape == "square":
        s = r * 0.9
        draw.rounded_rectangle((x - s, y - s, x + s, y + s), radius=r * 0.14, fill=255)
    elif shape == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        hole = r * 0.52
        draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    else:
        draw.polygon([(x + px * r, y + py * r) for px, py in _OUTLINES[shape]], fill=255)
    return mask.resize((edge, edge), Image.Resampling.BOX)


def render(scene: Scene, rng: random.Random | None = None) -> Image.Image:
    """Draw the scene, RGB, 128 x 128; ``rng`` moves and resizes the object a little.

    Without ``rng`` the picture is the scene's exact, jitter-free form.
    """
    x, y, radius = placed(scene, rng)
    mask = object_mask(scene.shape, centre=(x, y), radius=radius, edge=PICTURE_SIZE)
    return paint(scene, mask)


def placed(scene: Scene, rng: random.Random | None = None) -> tuple[float, float, float]:
    """Return where the object's middle is and its radius, in pixels; ``rng`` moves it a little."""
    x, y = (fraction * PICTURE_SIZE for fraction in PLACES[scene.place])
    radius = SIZES[scene.size]
    if rng is None:
        return x, y, radius
    return x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), radius * rng.uniform(0.93, 1.07)


def paint(scene: Scene, mask: Image.Image) -> Image.Image:
    """Draw the scene with an object of any outline, given white on black, RGB, 128 x 128."""
    picture = _background(scene.background, scene.texture)
    shadow = ImageChops.offset(mask, 2, 3).filter(ImageFilter.GaussianBlur(2.5))
    dark = Image.eval(picture, lambda value: int(value * 0.8))
    picture = Image.composite(dark, picture, shadow)
    return Image.composite(_shaded(COLOURS[scene.colour]), picture, mask)


def _shaded(colour: Colour) -> Image.Image:
    """Fill a picture with ``colour``, a little lighter at the top than at the bottom."""
    ramp = Image.linear_gradient("L").resize((PICTURE_SIZE, PICTURE_SIZE))
    light = Image.new("RGB", ramp.size, _mix(colour, (255, 255, 255), 0.12))
    deep = Image.new("RGB", ramp.size, _mix(colour, (0, 0, 0), 0.12))
    return Image.composite(deep, light, ramp)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _background(name: str, texture: str) -> Image.Image:
    ground, tone = BACKGROUNDS[name]
    picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), ground)
    return Image.composite(Image.new("RGB", picture.size, tone), picture, texture_mask(texture))


def texture_mask(texture: str) -> Image.Image:
    """Draw where the texture's tone goes, white on black, mode L."""
    k, edge = _SUPERSAMPLING, PICTURE_SIZE
    mask = Image.new("L", (edge * k, edge * k))
    draw = ImageDraw.Draw(mask)
    period = _PERIOD * k
    if texture in {"dotted", "checkered"}:
        _draw_cells(draw, texture, period)
    elif texture == "striped":
        for i in range(_NUM_CELLS):
            draw.rectangle((0, i * period, edge * k, i * period + period // 2 - 1), fill=255)
    elif texture == "wavy":
        for i in range(-1, _NUM_CELLS):
            draw.polygon(_wave(i * period, period, edge * k), fill=255)
    return mask.resize((edge, edge), Image.Resampling.BOX)


def _draw_cells(draw: ImageDraw.ImageDraw, texture: str, period: int) -> None:
    """Draw a dot in every cell of the grid, or fill every second cell."""
    for i, j in product(range(_NUM_CELLS), repeat=2):
        if texture == "dotted":
            x, y, r = (i + 0.5) * period, (j + 0.5) * period, period * 0.24
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        elif (i + j) % 2:
            x, y = i * period, j * period
            draw.rectangle((x, y, x + period - 1, y + period - 1), fill=255)


def _wave(top: float, period: float, width: int) -> list[tuple[float, float]]:
    """Return the outline of one horizontal band whose two edges are parallel sine waves."""
    xs = range(0, width + 1, 4)
    upper = [(float(x), top + period * 0.2 * sin(2 * pi * x / (2 * period))) for x in xs]
    lower = [(x, y + period / 2) for x, y in upper]
    return upper + lower[::-1]


def _outlines() -> dict[str, list[tuple[float, float]]]:
    """Return the polygons of the shapes that are polygons, within the unit square [-1, 1]."""
    star = [
        (radius * sin(i * pi / 5), -radius * cos(i * pi / 5) + 0.06)
        for i in range(10)
        for radius in ((1.06 if i % 2 == 0 else 0.45),)
    ]
    heart = []
    for i in range(60):
        t = 2 * pi * i / 60
        y = 13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)
        heart.append((sin(t) ** 3, -(y + 2.5) / 15.5))
    return {"triangle": [(0.0, -0.92), (1.0, 0.84), (-1.0, 0.84)], "star": star, "heart": heart}


_OUTLINES = _outlines()
