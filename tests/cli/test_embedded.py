"""Calls go to the server that was named, or to the real service inside the process."""

import pytest

from diptych.cli.embedded import (
    check_models,
    connect,
    embedded_settings,
    model_sources,
    need_extra,
)
from diptych.cli.report import Report
from diptych.errors import ExtraMissing, InvalidRequest


@pytest.fixture
def report() -> Report:
    return Report(as_json=True)


def test_named_server_is_the_one_that_answers(report: Report, server: str) -> None:
    with connect(report, server) as client:
        experts = {expert.expert for expert in client.get_capabilities().experts}
    assert experts == {"base", "refiner"}


def test_without_a_server_one_is_embedded_for_as_long_as_it_is_needed(report: Report) -> None:
    with connect(report, None, refiner="none") as client:
        experts = [expert.expert for expert in client.get_capabilities().experts]
    assert experts == ["base"]


def test_models_of_a_running_server_cannot_be_chosen() -> None:
    with pytest.raises(InvalidRequest, match="--server"):
        check_models("h:1", base="nano", refiner=None)


def test_embedded_server_listens_on_loopback_and_takes_free_ports() -> None:
    own = embedded_settings(base=None, refiner=None).inference
    listening = (own.host, own.port, own.metrics_port, own.health_port)
    assert listening == ("127.0.0.1", 0, None, None)


def test_embedded_server_keeps_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_MAX_STEPS", "7")
    assert embedded_settings(base=None, refiner=None).inference.max_steps == 7


def test_none_hosts_no_such_expert() -> None:
    assert model_sources(None, "none") == {"refiner": None}


def test_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.cli.embedded.NEEDED", ("no_such_package_here",))
    with pytest.raises(ExtraMissing, match=r"serving needs: pip install 'diptych\[inference\]'"):
        need_extra("serving")
