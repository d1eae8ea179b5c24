"""What is known of an image's bytes: found once, kept while its stamp stays."""

import io
import warnings
from dataclasses import dataclass, replace

from PIL import Image

from diptych.datasets.damage import cut_problem, damage_of
from diptych.datasets.near_duplicates import perceptual_hash
from diptych.datasets.pictures import read_picture_info
from diptych.digest import Digest
from diptych.errors import ImageInvalid

__all__ = ["Facts", "facts_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an image's bytes are."""

    digest: Digest
    width: int = 0
    """In pixels, after it was turned as EXIF says; 0 where the bytes are no picture."""
    height: int = 0
    format: str = ""
    """As Pillow names it."""
    problem: str = ""
    """Why the bytes are no picture."""
    is_examined: bool = False
    """Whether the pixels were looked at, for what follows."""
    damage: str = ""
    perceptual: int | None = None
    """Perceptual hash, 64 bits; None where nothing tells the picture from others."""


def facts_of(data: bytes, *, examine: bool) -> Facts:
    """Return what ``data`` is; its pixels are decoded only to ``examine`` it."""
    digest = Digest.of_bytes(data)
    try:
        info = read_picture_info(data)
    except ImageInvalid as error:
        return Facts(digest=digest, problem=error.problem, is_examined=examine)
    facts = Facts(
        digest=digest,
        width=info.width,
        height=info.height,
        format=info.format,
        problem=cut_problem(data, info.format),
    )
    return _examined(facts, data) if examine and not facts.problem else facts


def _examined(facts: Facts, data: bytes) -> Facts:
    """Return ``facts`` with what the pixels show; sizes were checked by who read the header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                damage, perceptual = damage_of(image), perceptual_hash(image)
    except (OSError, ValueError, SyntaxError) as error:
        return replace(facts, problem=f"cannot be decoded: {error!s:.200}", is_examined=True)
    return replace(facts, is_examined=True, damage=damage, perceptual=perceptual)
