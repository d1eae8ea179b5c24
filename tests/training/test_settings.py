"""Settings of training stand in their own section, and do not show a password."""

from pathlib import Path

import pytest

from diptych.errors import SettingInvalid
from diptych.training.settings import load_settings


def test_defaults_are_loopback_and_a_file_under_the_home(isolated_home: Path) -> None:
    settings = load_settings()
    assert (settings.training.host, settings.training.port) == ("127.0.0.1", 50053)
    assert settings.ledger_url() == f"sqlite:///{isolated_home}/training/ledger.sqlite"


def test_url_of_the_ledger_is_not_shown() -> None:
    url = "postgresql://user:secret@db/diptych"
    settings = load_settings(arguments={"training": {"ledger_url": url}})
    assert settings.ledger_url() == url
    assert "secret" not in repr(settings)


def test_variable_of_the_service_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_TRAINING_MAX_RUNNING", "0")
    assert load_settings().training.max_running == 0


def test_unknown_variable_of_the_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_TRAINING_MAX_RUNING", "0")
    with pytest.raises(SettingInvalid, match=r"training.max_runing: no such setting"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_address", "localhost"),
        ("checkpoint_url", "s3://bucket"),
        ("device", "tpu"),
        ("lease_s", 0.0),
        ("max_spec_bytes", 1 << 30),
    ],
)
def test_value_out_of_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(SettingInvalid, match=name):
        load_settings(arguments={"training": {name: value}})
