"""Tables of urls and paths."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.datasets.findings import Findings, Note
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.source_spec import TableSource
from diptych.datasets.sources.table import Table
from diptych.errors import DatasetInvalid, ImageInvalid, ObjectNotFound
from support.made_pictures import write_pictures
from support.web_server import WebServer


def opened(path: Path, note: Note, places: Places = EVERYWHERE, **spec: object) -> Table:
    found = TableSource(path=str(path), **spec)  # type: ignore[arg-type]
    return Table(found, places=places, note=note, columns={"text"})


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "in", a="beside a")
    path = tmp_path / "t.csv"
    path.write_text("url,text\nin/a.png,of a\n,nothing\n../secret.png,of a secret\n")
    return path


def test_rows_name_images_relative_to_the_table(csv: Path, findings: Findings, note: Note) -> None:
    source = opened(csv, note)
    first, _ = source.items()
    assert source.open(first) == (csv.parent / "in" / "a.png").read_bytes()
    assert (first.name, dict(first.row)) == ("in/a", {"text": "of a"})
    assert source.text(first, ".txt", limit=99) == b"beside a"
    assert [(one.reason, one.place) for one in findings] == [("row_without_image", "row 2")]


def test_paths_may_begin_elsewhere(csv: Path, note: Note) -> None:
    csv.write_text("url\na.png\n")
    source = opened(csv, note, base=str(csv.parent / "in"))
    assert source.open(next(source.items())).startswith(b"\x89PNG")


def test_paths_do_not_leave_a_servers_roots(csv: Path, note: Note) -> None:
    (csv.parent.parent / "secret.png").write_bytes(b"secret")
    source = opened(csv, note, Places(roots=(csv.parent,)))
    *_, last = source.items()
    with pytest.raises(ImageInvalid, match="outside the folders"):
        source.open(last)


def test_parquet_names_urls(tmp_path: Path, web: WebServer, note: Note) -> None:
    web.content["/x/a.png"] = b"bytes"
    table = {"image": [f"{web.url}/x/a.png?size=large", f"{web.url}/gone.png"], "text": ["a", "b"]}
    web.content["/x/a.png?size=large"] = b"bytes"
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    source = opened(tmp_path / "t.parquet", note, image_column="image")
    first, second = source.items()
    assert (first.name, source.open(first), first.row) == ("x/a", b"bytes", {"text": "a"})
    assert source.text(first, ".txt", limit=9) is None
    with pytest.raises(ObjectNotFound):
        source.open(second)


def test_a_server_may_forbid_urls(tmp_path: Path, web: WebServer, note: Note) -> None:
    (tmp_path / "t.csv").write_text(f"url\n{web.url}/a.png\n")
    source = opened(tmp_path / "t.csv", note, Places(urls=False))
    with pytest.raises(ImageInvalid, match="may not be fetched"):
        source.open(next(source.items()))
    assert web.asked == []


def test_a_download_may_be_kept(tmp_path: Path, web: WebServer, note: Note) -> None:
    web.content["/a.png"] = b"bytes"
    (tmp_path / "t.csv").write_text(f"url\n{web.url}/a.png\n")
    source = opened(tmp_path / "t.csv", note, cache=str(tmp_path / "kept"))
    first = next(source.items())
    assert first.stamp is None
    assert [source.open(first), source.open(first)] == [b"bytes"] * 2
    assert web.asked == ["/a.png"]
    assert next(source.items()).stamp is not None


@pytest.mark.parametrize(
    ("name", "column", "problem"),
    [("none.csv", "url", "cannot be read"), ("t.csv", "link", "has no column 'link'")],
)
def test_a_table_that_does_not_fit_is_refused(
    csv: Path, note: Note, name: str, column: str, problem: str
) -> None:
    with pytest.raises(DatasetInvalid, match=problem):
        list(opened(csv.with_name(name), note, image_column=column).items())
