"""Keys that cannot lie: a digest over everything that an embedding depends on.

A key is the SHA-256 of the canonical bytes of one of the records below. Nothing in a record is the
name or place of a file, so renaming or moving one changes no key; and whatever changes the numbers
- a byte of the image, a character of the caption, the crop, a weight of an encoder - changes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal

from diptych.digest import Digest

__all__ = [
    "DECODING",
    "ENCODING",
    "EncoderIdentity",
    "ImageRecord",
    "Preprocessing",
    "PromptRecord",
    "StoredDtype",
]

DECODING: Final = 1
"""Version of how bytes become pixels; raised when the pixels of any image change."""
ENCODING: Final = 1
"""Version of how texts and pixels become embeddings; raised when any embedding changes."""

StoredDtype = Literal["float32", "float16", "bfloat16"]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderIdentity:
    """Which network encodes, and in which numbers."""

    fingerprint: str
    """Digest of its weights and settings; of text encoders, of all that are joined, in order."""
    precision: StoredDtype
    """What it computes in."""
    stored: StoredDtype
    """What its results are kept in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """Everything that the embedding of one text depends on."""

    encoder: EncoderIdentity
    text: str | None
    """After every transform; None is a negative prompt that was not given."""
    num_windows: int = 1
    """Windows of tokens the embedding has."""
    is_chunked: bool = False
    """Whether a text beyond one window goes on in the next; otherwise it is cut."""
    clip_skip: int = 0
    """Layers left out beyond the last, as diffusers counts them."""
    token_overrides: Mapping[str, str] = field(default_factory=dict)
    """Learned tokens: the text that stands for one, to the digest of its vectors."""
    weights: tuple[str, ...] = ()
    """What changes the encoders' weights: digests of adapters with their scales, in order."""

    def key(self) -> Digest:
        """Return the digest that names this embedding."""
        return _key("prompt", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What happens to an image between its file and the encoder, in this order.

    It is turned as EXIF says, converted to sRGB by its colour profile, laid on ``background``,
    resized to ``resized``, cropped to ``crop`` and flipped.
    """

    resized: tuple[int, int]
    """Width and height in pixels."""
    crop: Box
    """Left, top, width and height in pixels of the resized image."""
    is_flipped: bool = False
    """Left to right, last of all."""
    resample: Literal["lanczos", "bicubic", "bilinear", "area", "nearest"] = "lanczos"
    orientation: Literal["exif", "ignore"] = "exif"
    colour: Literal["srgb", "ignore"] = "srgb"
    """Whether an embedded colour profile is applied."""
    background: tuple[int, int, int] = (255, 255, 255)
    """What shows through transparent pixels."""
    frame: int = 0
    """Of an animated image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """Everything that the embedding of one image depends on."""

    encoder: EncoderIdentity
    image: Digest
    """Of the file's bytes."""
    preprocessing: Preprocessing

    def key(self) -> Digest:
        """Return the digest that names this embedding."""
        return _key("image", self)


def _key(kind: str, record: PromptRecord | ImageRecord) -> Digest:
    versions = {"decoding": DECODING, "encoding": ENCODING}
    return Digest.of_value({"kind": kind, "versions": versions, "record": _plain(record)})


def _plain(value: object) -> object:
    """Return a record as what JSON can spell; two that differ are spelt differently."""
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(held) for name, held in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(held) for held in value]
    if hasattr(value, "__dataclass_fields__"):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}  # type: ignore[arg-type]
    return value
