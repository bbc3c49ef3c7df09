"""Bodies: bounded in bytes and time, and off the event loop where they are long to check."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from imagefleet_runtime.worker import intake
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.intake import Intake, read_body
from imagefleet_runtime.worker.schema import parse
from starlette.requests import Request

from tests.unit.worker.http_fakes import FakeSupervisor, ask, make_app, served
from tests.unit.worker.pictures import base64_of, noise

NEVER = threading.Event()


def request_of(*parts: bytes, announced: int | None = None, ends: bool = True) -> Request:
    """A request whose body comes in ``parts``, and goes on for ever unless it ``ends``."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left) or not ends}

    headers = [] if announced is None else [(b"content-length", str(announced).encode())]
    return Request({"type": "http", "headers": headers}, receive)


async def test_a_body_is_put_together_from_its_parts() -> None:
    assert await read_body(request_of(b"abc", b"", b"def"), limit=6) == b"abcdef"


async def test_a_body_over_the_limit_is_refused_once_it_is() -> None:
    with pytest.raises(ApiError) as refused:
        await read_body(request_of(b"abc", b"defg", ends=False), limit=6)
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


async def test_a_body_that_says_it_is_too_long_is_not_read() -> None:
    with pytest.raises(ApiError, match="over 6 bytes"):
        await read_body(request_of(announced=7, ends=False), limit=6)


async def test_a_body_that_does_not_arrive_is_refused() -> None:
    with pytest.raises(ApiError) as refused:
        await read_body(request_of(b"abc", ends=False), limit=6, seconds=0.01)
    assert (refused.value.status, refused.value.code) == (408, "body_too_slow")


@pytest.fixture
def checked_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that checked a body."""
    threads: list[str] = []

    def noted(schema: Any, body: bytes) -> Any:
        threads.append("loop" if threading.current_thread() is threading.main_thread() else "thread")
        return parse(schema, body)

    monkeypatch.setattr(intake, "parse", noted)
    return threads


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({}, "loop"),
        ({"prompt": "x" * 30_000, "negative_prompt": "x" * 30_000}, "loop"),
        ({"image": base64_of(noise(8, 8))}, "thread"),
        ({"control_image": base64_of(noise(8, 8))}, "thread"),
        ({"prompt": "é" * 20_000}, "thread"),  # long, as escapes
    ],
    ids=["a prompt", "a long prompt", "an image", "a control image", "a very long body"],
)
async def test_what_is_long_to_check_does_not_hold_up_the_loop(
    checked_in: list[str], fields: dict[str, Any], where: str
) -> None:
    body = await Intake().generate_body(request_of(ask(**fields)))
    assert (body.model, checked_in) == ("shapes-1", [where])


async def test_only_a_few_pictures_are_checked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(intake.CHECKS)

    def counted(_schema: Any, _body: bytes) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait()
        with lock:
            running -= 1
        return "checked"

    monkeypatch.setattr(intake, "parse", counted)
    door = Intake()
    asked = [door.generate_body(request_of(b'{"image": ""}')) for _ in range(3 * intake.CHECKS)]
    assert await asyncio.gather(*asked) == ["checked"] * 3 * intake.CHECKS  # type: ignore[comparison-overlap]
    assert most == intake.CHECKS


async def parts(*parts: bytes, then: Callable[[], Any] | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if then is not None:
        await then()


async def test_a_body_that_is_too_large_is_answered_before_it_was_sent() -> None:
    answered = asyncio.Event()
    async with served(make_app(FakeSupervisor())) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/generate HTTP/1.1\r\nhost: worker\r\ncontent-length: {intake.MAX_BODY_BYTES + 1}\r\n\r\n"
        writer.write(head.encode())
        reply = await reader.read()  # to the end: the connection is closed
        answered.set()
        writer.close()
    assert reply.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in reply
    assert answered.is_set()


async def test_a_body_that_stops_is_answered_and_the_connection_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake.read_body, "__defaults__", (0.05,))
    supervisor = FakeSupervisor()
    async with served(make_app(supervisor)) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/generate HTTP/1.1\r\nhost: worker\r\ncontent-length: 100\r\n\r\n{")
        reply = await reader.read()
        writer.close()
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in reply.lower()


async def test_a_caller_that_leaves_while_it_sends_is_no_fault() -> None:
    supervisor = FakeSupervisor()
    async with served(make_app(supervisor)) as address:
        host, port = address.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/generate HTTP/1.1\r\nhost: worker\r\ncontent-length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await client.get("/livez")).status_code == 200
    assert supervisor.jobs.empty()
