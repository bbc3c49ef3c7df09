"""List and watch, as the Kubernetes API asks of its clients: resume, notice expiry, list again, back off."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient

from . import resources, schemas
from .fleet import ObjectKey, View

_log = logging.getLogger(__name__)

PAGE_SIZE = 500
# The API server ends a watch after a time drawn from this range (seconds), so that gateways do not come back
# together.
WATCH_SECONDS = (240, 360)
# The API server sends a bookmark about once a minute. Silence for longer means that the connection is dead.
SILENCE_SECONDS = 100
LIST_SECONDS = 60
BACKOFF_SECONDS = (0.5, 15.0)
HTTP_GONE = 410
HTTP_NOT_FOUND = 404


@dataclass(frozen=True)
class Source:
    """A kind to watch: where it is served, and how an object becomes a view."""

    kind: str
    path: str
    selector: str | None
    read: Callable[[bytes], View | None]


class Store(Protocol):
    def replace(self, kind: str, views: dict[ObjectKey, View]) -> None: ...
    def put(self, kind: str, key: ObjectKey, view: View | None) -> None: ...


_pod = msgspec.json.Decoder(schemas.Pod)
_pool = msgspec.json.Decoder(schemas.Pool)
_model = msgspec.json.Decoder(schemas.Model)

SOURCES = (
    Source(
        "pods", "/api/v1/pods", resources.WORKER_SELECTOR, lambda raw: resources.read_worker(_pod.decode(raw))
    ),
    Source(
        "inferencepools",
        "/apis/imagefleet.dev/v1alpha1/inferencepools",
        None,
        lambda raw: resources.read_pool(_pool.decode(raw)),
    ),
    Source(
        "imagemodels",
        "/apis/imagefleet.dev/v1alpha1/imagemodels",
        None,
        lambda raw: resources.read_model(_model.decode(raw)),
    ),
)


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    next: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] = []


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class GoneError(Exception):
    """The resource version is too old to go on from: only a new list helps."""


class ApiServerError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message[:500]}")
        self.status = status


class Watch:
    """Keeps one kind of a store as the API server has it, for as long as `run` runs.

    While the API server is away the store stays as it is. With a `version` the watch goes on from there instead of
    listing first.
    """

    def __init__(
        self,
        source: Source,
        client: ApiClient,
        store: Store,
        restarted: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        version: str | None = None,
    ) -> None:
        self._source = source
        self._client = client
        self._store = store
        self._restarted = restarted
        self._clock = clock
        self._sleep = sleep
        self._version = version
        self._heard = clock()
        self._failures = 0

    def age(self) -> float:
        """Seconds since the API server was last heard of."""
        return self._clock() - self._heard

    async def run(self) -> None:
        """List, then watch, for ever."""
        while True:
            start = self._clock()
            try:
                if self._version is None:
                    self._version = await self._list()
                await self._watch(self._version)
            except GoneError:
                self._version = None
                self._restarted(self._source.kind, "expired")
            except (ApiServerError, aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
                await self._back_off(error)
                continue
            else:
                self._restarted(self._source.kind, "ended")
            if self._clock() - start < 1:
                # An API server that ends every watch at once, as while it starts, is not to be asked in a
                # tight loop.
                await self._sleep(1)

    async def _back_off(self, error: Exception) -> None:
        missing = isinstance(error, ApiServerError) and error.status == HTTP_NOT_FOUND
        why = "it is not installed yet" if missing else repr(error)
        if self._failures == 0:
            _log.warning("watch of %s: %s; serving goes on from what is known", self._source.kind, why)
        self._restarted(self._source.kind, "missing" if missing else "failed")
        jitter = random.random()  # noqa: S311
        await self._sleep(backoff_seconds(self._failures, jitter))
        self._failures += 1

    def _alive(self) -> None:
        self._heard = self._clock()
        if self._failures:
            _log.info("watch of %s: the API server answers again", self._source.kind)
            self._failures = 0

    async def _list(self) -> str:
        """Replace the store's objects by a full list; its resource version."""
        views: dict[ObjectKey, View] = {}
        page = ""
        while True:
            params: list[tuple[str, Any]] = [("limit", PAGE_SIZE)]
            if page:
                params.append(("continue", page))
            timeout = aiohttp.ClientTimeout(total=LIST_SECONDS)
            response = await self._get(params, timeout)
            async with response:
                listed = msgspec.json.decode(await response.read(), type=_List)
            for raw in listed.items:
                key, view, _ = self._read(raw)
                if key and view:
                    views[key] = view
            page = listed.metadata.next
            if not page:
                break
        self._store.replace(self._source.kind, views)
        self._alive()
        return listed.metadata.resource_version

    async def _watch(self, version: str) -> None:
        """Apply events until the API server ends the watch. Raises GoneError and ApiServerError."""
        params = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", random.randint(*WATCH_SECONDS)),  # noqa: S311  # jitter is no secret
        ]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
        response = await self._get(params, timeout)
        async with response:
            self._alive()
            async for line in _lines(response.content):
                self._apply(msgspec.json.decode(line, type=_Event))
                self._alive()

    def _apply(self, event: _Event) -> None:
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            if status.code == HTTP_GONE:
                raise GoneError
            raise ApiServerError(status.code, status.message)
        key, view, version = self._read(event.object)
        if key and event.type != "BOOKMARK":
            self._store.put(self._source.kind, key, None if event.type == "DELETED" else view)
        self._version = version or self._version

    def _read(self, raw: msgspec.Raw) -> tuple[ObjectKey | None, View | None, str]:
        """Key, view and resource version of an object. One that cannot be read has no view."""
        meta = msgspec.json.decode(raw, type=_AnyObject).metadata
        if not meta.name:
            return None, None, meta.resource_version
        # One object that cannot be read must not stop the others.
        try:
            view = self._source.read(bytes(raw))
        except (msgspec.DecodeError, ValueError) as error:
            _log.warning("%s %s/%s cannot be read: %s", self._source.kind, meta.namespace, meta.name, error)
            view = None
        return (meta.namespace, meta.name), view, meta.resource_version

    async def _get(
        self, params: list[tuple[str, Any]], limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._source.selector:
            params = [*params, ("labelSelector", self._source.selector)]
        method, url, headers, _, _ = await self._client.param_serialize(
            "GET",
            self._source.path,
            query_params=params,
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        answer = await self._client.rest_client.request(method, url, headers=headers, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        if response.status != 200:
            async with response:
                text = await response.text()
            if response.status == HTTP_GONE:
                raise GoneError
            raise ApiServerError(response.status, text)
        return response


class _ObjectMeta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _AnyObject(msgspec.Struct):
    metadata: _ObjectMeta


def backoff_seconds(failures: int, jitter: float) -> float:
    """Pause after the n-th failure in a row: doubles from 0.5 s to 15 s, half of it jitter (0 to 1).

    Examples, jitter 1: 0.5, 1, 2, 4, 8, 15, 15 s; with jitter 0 half of that.
    """
    first, most = BACKOFF_SECONDS
    full = min(most, first * 2.0 ** min(failures, 10))
    return full * (0.5 + jitter / 2)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: an event is as large as its object, which readline() would refuse."""
    buffer = bytearray()
    async for chunk in stream.iter_any():
        buffer += chunk
        *lines, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            if line.strip():
                yield bytes(line)
