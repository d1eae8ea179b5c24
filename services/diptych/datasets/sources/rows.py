"""Tables about images: JSON lines, CSV and parquet as rows of plain values."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import PurePath
from typing import BinaryIO, Final, NoReturn

from diptych.datasets.source_spec import MetadataSpec
from diptych.datasets.sources.base import stem_of
from diptych.errors import DatasetInvalid, ExtraMissing, FieldViolation

__all__ = ["MetadataRows", "Row", "only", "read_rows", "refuse_source"]

Row = Mapping[str, object]
MAX_LINE_BYTES: Final = 2**24
_BATCH_ROWS: Final = 4096


def read_rows(stream: BinaryIO, *, name: str, columns: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a table, ``columns`` of them; its kind is the suffix of ``name``.

    Raises:
        DatasetInvalid: It is none that is read, or does not hold what its name says.
        ExtraMissing: It is parquet, and what reads it is not installed.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix in {".jsonl", ".ndjson"}:
        yield from (only(row, columns) for row in _json_rows(stream, name))
    elif suffix in {".csv", ".tsv"}:
        delimiter = "\t" if suffix == ".tsv" else ","
        yield from (only(row, columns) for row in _csv_rows(stream, name, delimiter))
    elif suffix == ".parquet":
        yield from _parquet_rows(stream, name, columns)
    else:
        refuse_source(name, "a table's name ends in .jsonl, .csv, .tsv or .parquet")


class MetadataRows:
    """Rows by the image that they are about; remembers which were asked for."""

    def __init__(self, rows: Iterator[Row], spec: MetadataSpec) -> None:
        self._has_extension = spec.has_extension
        self._rows: dict[str, Row] = {}
        for number, row in enumerate(rows, start=1):
            file = row.get(spec.file_column)
            if isinstance(file, int) and not isinstance(file, bool):
                file = str(file)
            if not isinstance(file, str) or not file:
                refuse_source(spec.path, f"row {number} has no text in {spec.file_column!r}")
            file = file.removeprefix("./")
            if file in self._rows:
                refuse_source(spec.path, f"row {number} is about {file!r:.200}, as one before it")
            self._rows[file] = row
        self._unused = set(self._rows)

    def of(self, place: str) -> Row:
        """Return the row about the image at ``place``, empty where there is none."""
        name = place if self._has_extension else stem_of(place)
        self._unused.discard(name)
        return self._rows.get(name, {})

    def unused(self) -> list[str]:
        """Return which images have a row and were not asked for."""
        return sorted(self._unused)


def only(row: Row, columns: Collection[str]) -> Row:
    """Return the columns of a row that are wanted; a table may have others that are large."""
    return {name: value for name, value in row.items() if name in columns}


def refuse_source(name: str, problem: str) -> NoReturn:
    """Say what is wrong with a source.

    Raises:
        DatasetInvalid: Always.
    """
    raise DatasetInvalid([FieldViolation(field="source", description=f"{name}: {problem}")])


def _json_rows(stream: BinaryIO, name: str) -> Iterator[Row]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            refuse_source(name, f"line {number} is longer than {MAX_LINE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            refuse_source(name, f"line {number} is not JSON in UTF-8: {error!s:.200}")
        if not isinstance(row, dict):
            refuse_source(name, f"line {number} is not an object")
        yield row


def _csv_rows(stream: BinaryIO, name: str, delimiter: str) -> Iterator[Row]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or ())
                refuse_source(name, f"line {reader.line_num} does not have {columns} columns")
            yield row
    except (csv.Error, UnicodeDecodeError) as error:
        refuse_source(name, f"after line {reader.line_num}: {error}")
    finally:
        with suppress(ValueError):  # whoever stops early may have closed the stream by now
            text.detach()


def _parquet_rows(stream: BinaryIO, name: str, columns: Collection[str]) -> Iterator[Row]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(extra="cache", needed_for="reading parquet") from error
    try:
        table = pq.ParquetFile(stream)
        wanted = [one for one in table.schema_arrow.names if one in columns]
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        refuse_source(name, f"not parquet that can be read: {error!s:.200}")
