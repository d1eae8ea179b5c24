"""WebDataset: tars whose members of one name are one sample, read in place."""

import glob
import json
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diptych.datasets.findings import Note
from diptych.datasets.places import Places
from diptych.datasets.source_spec import WebDatasetSource
from diptych.datasets.sources.base import (
    DISK_READERS,
    MAX_IMAGE_BYTES,
    PICTURE_SUFFIXES,
    SourceItem,
)
from diptych.datasets.sources.folder import stamp_of
from diptych.datasets.sources.rows import only, refuse_source
from diptych.errors import ImageInvalid, ObjectNotFound

__all__ = ["WebDatasetTars"]

MAX_JSON_BYTES: Final = 2**20
_PLACE: Final = re.compile(r"(.*?)!(\d{1,18})\+(\d{1,18})!(.*)", re.DOTALL)
_GZIP, _XZ, _BZIP, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class _Extent:
    """Where a member's bytes lie in its tar."""

    start: int
    size: int


class WebDatasetTars:
    """One tar or several; a place is ``tar!start+size!member``."""

    is_patchy = False
    num_readers = DISK_READERS

    def __init__(
        self, spec: WebDatasetSource, *, places: Places, note: Note, columns: Collection[str] = ()
    ) -> None:
        self._places, self._note, self._columns = places, note, columns
        self._pattern = Path(spec.path)
        self._root = self._pattern if self._pattern.is_dir() else _fixed_part(self._pattern)
        self._sides: dict[tuple[str, str], Mapping[str, _Extent]] = {}

    def items(self) -> Iterator[SourceItem]:
        """Yield the pictures tar by tar, in the order in which they lie there."""
        tars = self._tars()
        if not tars:
            refuse_source(str(self._pattern), "no such tar")
        for path in tars:
            yield from self._items_of(path)

    def open(self, item: SourceItem) -> bytes:
        """Read the member's bytes where they lie."""
        tar, extent, member = _parsed(item.place)
        if extent.size > MAX_IMAGE_BYTES:
            raise ImageInvalid(member, f"more than {MAX_IMAGE_BYTES} bytes")
        return self._read(tar, extent, member)

    def text(self, item: SourceItem, extension: str, *, limit: int) -> bytes | None:
        """Read the member of the same sample with ``extension``."""
        tar, _, member = _parsed(item.place)
        extent = self._sides.get((tar, _key(member)[0]), {}).get(extension.lower())
        if extent is None:
            return None
        return self._read(tar, _Extent(extent.start, min(extent.size, limit)), member)

    def _tars(self) -> list[Path]:
        if self._pattern.is_dir():
            found = [path for path in self._root.iterdir() if path.suffix == ".tar"]
        elif self._pattern.is_file():
            found = [self._pattern]
        else:
            found = [Path(path) for path in glob.glob(str(self._pattern), recursive=True)]  # noqa: PTH207 - the pattern is absolute
        outside = [path for path in found if not self._places.allows_path(path)]
        for path in outside:
            self._note("link_outside", path.name, "a tar that may not be read")
        return sorted(set(found) - set(outside))

    def _items_of(self, path: Path) -> Iterator[SourceItem]:
        tar, stamp = path.relative_to(self._root).as_posix(), stamp_of(path)
        samples = self._samples(path, tar)
        for (key, extension), member, extent in samples.pictures:
            sides = samples.sides.get(key, {})
            self._sides[tar, key] = sides
            yield SourceItem(
                place=f"{tar}!{extent.start}+{extent.size}!{member}",
                name=key if samples.num_pictures[key] == 1 else f"{key}{extension}",
                stamp=stamp and f"{stamp}@{extent.start}",
                row=self._row(tar, sides.get(".json"), member),
            )

    def _samples(self, path: Path, tar: str) -> "_Samples":
        """Return what a tar holds, up to where it is cut if it is."""
        samples = _Samples()
        try:
            with path.open("rb") as stream:
                if stream.read(6).startswith((_GZIP, _XZ, _BZIP, _ZSTD)):
                    refuse_source(str(path), "a compressed tar cannot be read in place; unpack it")
                stream.seek(0)
                size = path.stat().st_size
                with tarfile.open(fileobj=stream, mode="r:") as archive:
                    for member in archive:
                        if member.isreg():
                            self._take(samples, member, tar, size)
                        archive.members = []  # type: ignore[attr-defined] # else they pile up
        except tarfile.TarError as error:
            self._note("source_cut", tar, f"the tar cannot be read further: {error}")
        except OSError as error:
            refuse_source(str(path), f"cannot be read: {error.strerror}")
        return samples

    def _take(self, samples: "_Samples", member: tarfile.TarInfo, tar: str, size: int) -> None:
        extent = _Extent(member.offset_data, member.size)
        if extent.start + extent.size > size:
            self._note("source_cut", f"{tar}!{member.name}", "the tar ends inside this member")
            return
        key, extension = _key(member.name)
        if f".{extension.rpartition('.')[2]}" in PICTURE_SUFFIXES:
            samples.add_picture(key, extension, member.name, extent)
        else:
            samples.sides.setdefault(key, {})[extension] = extent

    def _row(self, tar: str, extent: _Extent | None, member: str) -> Mapping[str, object]:
        if extent is None or not self._columns:
            return {}
        if extent.size <= MAX_JSON_BYTES:
            try:
                row = json.loads(self._read(tar, extent, member))
            except ValueError:
                row = None
            if isinstance(row, dict):
                return only(row, self._columns)
        self._note(
            "unreadable", f"{tar}!{member}", "its .json is no JSON object", action="reported"
        )
        return {}

    def _read(self, tar: str, extent: _Extent, member: str) -> bytes:
        try:
            with (self._root / tar).open("rb") as stream:
                stream.seek(extent.start)
                data = stream.read(extent.size)
        except FileNotFoundError as error:
            raise ObjectNotFound(str(self._root / tar)) from error
        except OSError as error:
            raise ImageInvalid(f"{tar}!{member}", f"cannot be read: {error.strerror}") from error
        if len(data) != extent.size:
            raise ImageInvalid(f"{tar}!{member}", f"{len(data)} bytes left of {extent.size}")
        return data


class _Samples:
    """What one tar holds, by the samples' keys."""

    def __init__(self) -> None:
        self.pictures: list[tuple[tuple[str, str], str, _Extent]] = []
        self.sides: dict[str, dict[str, _Extent]] = {}
        self.num_pictures: dict[str, int] = {}

    def add_picture(self, key: str, extension: str, member: str, extent: _Extent) -> None:
        self.pictures.append(((key, extension), member, extent))
        self.num_pictures[key] = self.num_pictures.get(key, 0) + 1


def _key(member: str) -> tuple[str, str]:
    """Return a member's sample and extension: WebDataset splits at the first dot of the name."""
    folder, slash, name = member.removeprefix("./").rpartition("/")
    stem, dot, extension = name.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{extension.lower()}"


def _parsed(place: str) -> tuple[str, _Extent, str]:
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ImageInvalid(place, "is no place in a tar")
    tar, start, size, member = found.groups()
    return tar, _Extent(int(start), int(size)), member


def _fixed_part(pattern: Path) -> Path:
    """Return the deepest folder that every match of ``pattern`` lies in."""
    for folder in pattern.parents:
        if not glob.has_magic(str(folder)):
            return folder
    return Path(pattern.anchor)
