"""The ASGI application: paths, bodies, headers, one log line per image request."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

import msgspec

from .bodies import Body, Budget, CallerGoneError, Header, Receive, read_head
from .budgets import INSUFFICIENT_QUOTA
from .course import Course
from .dispatch import Dispatcher
from .endpoints import ENDPOINTS, Reader, reader
from .errors import ApiError, server_error
from .figures import Figures
from .fleet import Fleet
from .metrics import Metrics
from .mirror import Mirror
from .report import report
from .snapshot import describe
from .spending import Spending
from .trace import Trace
from .upstream import EVENT_STREAM
from .work import Request

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[Header]

# The caller's connection is watched once a request takes this long (seconds): quicker ones end by themselves.
DISCONNECT_WATCH_SECONDS = 0.05
# A caller that has taken nothing of its stream for this long is as good as gone (seconds). Shorter than a worker's
# patience with the gateway, so that the fault is not found with the worker.
STALLED_SECONDS = 45.0
CLIENT_CLOSED = 499

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_METRICS = (b"content-type", b"text/plain; version=1.0.0; charset=utf-8")
_STREAM_HEADERS = (
    (b"content-type", EVENT_STREAM),
    (b"cache-control", b"no-cache"),
    # nginx collects replies unless it is told not to.
    (b"x-accel-buffering", b"no"),
)

_encoder = msgspec.json.Encoder()


class Sink(Protocol):
    def __call__(self, line: bytes, /) -> object: ...


class LogLine(msgspec.Struct):
    """One image request. Never its prompt, its user or a token."""

    time: float
    request_id: str
    namespace: str
    pool: str
    model: str
    seed: int | None
    status: int
    code: str
    seconds: float
    held_seconds: float
    worker: str
    attempts: int
    interruptions: int


class App:
    """`draining` is set at shutdown: /readyz then says 503, everything else goes on."""

    def __init__(
        self,
        fleet: Fleet,
        dispatcher: Dispatcher,
        metrics: Metrics,
        figures: Figures,
        spending: Spending,
        mirror: Mirror,
        bodies: Budget,
        pod: str,
        log: Sink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._figures = figures
        self._mirror = mirror
        self._bodies = bodies
        self._log = log
        self._clock = clock
        self.draining = False
        self.idle = asyncio.Event()
        """Set while no image request is without a reply."""
        self.idle.set()
        self.running = 0
        self._gets: dict[str, Callable[[], tuple[int, tuple[bytes, bytes], bytes]]] = {
            "/livez": lambda: (200, _TEXT, b"ok\n"),
            "/readyz": self._readyz,
            "/metrics": lambda: (200, _METRICS, metrics.expose()),
            "/v1/models": self._models,
            "/v1/gateway": lambda: (200, _JSON, report(pod, metrics, figures, spending, clock())),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        head = read_head(scope["headers"])
        trace = Trace(head.request_id, self._clock(), head.tracing, scope["headers"])
        readers = ENDPOINTS.get(scope["path"])
        if readers is not None and scope["method"] == "POST":
            await self._images(readers, Body(head, receive, self._bodies), receive, send, trace)
            return
        try:
            status, kind, body = self._get(scope["method"], scope["path"])
            headers = [kind]
        except ApiError as error:
            status, headers, body = error.status, _error_headers(error), error.body()
        await self._reply(send, status, [*headers, (b"x-request-id", trace.request_id.encode())], body)

    def _get(self, method: str, path: str) -> tuple[int, tuple[bytes, bytes], bytes]:
        handler = self._gets.get(path)
        if handler is None and path.startswith("/v1/models/"):
            handler = lambda: self._model(path.removeprefix("/v1/models/"))  # noqa: E731
        allowed = "GET" if handler else "POST" if path in ENDPOINTS else None
        if allowed is None:
            known = " and ".join(ENDPOINTS)
            raise ApiError(404, "unknown_url", f"Unknown URL: {method} {path[:200]}. See POST {known}.")
        if handler is None or method != "GET":
            allow = ((b"allow", allowed.encode()),)
            raise ApiError(405, "method_not_allowed", f"{path} takes only {allowed}.", headers=allow)
        return handler()

    def _readyz(self) -> tuple[int, tuple[bytes, bytes], bytes]:
        if self.draining:
            return 503, _TEXT, b"draining\n"
        if self._fleet.unlisted:
            return 503, _TEXT, f"not listed yet: {', '.join(self._fleet.unlisted)}\n".encode()
        return 200, _TEXT, b"ok\n"

    def _models(self) -> tuple[int, tuple[bytes, bytes], bytes]:
        models = [describe(name, route) for name, route in self._fleet.snapshot.listed()]
        return 200, _JSON, _encoder.encode({"object": "list", "data": models})

    def _model(self, name: str) -> tuple[int, tuple[bytes, bytes], bytes]:
        return 200, _JSON, _encoder.encode(describe(name, self._fleet.snapshot.find(name)))

    async def _images(
        self, readers: Mapping[bytes, Reader], body: Body, receive: Receive, send: Send, trace: Trace
    ) -> None:
        self.running += 1
        self.idle.clear()
        request: Request | None = None
        try:
            request = await reader(readers, body.head.content_type)(body)
            with _CallerWatch(receive):
                reply = await self._dispatcher.generate(request, trace)
                if isinstance(reply, Course):
                    await self._stream(reply, request, send, trace)
                    return
            status, code, headers, payload = reply.status, trace.worker_code, [_JSON], reply.body
        except ApiError as error:
            status, code, headers, payload = error.status, error.code, _error_headers(error), error.body()
        except CallerGoneError:
            self._end(trace, CLIENT_CLOSED, "client_closed_request")
            return
        except Exception:
            # The caller gets a typed error; the server logs the exception itself.
            self._end(trace, 500, "internal_error")
            failure = server_error(500, "internal_error", "The gateway failed; the log has the request id.")
            await self._reply(send, 500, [*_error_headers(failure), *_trace_headers(trace)], failure.body())
            raise
        finally:
            body.release()
            if trace.checkpoint is not None:
                trace.checkpoint.drop()
            self._leave()
        self._end(trace, status, code)
        await self._reply(send, status, [*headers, *_trace_headers(trace)], payload)
        if request is not None:
            self._mirror.offer(request, trace, status, code)

    def _leave(self) -> None:
        self.running -= 1
        if not self.running:
            self.idle.set()

    async def _stream(self, course: Course, request: Request, send: Send, trace: Trace) -> None:
        """Pass a worker's events on as they come. Raises CallerGoneError where the caller takes none."""
        self._metrics.first_event(trace.key, self._clock() - trace.start)
        with course:
            headers = [*_STREAM_HEADERS, *_trace_headers(trace), *self._closing()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with contextlib.aclosing(course.events()) as events:
                async for event in events:
                    await _send_event(send, event)
        await send({"type": "http.response.body", "body": b""})
        status, code = (course.failure.status, course.failure.code) if course.failure else (200, "")
        if course.fault is not None:
            self._figures.attempt_failed(trace.entry, trace.key[2], course.fault.status, course.fault.code)
        self._end(trace, status, code)
        self._mirror.offer(request, trace, status, code)

    async def _reply(self, send: Send, status: int, headers: Headers, body: bytes) -> None:
        headers.append((b"content-length", str(len(body)).encode()))
        headers += self._closing()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _closing(self) -> tuple[Header, ...]:
        """While draining, the caller's next request must find another gateway."""
        return ((b"connection", b"close"),) if self.draining else ()

    def _end(self, trace: Trace, status: int, code: str) -> None:
        seconds = self._clock() - trace.start
        self._metrics.ended(trace.key, status, seconds, seconds - trace.held_seconds - trace.worker_seconds)
        namespace, pool, model = trace.key
        self._figures.ended(
            trace.entry,
            model,
            status,
            code,
            seconds=seconds if trace.timed else None,
            units=trace.units,
            worker=trace.worker_figures,
            pictures=trace.pictures,
            repeated=trace.repeated,
        )
        self._metrics.looked_at(trace.key, trace.worker_figures)
        if trace.degraded:
            self._metrics.degraded(trace.key)
        if code == INSUFFICIENT_QUOTA:
            self._metrics.quota_refused(trace.key)
        line = LogLine(
            time=round(time.time(), 3),
            request_id=trace.request_id,
            namespace=namespace,
            pool=pool,
            model=model,
            seed=trace.seed,
            status=status,
            code=code,
            seconds=round(seconds, 6),
            held_seconds=round(trace.held_seconds, 6),
            worker=trace.worker,
            attempts=trace.attempts,
            interruptions=trace.interruptions,
        )
        self._log(_encoder.encode(line) + b"\n")


class _CallerWatch:
    """Cancels what runs within when the caller goes away, which then raises CallerGoneError."""

    def __init__(self, receive: Receive) -> None:
        self._gone = False
        self._receive = receive
        self._request = asyncio.current_task()
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(DISCONNECT_WATCH_SECONDS, self._start)

    def _start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self._gone = True
        if self._request is not None:
            self._request.cancel()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError):
            raise CallerGoneError from None


async def _send_event(send: Send, event: bytes) -> None:
    """Returns once the caller takes more; raises CallerGoneError where it does not for too long."""
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            await send({"type": "http.response.body", "body": event, "more_body": True})
    except TimeoutError:
        raise CallerGoneError from None


def _error_headers(error: ApiError) -> Headers:
    headers = [_JSON, *error.headers]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    return headers


def _trace_headers(trace: Trace) -> Headers:
    headers = [(b"x-request-id", trace.request_id.encode())]
    if trace.seed is not None:
        headers.append((b"x-imagefleet-seed", str(trace.seed).encode()))
    _, pool, model = trace.key
    if model:
        headers.append((b"x-imagefleet-model", model.encode()))
        headers.append((b"x-imagefleet-pool", pool.encode()))
    if trace.degraded:
        headers.append((b"x-imagefleet-degraded", b"budget"))
    if trace.repeated:
        headers.append((b"x-imagefleet-cache", b"hit"))
    return headers
