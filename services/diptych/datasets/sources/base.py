"""What the index asks of a source of images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from diptych.datasets.pictures import PictureLimits

__all__ = [
    "DISK_READERS",
    "MAX_IMAGE_BYTES",
    "NETWORK_READERS",
    "PICTURE_SUFFIXES",
    "Source",
    "SourceItem",
    "stem_of",
]

MAX_IMAGE_BYTES: Final = PictureLimits().max_bytes
"""Of one image's file."""
DISK_READERS: Final = 2
NETWORK_READERS: Final = 16
PICTURE_SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl"),
        *("png", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
"""Names that claim to be a picture; whether one can be read is seen when it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """One image as its source lists it."""

    place: str
    """Opens it again: a path, a key, a url, a row or a member of a tar."""
    name: str
    """Its path without extension: what a mask or a row of metadata is paired by."""
    stamp: str | None = None
    """Changes whenever the bytes may have; None where a source cannot tell."""
    row: Mapping[str, object] = field(default_factory=dict)
    """Columns that a table holds about it."""


class Source(Protocol):
    """Images in an order that does not change while the source does not.

    Implementations are safe to read from many threads at once.
    """

    @property
    def is_patchy(self) -> bool:
        """Whether that one image cannot be fetched says nothing about the others."""

    @property
    def num_readers(self) -> int:
        """How many reads at once pay: few from a disk, many over a network."""

    def items(self) -> Iterator[SourceItem]:
        """Yield every image; what is not one, and looks as if it were, is noted.

        Raises:
            DatasetInvalid: There is no such source, or its table cannot be read.
            SourceUnavailable: It does not answer.
        """

    def open(self, item: SourceItem) -> bytes:
        """Return an image's bytes.

        Raises:
            ImageInvalid: They are more than ``MAX_IMAGE_BYTES``, or cannot be had.
            ObjectNotFound: The image is gone.
            SourceUnavailable: The source does not answer.
        """

    def text(self, item: SourceItem, extension: str, *, limit: int) -> bytes | None:
        """Return up to ``limit`` bytes of the text beside an image, None where there is none."""


def stem_of(place: str) -> str:
    """Return a path with slashes, without the extension of its last part."""
    folder, slash, name = place.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot and stem else name}"
