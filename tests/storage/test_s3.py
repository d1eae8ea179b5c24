"""Objects are listed and read over real HTTP, and what arrives is what was listed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.errors import ObjectNotFound, SourceUnavailable
from diptych.storage.s3 import S3Config, S3Store

Put = Callable[[str, bytes], None]


def test_lists_what_has_the_prefix_in_order(put: Put, s3_config: S3Config) -> None:
    for key in ("pair/b", "pair/a", "other/c"):
        put(key, b"12345")
    listed = S3Store("weights", s3_config).list_objects("pair/")
    assert [(item.key, item.size_bytes) for item in listed] == [("pair/a", 5), ("pair/b", 5)]


def test_lists_more_than_one_page(put: Put, s3_config: S3Config) -> None:
    for number in range(5):
        put(f"many/{number}", b"")
    store = S3Store("weights", replace(s3_config, page_size=2))
    assert len(store.list_objects("many/")) == 5


def test_downloads_the_content(put: Put, s3_config: S3Config, tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    put("blob", data)
    store = S3Store("weights", s3_config)
    (stored,) = store.list_objects("blob")
    store.download(stored, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == data


def test_refuses_content_that_changed_after_it_was_listed(
    put: Put, s3_config: S3Config, tmp_path: Path
) -> None:
    put("blob", b"first")
    store = S3Store("weights", s3_config)
    (stored,) = store.list_objects("blob")
    put("blob", b"other")
    with pytest.raises(SourceUnavailable):
        store.download(stored, tmp_path / "blob")


def test_refuses_content_of_another_size(put: Put, s3_config: S3Config, tmp_path: Path) -> None:
    put("blob", b"first")
    store = S3Store("weights", s3_config)
    (stored,) = store.list_objects("blob")
    with pytest.raises(SourceUnavailable, match="not what was listed"):
        store.download(replace(stored, size_bytes=6), tmp_path / "blob")


def test_a_missing_bucket_is_not_found(s3_config: S3Config) -> None:
    with pytest.raises(ObjectNotFound, match=r"s3://nothing-here"):
        S3Store("nothing-here", s3_config).list_objects("")


def test_a_missing_object_is_not_found(put: Put, s3_config: S3Config, tmp_path: Path) -> None:
    put("blob", b"first")
    store = S3Store("weights", s3_config)
    (stored,) = store.list_objects("blob")
    with pytest.raises(ObjectNotFound):
        store.download(replace(stored, key="gone"), tmp_path / "gone")


def test_a_store_that_does_not_answer_is_unavailable(s3_config: S3Config, free_port: int) -> None:
    config = replace(s3_config, endpoint_url=f"http://127.0.0.1:{free_port}")
    with pytest.raises(SourceUnavailable):
        S3Store("weights", config).list_objects("")
