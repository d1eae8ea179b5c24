"""Images below a prefix of an S3 bucket."""

import io
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from diptych.datasets.findings import Note
from diptych.datasets.source_spec import S3Source
from diptych.datasets.sources.base import (
    MAX_IMAGE_BYTES,
    NETWORK_READERS,
    PICTURE_SUFFIXES,
    SourceItem,
    stem_of,
)
from diptych.datasets.sources.folder import SIDE_SUFFIXES
from diptych.datasets.sources.rows import MetadataRows, read_rows, refuse_source
from diptych.errors import ExtraMissing, ImageInvalid

if TYPE_CHECKING:
    from diptych.storage.s3 import S3Config, S3Store

__all__ = ["S3Prefix"]


class S3Prefix:
    """Objects whose keys begin with a prefix; places are keys without it."""

    is_patchy = False
    num_readers = NETWORK_READERS

    def __init__(
        self,
        spec: S3Source,
        *,
        note: Note,
        columns: Collection[str] = (),
        config: "S3Config | None" = None,
    ) -> None:
        self._spec, self._note, self._columns = spec, note, columns
        self._prefix = f"{spec.prefix.strip('/')}/" if spec.prefix.strip("/") else ""
        self._store = _store(spec, config)
        self._texts: dict[str, int] = {}

    def items(self) -> Iterator[SourceItem]:
        """Yield the pictures in order of their keys."""
        metadata = self._metadata()
        table = self._spec.metadata and self._spec.metadata.path
        found = []
        for stored in self._store.scan(self._prefix):
            place = stored.key.removeprefix(self._prefix)
            suffix = _suffix(place)
            if place == table or not place or place.endswith("/"):
                continue
            if suffix in PICTURE_SUFFIXES:
                found.append((place, f"{stored.etag}:{stored.size_bytes}"))
            elif suffix in SIDE_SUFFIXES:
                self._texts[place] = stored.size_bytes
            else:
                self._note("name_not_picture", place, f"{suffix or 'no suffix'} is no picture's")
        if not found:
            refuse_source(f"{self._store.location}/{self._prefix}", "holds no pictures")
        for place, stamp in found:
            row = metadata.of(place) if metadata else {}
            yield SourceItem(place=place, name=stem_of(place), stamp=stamp, row=row)
        for file in metadata.unused() if metadata else ():
            self._note("row_without_image", file, f"named in {table} and not below the prefix")

    def open(self, item: SourceItem) -> bytes:
        """Read the object; a transfer that breaks goes on where it broke."""
        data = self._read(item.place, MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageInvalid(item.place, f"more than {MAX_IMAGE_BYTES} bytes")
        return data

    def text(self, item: SourceItem, extension: str, *, limit: int) -> bytes | None:
        """Read the object of the same key with ``extension``."""
        place = stem_of(item.place) + extension
        if extension.lower() in SIDE_SUFFIXES:
            size_bytes = self._texts.get(place)
            if not size_bytes:
                return None if size_bytes is None else b""
            return self._read(place, limit)
        if self._store.find(self._prefix + place) is None:
            return None
        return self._read(place, limit)

    def _read(self, place: str, limit: int) -> bytes:
        return b"".join(self._store.read(self._prefix + place, size_bytes=limit))

    def _metadata(self) -> MetadataRows | None:
        spec = self._spec.metadata
        if spec is None:
            return None
        found = self._store.get(self._prefix + spec.path)
        if found is None:
            refuse_source(spec.path, f"no such object below {self._store.location}")
        columns = {spec.file_column, *self._columns}
        rows = read_rows(io.BytesIO(found[0]), name=spec.path, columns=columns)
        return MetadataRows(rows, spec)


def _store(spec: S3Source, config: "S3Config | None") -> "S3Store":
    try:
        from diptych.storage.s3 import S3Config, S3Store  # noqa: PLC0415 - boto3 is an optional extra
    except ImportError as error:
        raise ExtraMissing(extra="cache", needed_for="reading S3") from error
    config = config or S3Config(endpoint_url=spec.endpoint_url, region=spec.region)
    return S3Store(spec.bucket, config)


def _suffix(place: str) -> str:
    name = place.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""
