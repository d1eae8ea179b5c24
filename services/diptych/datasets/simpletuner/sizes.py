"""SimpleTuner's sizes and crops, as a manifest's ``size``, ``buckets`` and ``crop``."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from diptych.datasets.simpletuner.options import Options

__all__ = ["crop_of", "own_sizes", "size_of"]

Part = dict[str, Any]

MEGAPIXEL: Final = 10**6
_UNITS: Final[Mapping[str, str]] = {
    "pixel": "shorter_edge",
    "area": "megapixels",
    "pixel_area": "pixel_area",
}
_ROUND_AREAS: Final[Mapping[float, int]] = {0.25: 512, 0.5: 768, 1.0: 1024, 2.0: 1536, 4.0: 2048}
"""Megapixels that SimpleTuner takes for the square of an edge, within 0.05, for squares alone."""
_NEAR: Final = 0.05
_EDGES: Final = (8, 16, 32, 64, 128)
_STYLES: Final[Mapping[str, str]] = {
    "center": "centre",
    "centre": "centre",
    "random": "random",
    "corner": "corner",
    "face": "random",
}
_OFF: Final = (False, "false")
_LOWEST_ASPECT, _HIGHEST_ASPECT = 0.05, 20.0
_MOST_CHOICES: Final = 100


def size_of(options: Options) -> tuple[Part, Part]:
    """Return ``size`` and ``buckets``."""
    kind = options.choice("resolution_type", tuple(_UNITS), "pixel_area")
    edge = _edge(options)
    size: Part = {"unit": _UNITS[kind], "resolution": _resolution(options, kind, edge)}
    if kind == "area":
        options.say("resolution_type", "translated", "unit: megapixels")
    elif kind == "pixel":
        options.say("resolution_type", "translated", "unit: shorter_edge")
    minimum = options.number("minimum_image_size")
    if minimum is not None and minimum > 0:
        size["minimum"] = minimum
    for option in ("minimum_aspect_ratio", "maximum_aspect_ratio"):
        aspect = options.number(option)
        if aspect is not None and aspect > 0:
            size[option.removesuffix("_ratio")] = min(max(aspect, _LOWEST_ASPECT), _HIGHEST_ASPECT)
    size.update(_downsampling(options, size["resolution"]))
    size.update(_upscaling(options))
    buckets: Part = {} if edge == 64 else {"edge": edge}
    decimals = options.count("aspect_bucket_rounding", 2)
    if decimals is not None and decimals != 2:
        buckets["aspect_decimals"] = min(max(decimals, 1), 4)
    return size, buckets


def _edge(options: Options) -> int:
    edge = options.count("aspect_bucket_alignment", 64)
    if edge not in _EDGES:
        options.say("aspect_bucket_alignment", "unsupported", f"edges are {_EDGES}")
        return 64
    return edge


def _resolution(options: Options, kind: str, edge: int) -> float:
    """Return the resolution, with the rounding to an edge that SimpleTuner does first."""
    found = options.number("resolution", 1024.0)
    assert found is not None
    if kind == "pixel":
        return found
    square = found if kind == "pixel_area" else int(math.sqrt(found * MEGAPIXEL))
    rounded = max(round(square / edge), 1) * edge
    area = found if kind == "area" else found * found / MEGAPIXEL
    own = next((one for key, one in _ROUND_AREAS.items() if abs(area - key) < _NEAR), rounded)
    if own != rounded:
        detail = f"around {rounded}x{rounded} as there, where squares alone were {own}x{own}"
        options.say("resolution", "differs", detail)
    elif rounded != found:
        options.say("resolution", "translated", f"{rounded}x{rounded}, to which it was rounded")
    return float(rounded) if kind == "pixel_area" else rounded * rounded / MEGAPIXEL


def _downsampling(options: Options, resolution: float) -> Part:
    """Return ``maximum`` and ``target``, where both are given and heeded."""
    both = ("maximum_image_size", "target_downsample_size")
    maximum, target = (options.number(one) for one in both)
    if not maximum or not target or not options.flag("crop"):
        for one in both:
            options.say(one, "ignored", "heeded only where both are given and crop is on")
        return {}
    target = max(target, resolution)
    maximum = max(maximum, target)
    for one in both:
        detail = f"images above {maximum:g} are brought to {target:g}; its code brings all images"
        options.say(one, "differs", f"{detail} there, whatever their size, against its manual")
    return {"maximum": maximum, "target": target}


def _upscaling(options: Options) -> Part:
    threshold = options.number("max_upscale_threshold")
    if threshold is None:
        return {}
    if not options.flag("crop") or options.get("crop_aspect") not in {"closest", "random"}:
        detail = "heeded only where crop_aspect is closest or random"
        options.say("max_upscale_threshold", "ignored", detail)
        return {}
    detail = f"max_upscale: {1 + threshold:g}; an image that fits no aspect is left out and "
    options.say("max_upscale_threshold", "differs", f"{detail}reported, there it became a square")
    return {"max_upscale": 1 + threshold}


def crop_of(options: Options) -> Part:
    """Return ``crop``."""
    style = options.choice("crop_style", tuple(_STYLES), "random")
    aspect = options.choice("crop_aspect", ("square", "preserve", "closest", "random"), "square")
    if not options.flag("crop"):
        for option in ("crop_aspect", "crop_aspect_buckets"):
            options.get(option)
            options.say(option, "ignored", "crop is off")
        cut = "only what rounding to an edge leaves is cut"
        options.say("crop", "translated", f"{cut}, in the middle; there at a random place")
        options.say("crop_style", "translated", cut)
        return {"style": "corner"} if style == "corner" else {}
    if style == "face":
        options.say("crop_style", "unsupported", "faces are not looked for; random stands for it")
    elif style in {"center", "random"}:
        options.say("crop_style", "honoured", _drawn_anew(options) if style == "random" else "")
    found: Part = {"style": _STYLES[style], "aspect": aspect}
    if aspect in {"closest", "random"}:
        found["aspects"] = _aspects(options)
        if aspect == "random":
            options.say("crop_aspect", "differs", "drawn once for each image, there each time anew")
    else:
        options.get("crop_aspect_buckets")
        options.say("crop_aspect_buckets", "ignored", f"crop_aspect is {aspect}")
    return found


def _drawn_anew(options: Options) -> str:
    """Say what a random crop does, and whether that is what was wanted."""
    if options.own("vae_cache_clear_each_epoch") in _OFF:
        detail = "a random crop that stays the same in all epochs; here each epoch draws its own"
        options.say("vae_cache_clear_each_epoch", "unsupported", detail)
    return "each epoch draws its own by seed and image, and all are known before"


def _aspects(options: Options) -> list[float]:
    """Return aspects; where they have weights, an aspect comes as often as its weight says."""
    given = options.get("crop_aspect_buckets", [1.0])
    if not isinstance(given, list):
        given = [given]
    if not any(isinstance(one, Mapping) for one in given):
        return [float(one) for one in given]
    pairs = [
        (float(one.get("aspect", one.get("aspect_bucket", 1.0))), one.get("weight", 1))
        if isinstance(one, Mapping)
        else (float(one), 1)
        for one in given
    ]
    weights = [Fraction(str(weight)) for _, weight in pairs]
    common = math.lcm(*(one.denominator for one in weights))
    times = [int(one * common) for one in weights]
    divisor = math.gcd(*times) or 1
    times = [one // divisor for one in times]
    if not 0 < sum(times) <= _MOST_CHOICES:
        options.say("crop_aspect_buckets", "unsupported", "weights that no short list spells")
        return [aspect for aspect, _ in pairs]
    options.say("crop_aspect_buckets", "translated", "each aspect as often as its weight says")
    return [aspect for (aspect, _), count in zip(pairs, times, strict=True) for _ in range(count)]


def own_sizes(aspect_map: Mapping[str, Any]) -> Part:
    """Return ``buckets`` of an ``aspect_resolution_map``.

    Raises:
        ValueError: It does not map aspects to widths and heights.
    """
    sizes = []
    for pair in aspect_map.values():
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(n, int) for n in pair)
        ):
            raise ValueError(f"{pair!r:.60} is no width and height")
        sizes.append(pair)
    divisor = math.gcd(*(side for pair in sizes for side in pair))
    edge = next((one for one in reversed(_EDGES) if divisor and not divisor % one), None)
    if edge is None:
        raise ValueError("its sizes are no multiples of 8")
    return {"edge": min(edge, 64), "sizes": sorted(map(list, {tuple(pair) for pair in sizes}))}
