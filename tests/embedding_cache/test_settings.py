"""Settings of the cache stand in their own section."""

from pathlib import Path

import pytest

from diptych.embedding_cache.settings import load_settings
from diptych.errors import SettingInvalid


def test_defaults_are_loopback_and_the_embedded_pair() -> None:
    own = load_settings().cache
    assert (own.host, own.base, own.refiner_source()) == ("127.0.0.1", "nano", "nano")


def test_variable_of_the_service_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE_MEMORY_BYTES", "0")
    assert load_settings().cache.memory_bytes == 0


def test_unknown_variable_of_the_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE_MEMROY_BYTES", "0")
    with pytest.raises(SettingInvalid, match=r"cache.memroy_bytes: no such setting"):
        load_settings()


def test_section_of_inference_is_not_judged_here(tmp_path: Path) -> None:
    path = tmp_path / "diptych.yaml"
    path.write_text("inference: {nonsense: 1}\ncache: {port: 5}\n")
    assert load_settings(path).cache.port == 5


def test_refiner_is_not_assumed_beside_another_base() -> None:
    own = load_settings(arguments={"cache": {"base": "models/sdxl"}}).cache
    assert own.refiner_source() is None


def test_cache_without_an_encoder_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="neither base nor refiner"):
        load_settings(arguments={"cache": {"base": None}})


def test_store_that_is_no_bucket_is_refused() -> None:
    with pytest.raises(SettingInvalid, match=r"cache.store"):
        load_settings(arguments={"cache": {"store": "s3://bucket"}})
