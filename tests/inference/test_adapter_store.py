"""Settings say where adapters lie and what uris may name."""

from pathlib import Path

import pytest

from diptych.errors import InvalidRequest, SettingInvalid
from diptych.inference.adapter_store import adapters_dir, fetches, open_registry
from diptych.inference.settings import InferenceSettings, Settings


def settings(home: Path, **own: object) -> Settings:
    return Settings(home=home, inference=InferenceSettings(**own))  # type: ignore[arg-type]


def never() -> None:
    pass


def test_adapters_lie_in_the_home_by_default(tmp_path: Path) -> None:
    assert adapters_dir(settings(tmp_path)) == tmp_path / "adapters"


def test_folder_is_made(tmp_path: Path) -> None:
    open_registry(settings(tmp_path, adapters_dir=tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()


def test_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingInvalid, match="adapters_dir"):
        open_registry(settings(tmp_path, adapters_dir=tmp_path / "file" / "a"))


def test_file_below_the_import_folder_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.safetensors").write_bytes(b"data")
    fetch = fetches(settings(tmp_path, adapter_import_dir=tmp_path / "in"))
    with fetch("file:a.safetensors", never) as fetched:
        assert (fetched.path.read_bytes(), fetched.source) == (b"data", "a.safetensors")


@pytest.mark.parametrize(
    "uri", ["file:a.safetensors", "s3://bucket/a.safetensors", "/etc/passwd", "ftp://x/y"]
)
def test_uri_that_is_not_allowed_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest), fetches(settings(tmp_path))(uri, never):
        pass


@pytest.mark.parametrize("store", ["bucket/prefix", "s3://bucket", "s3://Bucket/p", "file:///x"])
def test_store_that_is_no_bucket_and_prefix_is_refused(store: str) -> None:
    with pytest.raises(ValueError, match="BUCKET/PREFIX"):
        InferenceSettings(adapters_store=store)
