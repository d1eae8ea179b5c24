"""Datasets of Hugging Face's library, from local files."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.source_spec import HuggingFaceSource
from diptych.datasets.sources.huggingface import HuggingFace
from diptych.errors import DatasetInvalid, ExtraMissing, ImageInvalid
from support.made_pictures import picture_bytes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the library writes out of the user's home, and the library off the network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of pictures only: the library takes one with texts for texts."""
    path = tmp_path / "in"
    path.mkdir()
    for seed, name in enumerate("ab"):
        (path / f"{name}.png").write_bytes(picture_bytes(seed))
    return path


def opened(places: Places = EVERYWHERE, **spec: Any) -> HuggingFace:
    found = HuggingFaceSource(**spec)
    return HuggingFace(found, places=places, columns={"text", "caption"})


def test_an_image_folder_has_files_and_metadata(folder: Path) -> None:
    rows = [{"file_name": f"{name}.png", "text": f"of {name}"} for name in "ab"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = opened(dataset=str(folder))
    items = list(source.items())
    assert [item.row["text"] for item in items] == ["of a", "of b"]
    assert source.open(items[1]) == (folder / "b.png").read_bytes()


def test_parquet_holds_the_bytes_themselves(tmp_path: Path) -> None:
    data = picture_bytes(1)
    images = [{"bytes": data, "path": "a.png"}, {"bytes": b"", "path": None}]
    (tmp_path / "in").mkdir()
    table = pa.table({"picture": images, "caption": [["one", "two"], []]})
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    source = opened(dataset=str(tmp_path / "in"), image_column="picture")
    first, second = source.items()
    assert (source.open(first), first.row) == (data, {"caption": ["one", "two"]})
    assert source.open(second) == b""
    assert source.text(first, ".txt", limit=9) is None


@pytest.mark.parametrize("path", ["/etc/hostname", "http://127.0.0.1:1/a.png", "../../secret"])
def test_a_path_in_the_data_is_no_way_out_of_a_servers_roots(tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"image": [{"bytes": None, "path": path}]})
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    places = Places(roots=(tmp_path / "in",), urls=False)
    source = opened(places, dataset=str(tmp_path / "in"))
    with pytest.raises(ImageInvalid, match="may not be read here"):
        source.open(next(source.items()))


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"split": "test"}, "cannot be loaded"),
        ({"image_column": "picture"}, "has no column 'picture'"),
        ({"dataset": "/none/such"}, "cannot be loaded"),
    ],
)
def test_what_is_not_there_is_refused(folder: Path, spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(DatasetInvalid, match=problem):
        list(opened(**{"dataset": str(folder), **spec}).items())


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets.features", None)
    with pytest.raises(ExtraMissing, match=r"diptych\[cache\]"):
        list(opened(dataset="./x").items())
