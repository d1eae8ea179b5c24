"""Judge pictures of scenes by looking at their pixels: no network, no torch.

Every pixel is put to the nearest tone of the palette. What is nearer to an object colour than to
the background is the object; its outline, middle and area say shape, place and size, and what is
left around it says background and texture. Where nothing fits, nothing is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from diptych.nano.scenes import (
    BACKGROUNDS,
    COLOURS,
    PICTURE_SIZE,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    object_mask,
    texture_mask,
)

__all__ = ["Score", "Seen", "Verdict", "judge", "look", "score"]

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_SHADE = 0.12
"""Share of white (top) or black (bottom) mixed into an object's colour."""
_SHADOWS = (1.0, 0.9, 0.8, 0.7)
"""Brightness the background may have under an object's shadow."""
_MAX_TONE_DISTANCE = 45.0
"""RGB distance beyond which a pixel is of no known tone."""
_MIN_BACKGROUND_SHARE = 0.45
_MIN_OBJECT_PIXELS = 200
_MIN_WHOLE = 0.85
"""Share of all object pixels that the largest connected piece must hold: two objects are wrong."""
_MIN_OVERLAP = 0.62
_MAX_PLACE_ERROR = 14.0
"""Pixels per axis between the object's middle and its place."""
_MIN_CONTRAST = 0.3
"""Share of the texture's full contrast below which the ground is plain."""
_MIN_CORRELATION = 0.35
_TEMPLATE_EDGE = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a picture shows, in the words of ``scenes``; None where nothing fits."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    background: str | None = None
    texture: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which words of a scene its picture gets right."""

    shape: bool
    colour: bool
    place: bool
    background: bool
    texture: bool
    size: bool

    @property
    def joint(self) -> bool:
        """Whether shape, colour and place are all right."""
        return self.shape and self.colour and self.place


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Shares in [0, 1] of ``num_pictures`` that are right, by attribute; ``joint`` of all three."""

    num_pictures: int
    shape: float
    colour: float
    place: float
    background: float
    texture: float
    size: float
    joint: float


def judge(picture: Image.Image, scene: Scene) -> Verdict:
    """Return which attributes of ``scene`` the picture shows."""
    seen = look(picture)
    return Verdict(
        shape=seen.shape == scene.shape,
        colour=seen.colour == scene.colour,
        place=seen.place == scene.place,
        background=seen.background == scene.background,
        texture=seen.texture == scene.texture,
        size=seen.size == scene.size,
    )


def score(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> Score:
    """Return the shares of right attributes over pictures paired with the scenes asked for."""
    verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]

    def share(attribute: str) -> float:
        return float(np.mean([getattr(v, attribute) for v in verdicts])) if verdicts else 0.0

    return Score(
        num_pictures=len(verdicts),
        shape=share("shape"),
        colour=share("colour"),
        place=share("place"),
        background=share("background"),
        texture=share("texture"),
        size=share("size"),
        joint=share("joint"),
    )


def look(picture: Image.Image) -> Seen:
    """Return what the picture shows; any size is taken, scaled to ``PICTURE_SIZE`` first."""
    rgb = picture.convert("RGB")
    if rgb.size != (PICTURE_SIZE, PICTURE_SIZE):
        rgb = rgb.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BOX)
    pixels = np.asarray(rgb, dtype=np.float64)
    background = _background_of(pixels)
    if background is None:
        return Seen()
    to_colours = np.stack([_to_segment(pixels, *ends) for ends in _object_tones()])
    mask = to_colours.min(axis=0) < _to_background(pixels, background)
    texture = _texture_of(pixels, background, mask)
    body = _largest_piece(mask)
    if body.sum() < max(_MIN_OBJECT_PIXELS, _MIN_WHOLE * mask.sum()):
        return Seen(background=background, texture=texture)
    shape = _shape_of(body)
    return Seen(
        shape=shape,
        colour=_colour_of(to_colours, body),
        size=None if shape is None else _size_of(body, shape),
        place=_place_of(body),
        background=background,
        texture=texture,
    )


def _to_segment(pixels: _Array, start: _Array, end: _Array) -> _Array:
    """Return [H, W] RGB distances of pixels [H, W, 3] to the line of tones ``start``..``end``."""
    along = end - start
    share = np.clip((pixels - start) @ along / max(float(along @ along), 1e-9), 0.0, 1.0)
    rest = pixels - (start + share[..., None] * along)
    distance: _Array = np.linalg.norm(rest, axis=-1)
    return distance


@cache
def _object_tones() -> tuple[tuple[_Array, _Array], ...]:
    """Return per colour the two ends of its shading."""
    white = np.full(3, 255.0)
    tones = (np.array(colour, dtype=np.float64) for colour in COLOURS.values())
    return tuple((c + (white - c) * _SHADE, c * (1 - _SHADE)) for c in tones)


@cache
def _background_tones(name: str) -> tuple[_Array, _Array]:
    ground, tone = BACKGROUNDS[name]
    return np.array(ground, dtype=np.float64), np.array(tone, dtype=np.float64)


def _to_background(pixels: _Array, name: str) -> _Array:
    """Return [H, W] distances to the background's tones, shadowed or not."""
    ground, tone = _background_tones(name)
    lines = [_to_segment(pixels, ground * s, tone * s) for s in _SHADOWS]
    nearest: _Array = np.stack(lines).min(axis=0)
    return nearest


def _background_of(pixels: _Array) -> str | None:
    """Return the background whose lit tones are nearest for most pixels."""
    names = list(BACKGROUNDS)
    distances = np.stack([_to_segment(pixels, *_background_tones(name)) for name in names])
    near = distances.min(axis=0) < _MAX_TONE_DISTANCE
    votes = np.bincount(distances.argmin(axis=0)[near], minlength=len(names)) / near.size
    return names[int(votes.argmax())] if votes.max() >= _MIN_BACKGROUND_SHARE else None


def _largest_piece(mask: _Mask) -> _Mask:
    """Return the largest 4-connected piece of ``mask`` [H, W], by spreading the highest label."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.maximum.reduce(
            [labels, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        )
        spread[~mask] = 0
        if np.array_equal(spread, labels):
            break
        labels = spread
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    piece: _Mask = mask & (labels == int(sizes.argmax()))
    return piece


def _bounds(body: _Mask) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom (the last two exclusive) of a mask that is not empty."""
    columns, rows = np.flatnonzero(body.any(axis=0)), np.flatnonzero(body.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _normalised(body: _Mask) -> _Array:
    """Return the mask's bounding box stretched to the templates' edge, values in [0, 1]."""
    left, top, right, bottom = _bounds(body)
    crop = Image.fromarray(body[top:bottom, left:right].astype(np.uint8) * 255)
    edge = (_TEMPLATE_EDGE, _TEMPLATE_EDGE)
    return np.asarray(crop.resize(edge, Image.Resampling.BILINEAR), dtype=np.float64) / 255


@cache
def _template(shape: str) -> tuple[_Array, float]:
    """Return a shape's normalised outline and its area at radius 1."""
    edge, radius = 4 * _TEMPLATE_EDGE, 80.0
    middle = (edge / 2, edge / 2)
    body = np.asarray(object_mask(shape, centre=middle, radius=radius, edge=edge)) > 127
    return _normalised(body), float(body.sum()) / radius**2


def _shape_of(body: _Mask) -> str | None:
    """Return the shape whose outline overlaps best (intersection over union)."""
    left, top, right, bottom = _bounds(body)
    if not 0.7 < (right - left) / (bottom - top) < 1.4:
        return None
    seen = _normalised(body)
    overlaps = {}
    for shape in SHAPES:
        outline, _ = _template(shape)
        overlaps[shape] = np.minimum(seen, outline).sum() / np.maximum(seen, outline).sum()
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best if overlaps[best] >= _MIN_OVERLAP else None


def _size_of(body: _Mask, shape: str) -> str:
    """Return the size word whose radius is nearest to that of a ``shape`` of this area."""
    _, unit_area = _template(shape)
    radius = np.sqrt(body.sum() / unit_area)
    return min(SIZES, key=lambda size: abs(np.log(radius / SIZES[size])))


def _place_of(body: _Mask) -> str | None:
    """Return the place nearest to the middle of the object's bounding box."""
    left, top, right, bottom = _bounds(body)
    x, y = (left + right) / 2, (top + bottom) / 2
    errors = {
        place: max(abs(x - px * PICTURE_SIZE), abs(y - py * PICTURE_SIZE))
        for place, (px, py) in PLACES.items()
    }
    best = min(errors, key=lambda place: errors[place])
    return best if errors[best] <= _MAX_PLACE_ERROR else None


def _colour_of(to_colours: _Array, body: _Mask) -> str | None:
    """Return the colour most of the object's inner pixels are nearest to."""
    inner = np.asarray(_filtered(body, ImageFilter.MinFilter(5)))
    inside = inner if inner.sum() >= _MIN_OBJECT_PIXELS / 4 else body
    distances = to_colours[:, inside]
    votes = np.bincount(distances.argmin(axis=0), minlength=len(COLOURS))
    best = int(votes.argmax())
    fits = np.median(distances[best]) < _MAX_TONE_DISTANCE and votes[best] > votes.sum() / 2
    return list(COLOURS)[best] if fits else None


def _filtered(mask: _Mask, kernel: ImageFilter.RankFilter) -> _Mask:
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(kernel)) > 127


@cache
def _texture_spectrum(texture: str) -> tuple[NDArray[np.complex128], float]:
    """Return the conjugate spectrum of a texture's zero-mean mask, and its variance."""
    mask = np.asarray(texture_mask(texture), dtype=np.float64) / 255
    mask = mask - mask.mean()
    return np.conj(np.fft.rfft2(mask)), float(mask.var())


def _texture_of(pixels: _Array, background: str, mask: _Mask) -> str | None:
    """Return the texture that correlates best, at any shift, with the ground around the object."""
    around = ~_filtered(mask, ImageFilter.MaxFilter(19))
    if around.mean() < _MIN_BACKGROUND_SHARE:
        return None
    ground, tone = _background_tones(background)
    along = tone - ground
    share = np.clip((pixels - ground) @ along / float(along @ along), -0.5, 1.5)
    share = np.where(around, share - share[around].mean(), 0.0)
    variance = float(share[around].var())
    contrast, correlation = {}, {}
    for texture in TEXTURES[1:]:
        spectrum, texture_variance = _texture_spectrum(texture)
        covariance = np.fft.irfft2(np.fft.rfft2(share) * spectrum, s=share.shape).max()
        covariance /= float(around.sum())
        contrast[texture] = covariance / texture_variance
        correlation[texture] = covariance / np.sqrt(max(variance * texture_variance, 1e-12))
    best = max(correlation, key=lambda texture: correlation[texture])
    if contrast[best] < _MIN_CONTRAST:
        return "plain"
    return best if correlation[best] >= _MIN_CORRELATION else None
