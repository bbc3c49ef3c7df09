"""The client of the API server, against a server that answers as told."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from imagefleet_operator.client import ApiError, ApiUnreachableError, KubeClient
from imagefleet_operator.kinds import LEASE, NODE, POD, POOL, SERVICE
from kubernetes.aio.client.configuration import Configuration

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BODY = {"metadata": {"namespace": "ns", "name": "x"}}


@asynccontextmanager
async def client(handler: Handler) -> AsyncIterator[KubeClient]:
    """A client with a token, and its server."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    configuration.api_key = {"authorization": "Bearer secret"}
    made = KubeClient(configuration)
    try:
        yield made
    finally:
        await made.close()
        await runner.cleanup()


def failing(status: int, body: object) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    return handler


@pytest.mark.parametrize(
    ("ask", "want"),
    [
        pytest.param(
            lambda c: c.get(LEASE, "ns", "x"),
            ("GET", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x", "", "application/json"),
            id="get",
        ),
        pytest.param(
            lambda c: c.delete(POD, "ns", "x", "uid"),
            ("DELETE", "/api/v1/namespaces/ns/pods/x", "", "application/json"),
            id="delete",
        ),
        pytest.param(
            lambda c: c.evict("ns", "x", "uid"),
            ("POST", "/api/v1/namespaces/ns/pods/x/eviction", "", "application/json"),
            id="evict",
        ),
        pytest.param(
            lambda c: c.apply(POOL, BODY, subresource="status"),
            (
                "PATCH",
                "/apis/imagefleet.dev/v1alpha1/namespaces/ns/inferencepools/x/status",
                "fieldManager=imagefleet-operator&force=true",
                "application/apply-patch+yaml",
            ),
            id="apply",
        ),
        pytest.param(
            lambda c: c.merge(POD, "ns", "x", BODY),
            (
                "PATCH",
                "/api/v1/namespaces/ns/pods/x",
                "fieldManager=imagefleet-operator",
                "application/merge-patch+json",
            ),
            id="merge",
        ),
        pytest.param(
            lambda c: c.create(SERVICE, "ns", BODY),
            ("POST", "/api/v1/namespaces/ns/services", "", "application/json"),
            id="create",
        ),
        pytest.param(
            lambda c: c.replace(LEASE, "ns", "x", BODY),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x", "", "application/json"),
            id="replace",
        ),
    ],
)
async def test_requests(ask: Callable[[KubeClient], Awaitable[Any]], want: tuple[str, ...]) -> None:
    seen: list[tuple[str, ...]] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        seen.append((request.method, request.path, request.query_string, request.content_type))
        return web.json_response({"kind": "Answer"})

    async with client(handler) as made:
        assert await ask(made) == {"kind": "Answer"}
    assert seen == [want]


async def test_a_list_goes_on_until_its_last_page() -> None:
    pages = {"": ({"continue": "next"}, ["a", "b"]), "next": ({}, ["c"])}

    async def handler(request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "app.kubernetes.io/managed-by=imagefleet"
        metadata, items = pages[request.query.get("continue", "")]
        return web.json_response({"metadata": metadata, "items": items})

    async with client(handler) as made:
        found: list[Any] = [item async for item in made.list(POD)]
    assert found == ["a", "b", "c"]


async def test_a_snapshot_is_all_pages_and_the_version_of_the_first() -> None:
    async def handler(request: web.Request) -> web.Response:
        if "continue" in request.query:
            return web.json_response({"metadata": {"resourceVersion": "8"}, "items": [BODY]})
        more = {"resourceVersion": "7", "continue": "more"}
        return web.json_response({"metadata": more, "items": [BODY, BODY]})

    async with client(handler) as asked:
        assert await asked.snapshot(NODE) == ([BODY] * 3, "7")


async def test_a_watch_tells_each_event_however_long_and_however_cut_until_the_server_ends_it() -> None:
    events = [{"type": "ADDED", "object": {"images": "x" * 300_000}}, {"type": "DELETED", "object": BODY}]
    asked_for = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked_for.append((request.path, request.query_string, request.headers["Authorization"]))
        response = web.StreamResponse()
        await response.prepare(request)
        text = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        for at in range(0, len(text), 70_000):
            await response.write(text[at : at + 70_000])
        return response

    async with client(handler) as asked:
        assert [event async for event in asked.watch(NODE, "7", 5)] == events
    assert asked_for == [("/api/v1/nodes", "watch=1&resourceVersion=7&timeoutSeconds=5", "Bearer secret")]


async def test_a_watch_that_is_refused_or_breaks_off_says_so() -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return response

    async with client(failing(403, {"message": "no"})) as asked:
        with pytest.raises(ApiError, match="no"):
            _ = [event async for event in asked.watch(NODE, "7", 5)]
    async with client(breaks) as asked:
        with pytest.raises(ApiUnreachableError):
            _ = [event async for event in asked.watch(NODE, "7", 5)]


async def test_what_is_not_there_is_none() -> None:
    async with client(failing(404, {"reason": "NotFound"})) as made:
        assert await made.get(POD, "ns", "x") is None


@pytest.mark.parametrize(
    ("status", "refused"),
    [(400, True), (403, True), (413, True), (422, True), (409, False), (429, False), (500, False)],
)
async def test_an_error_says_whether_the_request_is_at_fault(status: int, refused: bool) -> None:
    body = {"kind": "Status", "reason": "Why", "message": "because"}
    async with client(failing(status, body)) as made:
        with pytest.raises(ApiError) as raised:
            await made.apply(SERVICE, BODY)
    error = raised.value
    assert (error.status, error.reason, error.message, error.refused) == (status, "Why", "because", refused)


async def test_an_error_of_something_in_between_is_told_in_its_words() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>bad gateway</html>")

    async with client(handler) as made:
        with pytest.raises(ApiError, match="bad gateway"):
            await made.get(POD, "ns", "x")


@pytest.mark.parametrize("text", ["", "[]", "<html>"])
async def test_an_answer_that_is_no_object_is_none(text: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text)

    async with client(handler) as made:
        with pytest.raises(ApiUnreachableError):
            await made.get(POD, "ns", "x")


@pytest.mark.parametrize("why", ["connection", "token"])
async def test_who_cannot_ask_has_no_answer(why: str) -> None:
    configuration = Configuration()
    configuration.host = "http://127.0.0.1:1"
    if why == "token":
        configuration.refresh_api_key_hook = _no_token
    made = KubeClient(configuration)
    try:
        with pytest.raises(ApiUnreachableError, match="/api/v1/namespaces/ns/pods/x"):
            await made.get(POD, "ns", "x")
    finally:
        await made.close()


async def _no_token(configuration: Configuration) -> None:
    raise OSError("no such file: token")
