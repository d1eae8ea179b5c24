"""A log of ticks remembers them and passes everything on."""

from prometheus_client import CollectorRegistry

from diptych.bench.ticks import Silence, TickLog
from diptych.inference.trajectory import Expert
from diptych.telemetry.metrics import InferenceMetrics


def test_ticks_are_remembered_and_passed_on() -> None:
    metrics = InferenceMetrics(CollectorRegistry())
    log = TickLog(metrics)
    log.on_tick(expert=Expert.BASE, num_rows=4, num_adapter_sets=2, seconds=0.5)
    log.on_queue_time(0.25)
    (tick,) = log.seen()
    assert (tick.expert, tick.num_rows, tick.num_adapter_sets) == ("base", 4, 2)
    read = metrics.registry.get_sample_value
    assert read("diptych_batch_rows_sum", {"expert": "base"}) == 4
    assert read("diptych_request_queue_time_seconds_sum") == 0.25


def test_what_was_cleared_is_gone() -> None:
    log = TickLog(Silence())
    log.on_tick(expert=Expert.BASE, num_rows=4, num_adapter_sets=2, seconds=0.5)
    log.clear()
    assert log.seen() == []
