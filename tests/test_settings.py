"""Several services share one file and one environment; each judges its own section."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from diptych.errors import SettingInvalid
from diptych.settings import Device, Port, SharedSettings, read_settings


class _Cache(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    port: Port = 1
    device: Device = "auto"


class _Settings(SharedSettings):
    cache: _Cache = _Cache()


def test_section_of_another_service_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "diptych.yaml"
    path.write_text("inference: {port: 2, nonsense: 3}\ncache: {port: 4}\n")
    assert read_settings(_Settings, path).cache.port == 4


def test_variable_of_another_service_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_NONSENSE", "3")
    monkeypatch.setenv("DIPTYCH_CACHE_PORT", "5")
    assert read_settings(_Settings).cache.port == 5


def test_section_that_no_service_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "diptych.yaml"
    path.write_text("cach3: {port: 2}\n")
    with pytest.raises(SettingInvalid, match="cach3: no such setting"):
        read_settings(_Settings, path)


def test_variable_of_a_section_that_no_service_has_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIPTYCH_CACH3_PORT", "5")
    with pytest.raises(SettingInvalid, match="DIPTYCH_CACH3_PORT: no such setting"):
        read_settings(_Settings)


def test_values_are_judged_with_their_place() -> None:
    with pytest.raises(SettingInvalid, match=r"cache\.device: no device 'abacus'"):
        read_settings(_Settings, arguments={"cache": {"device": "abacus"}})
