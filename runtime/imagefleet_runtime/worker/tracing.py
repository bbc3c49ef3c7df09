"""Traces, sent to an OpenTelemetry collector where one is named. Else nothing of OpenTelemetry is imported."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.settings import Settings
from imagefleet_runtime.worker.spans import Span
from imagefleet_runtime.worker.threads import in_thread

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
# What is left of the traces at the end is sent for so long; a collector that is gone must not hold up the pod's end.
FLUSH_SECONDS = 5.0


class Tracing:
    """Hands spans to OpenTelemetry's batch processor: its own thread sends them, and it drops what is too much."""

    def __init__(self, provider: Any) -> None:
        """``provider``: an opentelemetry.sdk.trace.TracerProvider."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("imagefleet", version("imagefleet"))
        self._propagator = TraceContextTextMapPropagator()

    def send(self, span: Span, headers: Mapping[str, str] | None = None) -> None:
        """``span`` with its children as a trace of its own, or, for a request with ``headers``, below the span that
        its ``traceparent`` names."""
        if headers is None:
            self._emit(span, None, self._api.SpanKind.INTERNAL)
        else:
            self._emit(span, self._propagator.extract(headers), self._api.SpanKind.SERVER)

    def _emit(self, span: Span, context: Any, kind: Any) -> None:
        emitted = self._tracer.start_span(
            span.name, context, kind, attributes=dict(span.attributes), start_time=span.started_ns
        )
        if span.error is not None:
            emitted.set_attribute("error.type", span.error)
            emitted.set_status(self._api.StatusCode.ERROR, span.error)
        below = self._api.set_span_in_context(emitted)
        for child in span.children:
            self._emit(child, below, self._api.SpanKind.INTERNAL)
        emitted.end(span.ended_ns)

    async def close(self) -> None:
        """Send what is left, as far as FLUSH_SECONDS suffice."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(in_thread(self._provider.shutdown), FLUSH_SECONDS)


def start_tracing(env: Mapping[str, str], settings: Settings) -> Tracing | None:
    """None where ``env`` names no collector, or turns traces off. OpenTelemetry's own variables count."""
    if not wanted(env):
        return None
    _log_as_others_do()
    try:
        return Tracing(_provider(settings))
    except Exception as error:  # a bad variable; serving does not depend on traces
        log("tracing_off", message=f"{type(error).__name__}: {error}")
        return None


def wanted(env: Mapping[str, str]) -> bool:
    if not any(env.get(name) for name in ENDPOINTS):
        return False
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true" or env.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    protocol = next((env[name] for name in PROTOCOLS if env.get(name)), PROTOCOL)
    if protocol != PROTOCOL:
        log(
            "tracing_off", message=f"traces are sent by {PROTOCOL}, not {protocol}: name a collector for that"
        )
    return protocol == PROTOCOL


def _provider(settings: Settings) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = {
        "service.name": "imagefleet-worker",
        "service.version": version("imagefleet"),
        "service.instance.id": settings.pod,
        "k8s.namespace.name": settings.namespace,
        "k8s.pod.name": settings.pod,
        "imagefleet.pool": settings.pool,
    }
    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before what we say.
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _log_as_others_do() -> None:
    """OpenTelemetry's own warnings (a collector that does not answer) as lines of our log."""
    logger = logging.getLogger("opentelemetry")
    logger.handlers = [_Lines(logging.WARNING)]
    logger.propagate = False


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log("tracing", level=record.levelname, message=record.getMessage())
