"""List and watch against a scripted API server on a loopback socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from imagefleet_runtime.gateway.fleet import ObjectKey, View
from imagefleet_runtime.gateway.watch import SOURCES, Watch, backoff_seconds
from kubernetes.aio.client import ApiClient, Configuration

from tests.unit.gateway.builders import until

POOLS = next(source for source in SOURCES if source.kind == "inferencepools")
PODS = next(source for source in SOURCES if source.kind == "pods")


def pool(name: str, version: int, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "art", "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"models": [{"name": "shapes", "model": "shapes-1"}]} | spec}


def event(kind: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


BOOKMARK = event("BOOKMARK", {"kind": "InferencePool", "metadata": {"resourceVersion": "50"}})
EXPIRED = event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


class Store:
    def __init__(self) -> None:
        self.views: dict[ObjectKey, View] = {}
        self.lists = 0

    def replace(self, kind: str, views: dict[ObjectKey, View]) -> None:
        self.views, self.lists = views, self.lists + 1

    def put(self, kind: str, key: ObjectKey, view: View | None) -> None:
        if view is None:
            self.views.pop(key, None)
        else:
            self.views[key] = view

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.views}


class ApiServer:
    """Answers lists from `objects`, and each watch with the next of `watches`: chunks, or a status."""

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = []
        self.version = 10
        self.page_size = 500
        self.list_statuses: list[int] = []
        self.watches: asyncio.Queue[list[bytes] | int] = asyncio.Queue()
        self.queries: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.queries.append(query)
        if "watch" in query:
            return await self._watch(request)
        if self.list_statuses:
            return web.json_response({"message": "no"}, status=self.list_statuses.pop(0))
        start = int(query.get("continue", 0))
        end = start + self.page_size
        meta = {"resourceVersion": str(self.version), "continue": str(end) if end < len(self.objects) else ""}
        return web.json_response({"metadata": meta, "items": self.objects[start:end]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        script = await self.watches.get()
        if isinstance(script, int):
            return web.json_response({"message": "no"}, status=script)
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in script:
            await response.write(chunk)
        return response

    @property
    def watched_from(self) -> list[str]:
        return [query["resourceVersion"] for query in self.queries if "watch" in query]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


class Watching:
    def __init__(self) -> None:
        self.server = ApiServer()
        self.store = Store()
        self.restarts: list[str] = []
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self, source: Any = POOLS) -> AsyncIterator[Watch]:
        async with self.server.serving() as url, ApiClient(Configuration(host=url)) as client:
            watch = Watch(
                source,
                client,
                self.store,
                lambda kind, reason: self.restarts.append(reason),
                sleep=self.sleep,
            )
            task = asyncio.create_task(watch.run())
            try:
                yield watch
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


@pytest.fixture
def watching() -> Watching:
    return Watching()


async def test_lists_then_applies_events(watching: Watching) -> None:
    watching.server.objects = [pool("a", 8), pool("b", 9)]
    watching.server.watches.put_nowait([event("ADDED", pool("c", 11)), event("DELETED", pool("a", 12))])
    async with watching.running():
        await until(lambda: watching.store.names == {"b", "c"})
    first, second = watching.server.queries[:2]
    assert first == {"limit": "500"}
    assert (second["resourceVersion"], second["allowWatchBookmarks"]) == ("10", "true")
    assert int(second["timeoutSeconds"]) > 0


async def test_pods_are_selected_by_label(watching: Watching) -> None:
    async with watching.running(PODS):
        await until(lambda: len(watching.server.queries) == 2)
    selector = "app.kubernetes.io/name=imagefleet-worker"
    assert {query["labelSelector"] for query in watching.server.queries} == {selector}


async def test_lists_in_pages(watching: Watching) -> None:
    watching.server.page_size = 2
    watching.server.objects = [pool(f"p{i}", 5) for i in range(5)]
    async with watching.running():
        await until(lambda: watching.store.lists == 1)
    assert len(watching.store.names) == 5


async def test_a_watch_that_ends_goes_on_from_where_it_was(watching: Watching) -> None:
    watching.server.watches.put_nowait([event("ADDED", pool("a", 11)), BOOKMARK])
    async with watching.running():
        await until(lambda: len(watching.server.watched_from) == 2)
    assert watching.server.watched_from == ["10", "50"]
    assert watching.store.lists == 1
    assert watching.restarts == ["ended"]


@pytest.mark.parametrize("expiry", [410, [EXPIRED]], ids=["as status", "as event"])
async def test_after_expiry_what_was_deleted_meanwhile_is_gone(watching: Watching, expiry: Any) -> None:
    watching.server.objects = [pool("stays", 8), pool("goes", 9)]
    async with watching.running():
        await until(lambda: watching.store.names == {"stays", "goes"})
        watching.server.objects, watching.server.version = [pool("stays", 8)], 90
        watching.server.watches.put_nowait(expiry)
        await until(lambda: len(watching.server.watched_from) == 2)
    assert watching.store.names == {"stays"}
    assert watching.server.watched_from[-1] == "90"
    assert watching.restarts == ["expired"]


async def test_while_the_api_server_is_away_the_last_known_state_stays(watching: Watching) -> None:
    watching.server.objects = [pool("a", 8)]
    for status in (500, 503, 401):
        watching.server.watches.put_nowait(status)
    async with watching.running() as watch:
        await until(lambda: len(watching.server.watched_from) == 4)
        assert watch.age() >= 0
    assert watching.store.names == {"a"}
    assert watching.store.lists == 1
    assert watching.restarts == ["failed"] * 3
    for pause, most in zip(watching.pauses, (0.5, 1.0, 2.0), strict=True):
        assert most / 2 <= pause <= most


async def test_waits_for_a_kind_that_is_not_installed_yet(watching: Watching) -> None:
    watching.server.list_statuses = [404, 404]
    watching.server.objects = [pool("a", 8)]
    async with watching.running():
        await until(lambda: watching.store.names == {"a"})
    assert watching.restarts == ["missing", "missing"]


async def test_an_api_server_that_ends_every_watch_at_once_is_not_hammered(watching: Watching) -> None:
    for _ in range(3):
        watching.server.watches.put_nowait([])
    async with watching.running():
        await until(lambda: len(watching.server.watched_from) == 4)
    assert watching.pauses == [1, 1, 1]


async def test_an_object_that_cannot_be_read_does_not_stop_the_others(watching: Watching) -> None:
    watching.server.objects = [pool("bad", 8, models="many"), pool("good", 9)]
    watching.server.watches.put_nowait(
        [event("MODIFIED", pool("good", 11, models=3)), event("ADDED", pool("c", 12))]
    )
    async with watching.running():
        await until(lambda: watching.store.names == {"c"})


async def test_events_of_any_size_and_cut_anywhere(watching: Watching) -> None:
    large = event("ADDED", pool("large", 11, comment="x" * 3_000_000))
    stream = large + event("ADDED", pool("next", 12))
    cuts = [stream[:7], stream[7:1_000_001], stream[1_000_001:]]
    watching.server.watches.put_nowait(cuts)
    async with watching.running():
        await until(lambda: watching.store.names == {"large", "next"})


@pytest.mark.parametrize(
    ("failures", "jitter", "want"),
    [
        (0, 1, 0.5),
        (1, 1, 1),
        (2, 1, 2),
        (3, 1, 4),
        (4, 1, 8),
        (5, 1, 15),
        (60, 1, 15),
        (0, 0, 0.25),
        (6, 0, 7.5),
    ],
)
def test_backoff(failures: int, jitter: float, want: float) -> None:
    assert backoff_seconds(failures, jitter) == want
