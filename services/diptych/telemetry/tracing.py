"""Spans of a request and of its stages, for OpenTelemetry; off unless an endpoint is set.

One span covers the call; under it lie queue, encode, base, refiner and decode, written when the
request ends from the times the engine measured, so that tracing costs the engine's loop nothing.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer as OtelTracer

__all__ = ["NullTracer", "OpenTelemetryTracer", "RequestSpan", "Tracer", "otlp_tracer"]

STAGES: Final = ("queue", "encode", "base", "refiner", "decode")
"""Child spans in the order they follow each other."""

NANOSECONDS: Final = 1_000_000_000


class RequestSpan(Protocol):
    """The span of one call while it runs."""

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Write one child span for each stage of ``STAGES`` that took time."""


class Tracer(Protocol):
    """Opens the span of a call."""

    def request(
        self, name: str, *, attributes: Mapping[str, str | int], headers: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[RequestSpan]:
        """Open a span, a child of the caller's when ``headers`` carry a ``traceparent``."""

    def close(self) -> None:
        """Send what is still held and stop."""


class NullTracer:
    """Traces nothing, at no cost."""

    @contextlib.contextmanager
    def request(
        self, name: str, *, attributes: Mapping[str, str | int], headers: Mapping[str, str]
    ) -> Iterator[RequestSpan]:
        """Open nothing."""
        del name, attributes, headers
        yield self

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Do nothing."""


class OpenTelemetryTracer:
    """Writes spans through an OpenTelemetry provider, which it owns and shuts down."""

    def __init__(
        self, provider: "TracerProvider", clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Take a provider, and what tells nanoseconds since 1970."""
        self._provider, self._clock_ns = provider, clock_ns
        self._tracer: OtelTracer = provider.get_tracer("diptych")

    @contextlib.contextmanager
    def request(
        self, name: str, *, attributes: Mapping[str, str | int], headers: Mapping[str, str]
    ) -> Iterator[RequestSpan]:
        """Open a span that ends with the block and records what the block raises."""
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 optional
            TraceContextTextMapPropagator,
        )

        context = TraceContextTextMapPropagator().extract(dict(headers))
        begin_ns = self._clock_ns()
        with self._tracer.start_as_current_span(
            name, context=context, attributes=dict(attributes), start_time=begin_ns
        ):
            yield _OpenTelemetrySpan(self._tracer, begin_ns)

    def close(self) -> None:
        """Flush to the exporter and shut the provider down."""
        self._provider.shutdown()


class _OpenTelemetrySpan:
    def __init__(self, tracer: "OtelTracer", begin_ns: int) -> None:
        self._tracer, self._begin_ns = tracer, begin_ns

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Lay the stages end to end from the request's start."""
        at_ns = self._begin_ns
        for stage in STAGES:
            length_ns = int(seconds.get(stage, 0.0) * NANOSECONDS)
            if length_ns:
                child = self._tracer.start_span(stage, start_time=at_ns)
                child.end(end_time=at_ns + length_ns)
            at_ns += length_ns


def otlp_tracer(endpoint: str, *, service: str) -> OpenTelemetryTracer:
    """Return a tracer that sends spans to an OTLP gRPC ``endpoint`` such as http://host:4317."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 optional
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 optional
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 optional
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 optional

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return OpenTelemetryTracer(provider)
