"""A collector of traces on the loopback address."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector(HTTPServer):
    """``requests``: what workers sent, decoded, in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: queue.Queue[ExportTraceServiceRequest] = queue.Queue()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next(self) -> ExportTraceServiceRequest:
        return self.requests.get(timeout=60)

    def trace(self, trace: str, root: str) -> dict[str, Any]:
        """The spans of a trace by name, once its span ``root`` has come: it is the last to end."""
        found: dict[str, Any] = {}
        while root not in found:
            spans = spans_of(self.next())
            found |= {name: span for name, span in spans.items() if span.trace_id.hex() == trace}
        return found


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Collector)
        if self.path == "/v1/traces":
            self.server.requests.put(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        pass


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


def spans_of(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """The spans by name; the last of each name."""
    scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
    return {span.name: span for scope in scopes for span in scope.spans}


def values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
