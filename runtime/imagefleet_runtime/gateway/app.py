"""The ASGI application: paths, bodies, headers, one log line per image request."""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import msgspec

from . import images
from .dispatch import Dispatcher, Trace
from .errors import ApiError, server_error
from .fleet import Fleet
from .metrics import Metrics
from .snapshot import describe
from .upstream import Reply

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY_BYTES = 1024 * 1024
# How long a body may take to arrive.
BODY_SECONDS = 60.0
# The caller's connection is watched once a request takes this long (seconds): quicker ones end by themselves.
DISCONNECT_WATCH_SECONDS = 0.05
CLIENT_CLOSED = 499

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_METRICS = (b"content-type", b"text/plain; version=1.0.0; charset=utf-8")
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

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


class CallerGoneError(Exception):
    """The caller closed its connection before the reply."""


class App:
    """`draining` is set at shutdown: /readyz then says 503, everything else goes on."""

    def __init__(
        self,
        fleet: Fleet,
        dispatcher: Dispatcher,
        metrics: Metrics,
        pod: str,
        log: Sink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._pod = pod
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
            "/v1/gateway": self._gateway,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        trace = Trace(_request_id(scope["headers"]), self._clock())
        if scope["path"] == "/v1/images/generations" and scope["method"] == "POST":
            await self._images(scope, receive, send, trace)
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
        allowed = "GET" if handler else "POST" if path == "/v1/images/generations" else None
        if allowed is None:
            raise ApiError(
                404, "unknown_url", f"Unknown URL: {method} {path[:200]}. See POST /v1/images/generations."
            )
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

    def _gateway(self) -> tuple[int, tuple[bytes, bytes], bytes]:
        models = [
            {
                "namespace": namespace,
                "pool": pool,
                "model": model,
                "held": demand.held,
                "running": demand.running,
                "arrivedWorkSeconds": demand.arrived_work_seconds,
            }
            for (namespace, pool, model), demand in self._metrics.demands()
        ]
        return 200, _JSON, _encoder.encode({"pod": self._pod, "models": models})

    async def _images(self, scope: Scope, receive: Receive, send: Send, trace: Trace) -> None:
        self.running += 1
        self.idle.clear()
        code = ""
        try:
            body = await _read_body(scope["headers"], receive)
            reply = await self._generate(body, receive, trace)
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
            self._leave()
        self._end(trace, status, code)
        await self._reply(send, status, [*headers, *_trace_headers(trace)], payload)

    def _leave(self) -> None:
        self.running -= 1
        if not self.running:
            self.idle.set()

    async def _generate(self, body: bytes, receive: Receive, trace: Trace) -> Reply:
        """A worker's reply. When the caller goes, it is cancelled; raises CallerGoneError."""
        request = images.decode(body)
        watch = _CallerWatch(receive)
        try:
            return await self._dispatcher.generate(request, trace)
        except asyncio.CancelledError:
            if watch.gone:
                raise CallerGoneError from None
            raise
        finally:
            watch.stop()

    async def _reply(self, send: Send, status: int, headers: Headers, body: bytes) -> None:
        headers.append((b"content-length", str(len(body)).encode()))
        if self.draining:
            # The caller's next request must find another gateway.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _end(self, trace: Trace, status: int, code: str) -> None:
        seconds = self._clock() - trace.start
        self._metrics.ended(trace.key, status, seconds, seconds - trace.held_seconds - trace.worker_seconds)
        namespace, pool, model = trace.key
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
        )
        self._log(_encoder.encode(line) + b"\n")


class _CallerWatch:
    """Cancels the task that made it when the caller goes away."""

    def __init__(self, receive: Receive) -> None:
        self.gone = False
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
        self.gone = True
        if self._request is not None:
            self._request.cancel()

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's request id where it is sane, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value.decode()
    return uuid.uuid4().hex


async def _read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bytes:
    """The whole body. Raises ApiError (408, 413, 415) and CallerGoneError."""
    content_type = length = b""
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = value
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise ApiError(
            415, "unsupported_media_type", "The body must be sent with Content-Type: application/json."
        )
    _check_length(int(length) if length.isdigit() else 0)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _receive_body(receive)
    except TimeoutError:
        raise _unread(
            408, "request_timeout", f"The body did not arrive within {BODY_SECONDS:g} seconds."
        ) from None


async def _receive_body(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGoneError
        body += message.get("body", b"")
        _check_length(len(body))
        more = message.get("more_body", False)
    return bytes(body)


def _check_length(length: int) -> None:
    if length > MAX_BODY_BYTES:
        raise _unread(413, "request_too_large", f"The body is over {MAX_BODY_BYTES} bytes.")


def _unread(status: int, code: str, message: str) -> ApiError:
    """The rest of the body is not read, so the connection cannot be used again."""
    return ApiError(status, code, message, headers=((b"connection", b"close"),))


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
    return headers
