"""Spans lie end to end under their request, and nothing is traced unless asked."""

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from diptych.telemetry.tracing import NullTracer, OpenTelemetryTracer

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
BEGIN_NS = 1_000_000_000


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> OpenTelemetryTracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OpenTelemetryTracer(provider, clock_ns=lambda: BEGIN_NS)


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_stages_lie_end_to_end(tracer: OpenTelemetryTracer, exporter: InMemorySpanExporter) -> None:
    with tracer.request("Generate", attributes={}, headers={}) as span:
        span.stages({"queue": 1.0, "base": 2.0})
    base = named(exporter)["base"]
    assert (base.start_time, base.end_time) == (2_000_000_000, 4_000_000_000)


def test_stage_without_time_has_no_span(
    tracer: OpenTelemetryTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.request("Generate", attributes={}, headers={}) as span:
        span.stages({"base": 2.0, "refiner": 0.0})
    assert set(named(exporter)) == {"Generate", "base"}


def test_stage_is_a_child_of_its_request(
    tracer: OpenTelemetryTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.request("Generate", attributes={}, headers={}) as span:
        span.stages({"base": 2.0})
    spans = named(exporter)
    parent, request = spans["base"].parent, spans["Generate"].context
    assert parent is not None
    assert request is not None
    assert parent.span_id == request.span_id


def test_request_joins_the_callers_trace(
    tracer: OpenTelemetryTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.request("Generate", attributes={}, headers=PARENT):
        pass
    context = named(exporter)["Generate"].context
    assert context is not None
    assert f"{context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"


def test_request_span_keeps_its_attributes(
    tracer: OpenTelemetryTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.request("Generate", attributes={"request_id": "r1"}, headers={}):
        pass
    assert dict(named(exporter)["Generate"].attributes or {}) == {"request_id": "r1"}


def test_failure_is_recorded_and_passes_on(
    tracer: OpenTelemetryTracer, exporter: InMemorySpanExporter
) -> None:
    with (
        pytest.raises(ValueError, match="broken"),
        tracer.request("Generate", attributes={}, headers={}),
    ):
        raise ValueError("broken")
    assert not named(exporter)["Generate"].status.is_ok


def test_null_tracer_opens_a_span_that_takes_stages() -> None:
    with NullTracer().request("Generate", attributes={}, headers={}) as span:
        assert span.stages({"base": 1.0}) is None  # type: ignore[func-returns-value]
