"""Rows of a parquet or CSV file that name images by url or path."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from diptych.datasets.findings import Note
from diptych.datasets.places import Places
from diptych.datasets.source_spec import TableSource
from diptych.datasets.sources.base import NETWORK_READERS, SourceItem, stem_of
from diptych.datasets.sources.folder import read_file, stamp_of
from diptych.datasets.sources.rows import Row, only, read_rows, refuse_source
from diptych.datasets.sources.web import FetchConfig, fetch
from diptych.errors import ImageInvalid
from diptych.storage.partial import sweep_partials, write_whole

__all__ = ["Table"]

_PARTIALS: Final = ".partial"


class Table:
    """A table, and the files and web servers that it points at."""

    is_patchy = True
    num_readers = NETWORK_READERS

    def __init__(
        self, spec: TableSource, *, places: Places, note: Note, columns: Collection[str] = ()
    ) -> None:
        self._spec, self._places, self._note, self._columns = spec, places, note, columns
        self._table = Path(spec.path)
        self._base = Path(spec.base) if spec.base else self._table.parent
        self._cache = Path(spec.cache) if spec.cache else None
        self._config = FetchConfig(
            max_bytes=spec.max_bytes, timeout_s=spec.timeout_s, num_attempts=spec.num_attempts
        )
        if self._cache is not None:
            sweep_partials(self._cache / _PARTIALS)

    def items(self) -> Iterator[SourceItem]:
        """Yield the images in the order of the rows; two rows may name one image."""
        try:
            stream = self._table.open("rb")
        except OSError as error:
            refuse_source(str(self._table), f"cannot be read: {error.strerror}")
        column = self._spec.image_column
        with stream:
            rows = read_rows(stream, name=self._table.name, columns={column, *self._columns})
            for number, row in enumerate(rows, start=1):
                if column not in row:
                    refuse_source(self._table.name, f"has no column {column!r}")
                place = row[column]
                if isinstance(place, str) and place:
                    yield self._item(place, row)
                else:
                    where = f"row {number}"
                    self._note("row_without_image", where, f"{column} holds no url or path")

    def open(self, item: SourceItem) -> bytes:
        """Read the file, or fetch the url unless it was kept."""
        if not _is_url(item.place):
            return read_file(self._file(item.place))
        if not self._places.urls:
            raise ImageInvalid(item.place, "urls may not be fetched here")
        kept = self._kept(item.place)
        if kept is None:
            return fetch(item.place, self._config)
        if kept.is_file():
            return read_file(kept)
        data = fetch(item.place, self._config)
        write_whole(kept, [data], partials=kept.parents[1] / _PARTIALS, is_lasting=False)
        return data

    def text(self, item: SourceItem, extension: str, *, limit: int) -> bytes | None:
        """Read the file beside an image that is a file; a url has none."""
        if _is_url(item.place):
            return None
        try:
            with self._file(stem_of(item.place) + extension).open("rb") as stream:
                return stream.read(limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ImageInvalid(item.place, f"its {extension}: {error.strerror}") from error

    def _item(self, place: str, row: Row) -> SourceItem:
        if _is_url(place):
            kept = self._kept(place)
            name = stem_of(urlsplit(place).path.lstrip("/"))
            stamp = stamp_of(kept) if kept else None
        else:
            name, stamp = stem_of(place), None
            if self._is_inside(place):
                stamp = stamp_of(self._base / place)
        return SourceItem(place=place, name=name, stamp=stamp, row=only(row, self._columns))

    def _file(self, place: str) -> Path:
        if not self._is_inside(place):
            raise ImageInvalid(place[:200], "is outside the folders that may be read here")
        return self._base / place

    def _is_inside(self, place: str) -> bool:
        return "\0" not in place and self._places.allows_path(self._base / place)

    def _kept(self, url: str) -> Path | None:
        """Return the file in which a url's content is kept, None if none is."""
        if self._cache is None:
            return None
        name = hashlib.sha256(url.encode()).hexdigest()
        return self._cache / name[:2] / name


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))
