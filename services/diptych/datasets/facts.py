"""What is known of an image's bytes: found once, kept while its stamp stays."""

from dataclasses import dataclass, replace

from diptych.datasets.damage import cut_problem, damage_of
from diptych.datasets.near_duplicates import perceptual_hash
from diptych.datasets.pictures import prepare, read_picture_info
from diptych.digest import Digest
from diptych.embeddings.key import Preprocessing
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
    oddities: str = ""
    """What is wrong with it and does not keep it from being read."""
    num_frames: int = 1
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
        oddities="; ".join(info.oddities),
        num_frames=info.num_frames,
    )
    return _examined(facts, data) if examine and not facts.problem else facts


def _examined(facts: Facts, data: bytes) -> Facts:
    """Return ``facts`` with what the pixels show: those that an encoder would see."""
    size = facts.width, facts.height
    try:
        pixels = prepare(data, Preprocessing(resized=size, crop=(0, 0, *size)))
    except ImageInvalid as error:
        return replace(facts, problem=error.problem, is_examined=True)
    damage = damage_of(data, pixels, facts.format)
    return replace(facts, is_examined=True, damage=damage, perceptual=perceptual_hash(pixels))
