"""Metrics are read from a port; one that cannot be bound is named by its setting."""

import pytest
from prometheus_client import CollectorRegistry

from diptych.errors import SettingInvalid
from diptych.telemetry.metrics_port import open_metrics


def test_no_port_opens_nothing() -> None:
    assert open_metrics(CollectorRegistry(), host="127.0.0.1", port=None, field="x") is None


def test_port_in_use_is_named_by_its_setting() -> None:
    first = open_metrics(CollectorRegistry(), host="127.0.0.1", port=0, field="x")
    assert first is not None
    with pytest.raises(SettingInvalid, match=r"cache.metrics_port: .*cannot be bound"):
        open_metrics(
            CollectorRegistry(), host="127.0.0.1", port=first.port, field="cache.metrics_port"
        )
    first.close()
