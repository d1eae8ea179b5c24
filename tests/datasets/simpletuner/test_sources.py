"""Each kind of storage becomes a source, or is named."""

from pathlib import Path

import pytest

from diptych.datasets.simpletuner.sources import source_of
from support.simpletuner_options import Entry

BASE = Path("/base")
PARQUET = {
    "path": "meta.parquet",
    "filename_column": "id",
    "caption_column": "text",
    "width_column": "w",
    "height_column": "h",
    "identifier_includes_extension": True,
}


def test_a_folder_begins_at_the_base() -> None:
    entry = Entry(type="local", instance_data_dir="data")
    found = source_of(entry.options, BASE)
    assert found == {"type": "folder", "path": "/base/data", "links": "follow"}
    assert set(entry.said().values()) == {"honoured"}


def test_an_absolute_path_stays() -> None:
    found = source_of(Entry(instance_data_dir="/data").options, BASE)
    assert found is not None
    assert found["path"] == "/data"


def test_a_bucket_leaves_its_keys_behind() -> None:
    entry = Entry(
        type="aws",
        aws_bucket_name="b",
        aws_data_prefix="in/x/",
        aws_endpoint_url="https://store",
        aws_region_name=None,
        aws_access_key_id="id",
        aws_secret_access_key="key",
        aws_max_pool_connections=128,
    )
    assert source_of(entry.options, BASE) == {
        "type": "s3",
        "bucket": "b",
        "prefix": "in/x",
        "endpoint_url": "https://store",
    }
    said = entry.said()
    assert {said["aws_access_key_id"], said["aws_secret_access_key"]} == {"ignored"}
    assert "unsupported" not in said.values()


def test_a_table_of_metadata_stands_beside_the_images() -> None:
    entry = Entry(instance_data_dir="d", metadata_backend="parquet", parquet=PARQUET)
    found = source_of(entry.options, BASE)
    assert found is not None
    assert found["metadata"] == {
        "path": "/base/meta.parquet",
        "file_column": "id",
        "has_extension": True,
        "width_column": "w",
        "height_column": "h",
    }
    assert entry.said()["parquet.width_column"] == "translated"


def test_a_bucket_s_table_is_relative_to_its_prefix() -> None:
    table = {**PARQUET, "path": "in/meta.parquet"}
    entry = Entry(
        type="aws",
        aws_bucket_name="b",
        aws_data_prefix="in",
        caption_strategy="parquet",
        parquet=table,
    )
    found = source_of(entry.options, BASE)
    assert found is not None
    assert found["metadata"]["path"] == "meta.parquet"


def test_a_table_that_nothing_reads_is_left_out() -> None:
    entry = Entry(instance_data_dir="d", parquet=PARQUET, caption_strategy="textfile")
    assert source_of(entry.options, BASE) == {
        "type": "folder",
        "path": "/base/d",
        "links": "follow",
    }
    assert entry.said()["parquet"] == "ignored"


def test_a_csv_of_urls_is_a_table() -> None:
    entry = Entry(
        type="csv",
        csv_file="list.csv",
        csv_cache_dir="/cache",
        csv_caption_column="caption",
        csv_url_column="link",
    )
    assert source_of(entry.options, BASE) == {
        "type": "table",
        "path": "/base/list.csv",
        "image_column": "link",
        "cache": "/cache",
    }
    assert "unsupported" not in entry.said().values()


def test_a_dataset_of_the_hub_may_be_described_inside() -> None:
    inner = {"dataset_name": "me/cats", "image_column": "Image", "num_proc": 4}
    entry = Entry(
        type="huggingface",
        metadata_backend="huggingface",
        split="test",
        revision="abc",
        huggingface=inner,
    )
    assert source_of(entry.options, BASE) == {
        "type": "huggingface",
        "dataset": "me/cats",
        "split": "test",
        "revision": "abc",
        "image_column": "Image",
    }
    assert "unsupported" not in entry.said().values()


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_filters_of_rows_are_named(place: str) -> None:
    options = {"filter_func": {"min_width": 3}}
    entry = Entry(
        type="huggingface",
        dataset_name="x",
        **(options if place == "outside" else {"huggingface": options}),
    )
    source_of(entry.options, BASE)
    name = "filter_func" if place == "outside" else "huggingface.filter_func"
    assert entry.said()[name] == "unsupported"


def test_tars_in_a_local_folder_are_a_web_dataset(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    entry = Entry(type="webshart", source="shards", webshart={"shard_cache_gb": 25})
    found = source_of(entry.options, tmp_path)
    assert found == {"type": "webdataset", "path": str(tmp_path / "shards")}
    assert "unsupported" not in entry.said().values()


def test_tars_on_a_hub_and_captions_of_an_index_are_named() -> None:
    entry = Entry(type="webshart", source="laion/cc12m", metadata="webshart/cc12m")
    source_of(entry.options, BASE)
    said = entry.said()
    assert (said["source"], said["metadata"]) == ("unsupported", "unsupported")


@pytest.mark.parametrize(
    "values",
    [
        {"type": "local"},
        {"type": "aws"},
        {"type": "csv"},
        {"type": "huggingface"},
        {"type": "memory"},
    ],
)
def test_an_entry_without_a_place_has_no_source(values: dict[str, str]) -> None:
    entry = Entry(**values)
    assert source_of(entry.options, BASE) is None


def test_a_table_that_is_not_read_is_named() -> None:
    entry = Entry(instance_data_dir="d", metadata_backend="parquet", parquet={"path": "x.json"})
    source_of(entry.options, BASE)
    assert entry.said()["parquet"] == "unsupported"


def test_boxes_in_a_table_are_named() -> None:
    table = {**PARQUET, "bbox_column": "boxes"}
    entry = Entry(instance_data_dir="d", metadata_backend="parquet", parquet=table)
    source_of(entry.options, BASE)
    assert entry.said()["parquet.bbox_column"] == "unsupported"
