"""Streams of events (``text/event-stream``), in the words of OpenAI's images API."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imagefleet_runtime.worker.errors import ApiError, InterruptedRequestError
from imagefleet_runtime.worker.waiting import Job, Picture, Preview

# Proxies give up on a connection that is silent for a minute or so.
KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
# How long a caller may read nothing before it counts as gone. What it has not read is held until then: of each picture
# at most three previews and itself.
STALL_SECONDS = 60.0

# Of an interrupted request; for the gateway, which goes on elsewhere and does not pass it on.
CHECKPOINT_EVENT = "imagefleet.checkpoint"

Event = Preview | Picture


class CallerLeftError(Exception):
    """The caller closed its connection, or stopped reading."""


async def next_event(job: Job, leaving: asyncio.Future[None], seconds: float | None = None) -> Event | None:
    """What was drawn next; None once all was, in order.

    Raises ApiError where the request failed, CallerLeftError once ``leaving`` is done, and TimeoutError after
    ``seconds`` in which nothing came.
    """
    if job.events.empty() and not job.result.done():
        getting = asyncio.create_task(job.events.get())
        ends: set[asyncio.Future[Any]] = {getting, job.result, leaving}
        try:
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            getting.cancel()  # without effect once it has its event
        if getting.done():
            return getting.result()
    if leaving.done():
        raise CallerLeftError
    if not job.events.empty():
        return job.events.get_nowait()
    if not job.result.done():
        raise TimeoutError
    job.result.result()
    return None


async def parts(
    job: Job, first: Event | None, following: Callable[[float], Awaitable[Event | None]]
) -> AsyncGenerator[bytes, None]:
    """The stream from its ``first`` event on; ``following`` is as ``next_event``. Raises ApiError, CallerLeftError."""
    event = first
    while event is not None:
        yield drawn_event(event, job, int(time.time()))
        while True:
            try:
                event = await following(KEEP_ALIVE_SECONDS)
                break
            except TimeoutError:
                yield KEEP_ALIVE


def drawn_event(event: Event, job: Job, created_at: int) -> bytes:
    """A preview or a picture of ``job`` as an event."""
    drawing = job.drawings[event.picture_index]
    kind = "image_generation" if drawing.image is None else "image_edit"
    if isinstance(event, Preview):
        name, own = f"{kind}.partial_image", {"partial_image_index": event.index}
    else:
        name, own = f"{kind}.completed", {"seed": drawing.seed}
    data = {
        "type": name,
        "b64_json": base64.b64encode(event.image).decode(),
        **own,
        "created_at": created_at,
        "size": f"{drawing.width}x{drawing.height}",
        "quality": job.body.quality,
        "background": "opaque",
        "output_format": drawing.output_format,
    }
    return encode(name, {field: value for field, value in data.items() if value is not None})


def error_event(error: ApiError) -> bytes:
    """The last event of a stream that ends without its pictures."""
    if isinstance(error, InterruptedRequestError):
        return encode(CHECKPOINT_EVENT, error.progress())
    return encode("error", error.body())


def encode(name: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class EventStream(Response):
    """Sends each of ``parts`` as it comes, no faster than the caller reads, and closes ``parts`` where it stops.

    starlette's own would watch for the caller's leaving itself, on a connection that is watched already.
    """

    media_type = "text/event-stream"

    def __init__(self, parts: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(None, headers={**headers, "cache-control": "no-store"})
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        begun = False
        async with contextlib.aclosing(self._parts) as parts:
            async for part in parts:
                if not begun:
                    head = {"status": self.status_code, "headers": self.raw_headers}
                    await send({"type": "http.response.start", **head})
                    begun = True
                try:
                    async with asyncio.timeout(STALL_SECONDS):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                except TimeoutError:
                    return  # the server closes a connection whose reply has no end
        await send({"type": "http.response.body", "body": b"", "more_body": False})
