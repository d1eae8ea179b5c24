"""What a manifest comes to: every image by its content, as columns that never change.

Images stand in the order of their digests, and nothing in an index's digest is the name or place of
a file; so renaming or moving one changes neither. Memory is some hundred bytes an image.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Final, Self

import numpy as np

from diptych.datasets.spec import DatasetSpec, Manifest
from diptych.digest import Digest

__all__ = ["DatasetIndex", "Index", "IndexEntry", "Texts"]

_NOT_CONTENT: Final = frozenset({"source", "disabled", "cache", "checks"})
"""What of a dataset says where its images are and what is done about them, not what they are."""
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One image of a dataset."""

    image: Digest
    """Of the file's bytes."""
    width: int
    """In pixels, after it was turned as EXIF says."""
    height: int
    captions: tuple[str, ...]
    """After every transform; at least one."""
    place: str
    """Opens it again in the dataset's source."""
    mask: Digest | None = None
    """Of the mask's bytes."""
    mask_place: str = ""


class Texts:
    """Many texts in one piece of memory."""

    def __init__(self, texts: Iterable[str]) -> None:
        parts = [text.encode() for text in texts]
        self._data = b"".join(parts)
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> str:
        """Return one text."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._data[self._ends[place] : self._ends[place + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        """Yield each."""
        return (self[place] for place in range(len(self)))

    @property
    def size_bytes(self) -> int:
        """Return how much memory they take."""
        return len(self._data) + self._ends.nbytes


class DatasetIndex:
    """The images of one dataset."""

    def __init__(self, spec: DatasetSpec, entries: Iterable[IndexEntry]) -> None:
        """Take the entries, which are sorted here: by image, then captions, then place."""
        rows = sorted(entries, key=lambda one: (one.image, one.captions, one.place))
        self.spec: Final = spec
        self.sizes: Final = np.array(
            [(one.width, one.height) for one in rows], dtype=np.int32
        ).reshape(-1, 2)
        """Widths and heights [N, 2] in pixels, after turning as EXIF says."""
        self._images = b"".join(bytes.fromhex(one.image.hex) for one in rows)
        self._masks = b"".join(_raw(one.mask) for one in rows)
        self._places = Texts(one.place for one in rows)
        self._mask_places = Texts(one.mask_place for one in rows)
        self._captions = Texts(text for one in rows for text in one.captions)
        self._first = np.cumsum([0, *(len(one.captions) for one in rows)], dtype=np.int64)
        self.sizes.flags.writeable = False
        self.digest: Final = _digest(spec, rows)
        """Names what training sees of this dataset: its images, captions, masks and settings."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._first) - 1

    def __getitem__(self, place: int) -> IndexEntry:
        """Return one image."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        width, height = self.sizes[place].tolist()
        return IndexEntry(
            image=self.image(place),
            width=width,
            height=height,
            captions=self.captions(place),
            place=self._places[place],
            mask=self.mask(place),
            mask_place=self._mask_places[place],
        )

    def __iter__(self) -> Iterator[IndexEntry]:
        """Yield each."""
        return (self[place] for place in range(len(self)))

    def where(self, place: int) -> str:
        """Return where one image lies in its source."""
        return self._places[place]

    def image(self, place: int) -> Digest:
        """Return the digest of one image's bytes."""
        return Digest(hex=self._images[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES].hex())

    def mask(self, place: int) -> Digest | None:
        """Return the digest of one image's mask."""
        raw = self._masks[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES]
        return Digest(hex=raw.hex()) if any(raw) else None

    def captions(self, place: int) -> tuple[str, ...]:
        """Return one image's captions."""
        first, last = self._first[place], self._first[place + 1]
        return tuple(self._captions[one] for one in range(first, last))

    def all_captions(self) -> Iterator[str]:
        """Yield the captions of all images in order; the same text may come again."""
        yield from self._captions

    @property
    def size_bytes(self) -> int:
        """Return how much memory the columns take."""
        texts = (self._places, self._mask_places, self._captions)
        arrays = self.sizes.nbytes + self._first.nbytes
        return sum(one.size_bytes for one in texts) + arrays + len(self._images + self._masks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The datasets of a manifest that are not disabled, by id."""

    manifest: Manifest
    datasets: Mapping[str, DatasetIndex]

    @classmethod
    def of(cls, manifest: Manifest, datasets: Iterable[DatasetIndex]) -> Self:
        """Return the index of ``manifest``."""
        return cls(manifest=manifest, datasets={one.spec.id: one for one in datasets})

    @property
    def digest(self) -> Digest:
        """Return what names all that training sees."""
        parts = {name: str(one.digest) for name, one in self.datasets.items()}
        return Digest.of_value(
            {"datasets": parts, "draw": self.manifest.draw, "seed": self.manifest.seed}
        )

    @property
    def num_images(self) -> int:
        """Return how many images all datasets have."""
        return sum(map(len, self.datasets.values()))


def _digest(spec: DatasetSpec, rows: Sequence[IndexEntry]) -> Digest:
    """Return the digest of what training sees, in which no name of a file is."""
    found = hashlib.sha256()
    for one in rows:
        found.update(bytes.fromhex(one.image.hex) + _raw(one.mask))
        found.update(struct.pack("<iiI", one.width, one.height, len(one.captions)))
        for caption in one.captions:
            data = caption.encode()
            found.update(struct.pack("<I", len(data)) + data)
    settings = {
        one.name: _plain(getattr(spec, one.name))
        for one in fields(spec)
        if one.name not in _NOT_CONTENT
    }
    return Digest.of_value({"settings": settings, "rows": found.hexdigest()})


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            one.name: _plain(getattr(value, one.name))
            for one in fields(value)
            if one.name not in _NOT_CONTENT
        }
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _raw(digest: Digest | None) -> bytes:
    return bytes(_DIGEST_BYTES) if digest is None else bytes.fromhex(digest.hex)
