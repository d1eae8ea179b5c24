"""Images in a local folder, and the texts and the table beside them."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from diptych.datasets.findings import Note
from diptych.datasets.places import Places
from diptych.datasets.source_spec import FolderSource
from diptych.datasets.sources.base import (
    DISK_READERS,
    MAX_IMAGE_BYTES,
    PICTURE_SUFFIXES,
    SourceItem,
    stem_of,
)
from diptych.datasets.sources.rows import MetadataRows, Row, read_rows, refuse_source
from diptych.errors import ImageInvalid, ObjectNotFound

__all__ = ["Folder", "read_file", "stamp_of"]

SIDE_SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("caption", "csv", "json", "jsonl", "md", "npy", "npz", "parquet", "pt", "safetensors"),
        *("tsv", "txt", "yaml", "yml"),
    )
)
"""Names that do not look like pictures and are expected beside them."""


_NO_ROW: Final[Row] = {}


class Folder:
    """A folder on a disk."""

    is_patchy = False
    num_readers = DISK_READERS

    def __init__(
        self, spec: FolderSource, *, places: Places, note: Note, columns: Collection[str] = ()
    ) -> None:
        self._spec, self._places, self._note, self._columns = spec, places, note, columns
        self._root = Path(spec.path)

    def items(self) -> Iterator[SourceItem]:
        """Yield the pictures in order of their paths; a folder's files before its subfolders."""
        if not self._root.is_dir():
            refuse_source(str(self._root), "no such folder")
        metadata = self._metadata()
        table = self._spec.metadata and self._spec.metadata.path
        for place, entry in self._walk("", frozenset()):
            if place == table or not self._is_picture(place):
                continue
            row = metadata.of(place) if metadata else _NO_ROW
            yield SourceItem(place=place, name=stem_of(place), stamp=_stamp(entry), row=row)
        for file in metadata.unused() if metadata else ():
            self._note("row_without_image", file, f"named in {table} and not in the folder")

    def open(self, item: SourceItem) -> bytes:
        """Read the file."""
        return read_file(self._root / item.place)

    def text(self, item: SourceItem, extension: str, *, limit: int) -> bytes | None:
        """Read the file of the same name with ``extension``."""
        path = f"{self._root}/{stem_of(item.place)}{extension}"
        if os.path.islink(path) and not self._is_allowed(Path(path)):  # noqa: PTH114 - quicker
            self._note(
                "link_outside", item.place, f"its {extension} is a link that is not followed"
            )
            return None
        try:
            with open(path, "rb") as stream:  # noqa: PTH123 - as above
                return stream.read(limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ImageInvalid(item.place, f"its {extension}: {error.strerror}") from error

    def _metadata(self) -> MetadataRows | None:
        spec = self._spec.metadata
        if spec is None:
            return None
        try:
            with (self._root / spec.path).open("rb") as stream:
                columns = {spec.file_column, *self._columns}
                return MetadataRows(read_rows(stream, name=spec.path, columns=columns), spec)
        except OSError as error:
            refuse_source(spec.path, f"cannot be read: {error.strerror}")

    def _walk(
        self, folder: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the files below ``folder`` with their paths; ``above`` are those it lies in."""
        path = self._root / folder
        try:
            status = path.stat()
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            self._note("unreadable", folder, f"folder cannot be listed: {error.strerror}")
            return
        above |= {(status.st_dev, status.st_ino)}
        subfolders = []
        for entry in entries:
            place = f"{folder}{entry.name}"
            if not self._may_enter(entry, place):
                continue
            if not entry.is_dir():
                yield place, entry
            elif self._spec.recursive and not self._is_loop(entry, above, place):
                subfolders.append(f"{place}/")
        for subfolder in subfolders:
            yield from self._walk(subfolder, above)

    def _may_enter(self, entry: os.DirEntry[str], place: str) -> bool:
        """Return whether to go on with an entry, and note why not."""
        if entry.name.startswith("."):
            self._note("name_hidden", _shown(place), "hidden files are not read")
        elif not entry.name.isprintable() and _shown(place) != place:
            self._note("name_not_utf8", _shown(place), "its name is not UTF-8")
        elif not entry.is_symlink():
            return True
        elif self._spec.links == "refuse":
            self._note("link_refused", place, "symbolic links are not followed")
        elif not os.path.exists(entry.path):  # noqa: PTH110 - Path.exists raises on loops
            self._note("unreadable", place, "a symbolic link that leads nowhere")
        elif not self._is_allowed(Path(entry.path)):
            self._note("link_outside", place, "a symbolic link that leaves what may be read")
        else:
            return True
        return False

    def _is_allowed(self, link: Path) -> bool:
        if self._spec.links == "follow":
            return self._places.allows_path(link)
        if self._spec.links == "refuse":
            return False
        return link.resolve().is_relative_to(self._root.resolve())

    def _is_loop(
        self, entry: os.DirEntry[str], above: frozenset[tuple[int, int]], place: str
    ) -> bool:
        if not entry.is_symlink():
            return False
        status = entry.stat()
        if (status.st_dev, status.st_ino) not in above:
            return False
        self._note("link_refused", place, "a symbolic link to a folder that it lies in")
        return True

    def _is_picture(self, place: str) -> bool:
        suffix = os.path.splitext(place)[1].lower()  # noqa: PTH122 - twice as fast
        if suffix in PICTURE_SUFFIXES:
            return True
        if suffix not in SIDE_SUFFIXES:
            self._note("name_not_picture", place, f"{suffix or 'no suffix'} is not a picture's")
        return False


def stamp_of(path: Path) -> str | None:
    """Return what changes whenever a file's content may have, None if it cannot be looked at."""
    return _stamp(path)


def _stamp(file: Path | os.DirEntry[str]) -> str | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return (
        f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        f":{status.st_dev}:{status.st_ino}"
    )


def read_file(path: Path) -> bytes:
    """Return an image file's bytes.

    Raises:
        ImageInvalid: They are more than ``MAX_IMAGE_BYTES``, or the disk does not give them.
        ObjectNotFound: There is no such file.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError as error:
        raise ObjectNotFound(str(path)) from error
    except OSError as error:
        raise ImageInvalid(path.name, f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageInvalid(path.name, f"more than {MAX_IMAGE_BYTES} bytes")
    return data


def _shown(place: str) -> str:
    """Return a path as text that can be written anywhere."""
    return place.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
