"""Reads the bodies of requests: bounded in bytes and time, and checked beside the event loop where that takes long."""

from __future__ import annotations

import asyncio
import re

from starlette.requests import Request

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.schema import parse
from imagefleet_runtime.worker.threads import in_thread

MAX_POLICY_BYTES = 1024 * 1024
# A request of at most 64 MiB, and the checkpoint that it goes on from in base64.
MAX_BODY_BYTES = (64 + 65) * 1024 * 1024
BODY_SECONDS = 60.0
# Longer bodies, and those with a picture (few bytes may be many pixels) or a checkpoint, are checked in a thread.
SHORT_BYTES = 64 * 1024
PICTURE = re.compile(rb'"(?:image|mask|control_image|resume)"')
# Decoded pictures are large (see images.MAX_PIXELS), so only so many are checked at the same time.
CHECKS = 2


async def read_body(request: Request, limit: int, seconds: float = BODY_SECONDS) -> bytes:
    """Raises ApiError (body_too_large, body_too_slow) and starlette's ClientDisconnect."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise errors.body_too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise errors.body_too_large(limit)
    except TimeoutError:
        raise errors.body_too_slow(seconds) from None
    return bytes(body)


class Intake:
    """Of one server."""

    def __init__(self) -> None:
        self._checks = asyncio.Semaphore(CHECKS)

    async def generate_body(self, request: Request) -> GenerateBody:
        """Raises ApiError and starlette's ClientDisconnect."""
        body = await read_body(request, MAX_BODY_BYTES)
        if len(body) <= SHORT_BYTES and not PICTURE.search(body):
            return parse(GenerateBody, body)
        async with self._checks:
            return await in_thread(lambda: parse(GenerateBody, body))
