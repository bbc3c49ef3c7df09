"""Traces, as a collector gets them."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from imagefleet_runtime.worker import tracing
from imagefleet_runtime.worker.messages import Phase
from imagefleet_runtime.worker.settings import Settings, read_settings
from imagefleet_runtime.worker.spans import Span
from imagefleet_runtime.worker.tracing import start_tracing, wanted
from imagefleet_runtime.worker.waiting import Outcome

from tests.unit.worker.http_fakes import FakeSupervisor, ask, client_of, make_app
from tests.unit.worker.otlp import Collector, collecting, spans_of, values

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def settings() -> Settings:
    names = ("IMAGEFLEET_NAMESPACE", "IMAGEFLEET_POOL", "IMAGEFLEET_POD", "IMAGEFLEET_CALLER_PUBLIC_KEY")
    return read_settings(dict(zip(names, ("team-a", "images", "images-workers-1", "key"), strict=True)))


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.address)
        yield collector


WANTED = {
    "no collector": ({}, False),
    "a collector": ({ENDPOINT: "http://collector:4318"}, True),
    "one for traces alone": ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
    "an empty address": ({ENDPOINT: ""}, False),
    "turned off": ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
    "no traces": ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    "over gRPC": ({ENDPOINT: "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
    "traces by HTTP, the rest over gRPC": (
        {
            ENDPOINT: "http://collector:4317",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        },
        True,
    ),
}


@pytest.mark.parametrize(("env", "want"), WANTED.values(), ids=WANTED.keys())
def test_traces_are_sent_where_opentelemetrys_variables_say_so(env: dict[str, str], want: bool) -> None:
    assert wanted(env) == want


def test_a_protocol_that_is_not_spoken_is_told_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    wanted({ENDPOINT: "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert "tracing_off" in capsys.readouterr().out


def test_where_no_collector_is_named_nothing_is_imported() -> None:
    program = """
import sys
from imagefleet_runtime.worker import server, tracing
assert tracing.start_tracing({}, None) is None
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    found = subprocess.run(
        [sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]"


async def test_spans_reach_the_collector_with_their_times_and_parents(
    collector: Collector, settings: Settings
) -> None:
    sent = start_tracing({ENDPOINT: collector.address}, settings)
    assert sent is not None
    child = Span("weights", 2_000, 3_000)
    sent.send(Span("load", 1_000, 3_000, {"imagefleet.model": "shapes-1"}, (child,)))
    await sent.close()
    request = collector.next()
    spans = spans_of(request)
    load, weights = spans["load"], spans["weights"]
    assert (load.start_time_unix_nano, load.end_time_unix_nano) == (1_000, 3_000)
    assert (weights.start_time_unix_nano, weights.end_time_unix_nano) == (2_000, 3_000)
    assert (load.parent_span_id, weights.parent_span_id) == (b"", load.span_id)
    assert load.trace_id == weights.trace_id
    assert values(load.attributes) == {"imagefleet.model": "shapes-1"}
    resource = values(request.resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["k8s.pod.name"]) == ("imagefleet-worker", "images-workers-1")
    assert resource["imagefleet.pool"] == "images"


async def test_the_name_that_the_environment_gives_is_used(
    collector: Collector, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "painter")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    sent = start_tracing({ENDPOINT: collector.address}, settings)
    assert sent is not None
    sent.send(Span("load", 1, 2))
    await sent.close()
    resource = values(collector.next().resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["deployment.environment"]) == ("painter", "test")


async def test_a_request_continues_the_trace_of_its_caller(collector: Collector, settings: Settings) -> None:
    sent, supervisor = start_tracing({ENDPOINT: collector.address}, settings), FakeSupervisor()
    assert sent is not None
    async with client_of(make_app(supervisor, sent)) as client:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "req-7"}
        reply = asyncio.create_task(client.post("/v1/generate", content=ask(), headers=headers))
        job = await supervisor.jobs.get()
        phases = (Phase("denoise", 1_000, 2_000),)
        job.answer(Outcome((b"one",), 0.5, (phases,)))
        assert (await reply).status_code == 200
    await sent.close()
    request = collector.next()
    spans = spans_of(request)
    root, denoise = spans["POST /v1/generate"], spans["denoise"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert (root.parent_span_id.hex(), denoise.parent_span_id) == (PARENT, root.span_id)
    assert root.kind == root.SPAN_KIND_SERVER
    assert values(root.attributes)["imagefleet.request_id"] == "req-7"
    assert b"castle" not in request.SerializeToString()


async def test_a_caller_that_does_not_sample_is_heeded(collector: Collector, settings: Settings) -> None:
    sent = start_tracing({ENDPOINT: collector.address}, settings)
    assert sent is not None
    attributes = {"http.response.status_code": 200}
    sent.send(Span("unsampled", 1, 2, attributes), {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    sent.send(Span("sampled", 1, 2, attributes), {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    await sent.close()
    assert set(spans_of(collector.next())) == {"sampled"}


async def test_a_failure_is_marked(collector: Collector, settings: Settings) -> None:
    sent = start_tracing({ENDPOINT: collector.address}, settings)
    assert sent is not None
    sent.send(Span("POST /v1/generate", 1, 2, {}, error="engine_crashed"), {})
    await sent.close()
    span = spans_of(collector.next())["POST /v1/generate"]
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert values(span.attributes) == {"error.type": "engine_crashed"}


@pytest.fixture
def silent() -> Iterator[str]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_collector_that_hangs_holds_up_neither_serving_nor_the_end(
    silent: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.1)
    monkeypatch.setenv(ENDPOINT, silent)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    sent = start_tracing({ENDPOINT: silent}, settings)
    assert sent is not None
    here = threading.get_ident()
    for _ in range(5000):  # more than the queue takes
        sent.send(Span("load", 1, 2))
    async with asyncio.timeout(30):
        await sent.close()
    assert threading.get_ident() == here


async def test_a_fault_of_the_library_turns_traces_off_and_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    assert start_tracing(dict(os.environ), settings) is None
    assert "tracing_off" in capsys.readouterr().out
