"""Tables of three kinds, sound and not."""

import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.datasets.source_spec import MetadataSpec
from diptych.datasets.sources.rows import MetadataRows, read_rows
from diptych.errors import DatasetInvalid, ExtraMissing

ROWS = [{"file_name": "a.png", "text": "ünï, \n b"}, {"file_name": "b.png", "text": ""}]
COLUMNS = {"file_name", "text"}


def rows(name: str, data: bytes) -> list[object]:
    return list(read_rows(io.BytesIO(data), name=name, columns=COLUMNS))


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", "\n\n".join(json.dumps(row) for row in ROWS).encode()),
        ("a.csv", b'\xef\xbb\xbffile_name,text\na.png,"\xc3\xbcn\xc3\xaf, \n b"\nb.png,\n'),
        ("a.TSV", b'file_name\ttext\na.png\t"\xc3\xbcn\xc3\xaf, \n b"\nb.png\t\n'),
        ("a.parquet", parquet()),
    ],
)
def test_a_table_yields_its_rows(name: str, data: bytes) -> None:
    assert rows(name, data) == ROWS


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.xml", b"", "a table's name ends in"),
        ("a.jsonl", b'{"a": 1}\n{"a"', "line 2 is not JSON"),
        ("a.jsonl", b"[1]", "line 1 is not an object"),
        ("a.jsonl", b'{"a": "\xff"}', "line 1 is not JSON in UTF-8"),
        ("a.csv", b"a,b\n1\n", "line 2 does not have 2 columns"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2 does not have 2 columns"),
        ("a.csv", b"a\n\xff\n", "after line"),
        ("a.csv", b'a\n"b\n', "after line"),
        ("a.parquet", b"PAR1 and no more", "not parquet that can be read"),
        ("a.parquet", parquet()[:-9], "not parquet that can be read"),
    ],
)
def test_a_table_that_is_none_is_refused(name: str, data: bytes, problem: str) -> None:
    with pytest.raises(DatasetInvalid, match=problem):
        rows(name, data)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_columns_that_are_not_wanted_are_left_out(name: str) -> None:
    data = parquet() if name.endswith("parquet") else b"file_name,text\na.png,x\nb.png,y\n"
    found = list(read_rows(io.BytesIO(data), name=name, columns={"file_name", "none"}))
    assert found == [{"file_name": "a.png"}, {"file_name": "b.png"}]


def test_parquet_without_its_reader_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExtraMissing, match=r"diptych\[cache\]"):
        rows("a.parquet", parquet())


def test_metadata_finds_a_row_by_its_image() -> None:
    metadata = MetadataRows(iter(ROWS), MetadataSpec())
    assert metadata.of("a.png") == ROWS[0]
    assert metadata.of("c.png") == {}
    assert metadata.unused() == ["b.png"]


def test_metadata_may_name_images_by_numbers() -> None:
    rows = [{"id": 12, "text": "one"}]
    metadata = MetadataRows(iter(rows), MetadataSpec(file_column="id", has_extension=False))
    assert metadata.of("12.png")["text"] == "one"


def test_metadata_may_name_images_without_extension() -> None:
    metadata = MetadataRows(
        iter([{"id": "x/a"}]), MetadataSpec(file_column="id", has_extension=False)
    )
    assert metadata.of("x/a.webp") == {"id": "x/a"}


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([{"text": "a"}], "row 1 has no text in 'file_name'"),
        ([ROWS[0], ROWS[0]], "row 2 is about 'a.png'"),
    ],
)
def test_metadata_says_one_thing_about_each_image(
    found: list[dict[str, object]], problem: str
) -> None:
    with pytest.raises(DatasetInvalid, match=problem):
        MetadataRows(iter(found), MetadataSpec())
