"""Heads and bodies of requests: what of the headers matters, and bodies that arrive in time, in full and within
bounds.
"""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from .errors import ApiError, server_error

Receive = Callable[[], Awaitable[dict[str, Any]]]
Header = tuple[bytes, bytes]

MAX_BODY_BYTES = 64 * 1024 * 1024
# A caller that still sends does not read. So the rest of a body that is refused is read and thrown away, up to
# here (bytes), before the reply says why.
DISCARD_BYTES = 4 * MAX_BODY_BYTES
# How long a body may take to arrive.
BODY_SECONDS = 60.0
BUSY_RETRY_SECONDS = 5

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# W3C Trace Context; a tracestate counts only beside a traceparent that is valid.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?")
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,512}")
_WANTED = frozenset(
    {b"content-type", b"content-length", b"expect", b"x-request-id", b"traceparent", b"tracestate"}
)


class CallerGoneError(Exception):
    """The caller closed its connection before the reply."""


class Head(msgspec.Struct, frozen=True):
    request_id: str
    """The caller's where it is sane, else a new one."""
    content_type: bytes
    length: int
    """What the body's length is said to be; 0 where nothing is said."""
    waits_to_send: bool
    """The caller sends the body only once it is asked for (Expect: 100-continue)."""
    tracing: tuple[Header, ...]
    """traceparent and tracestate, as they are handed on to the worker."""


def read_head(headers: Iterable[Header]) -> Head:
    found = {name: value for name, value in headers if name in _WANTED}
    request_id = found.get(b"x-request-id", b"")
    length = found.get(b"content-length", b"")
    return Head(
        request_id.decode() if _SANE_ID.fullmatch(request_id) else os.urandom(16).hex(),
        found.get(b"content-type", b""),
        int(length) if length.isdigit() else 0,
        found.get(b"expect", b"").lower() == b"100-continue",
        _tracing(found) if b"traceparent" in found else (),
    )


def _tracing(found: dict[bytes, bytes]) -> tuple[Header, ...]:
    parent, state = found[b"traceparent"], found.get(b"tracestate", b"")
    if not _TRACEPARENT.fullmatch(parent):
        return ()
    if not _TRACESTATE.fullmatch(state):
        return ((b"traceparent", parent),)
    return ((b"traceparent", parent), (b"tracestate", state))


class Budget:
    """Bytes of callers' bodies that this process may hold at a time, over all requests."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """False where there is no room for so many bytes more."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        self.used -= size


class Body:
    """One request's body, and its part of the budget until `release`."""

    __slots__ = ("_budget", "_held", "_receive", "_size", "head")

    def __init__(self, head: Head, receive: Receive, budget: Budget) -> None:
        self.head = head
        self._receive = receive
        self._budget = budget
        self._size = 0
        self._held = 0

    async def read(self, feed: Callable[[bytes], object]) -> None:
        """Feed the body chunk by chunk.

        Raises ApiError: 408 `request_timeout`, 413 `body_too_large`, 503 `gateway_busy`, or what `feed`
        raises; and CallerGoneError.
        """
        if self.head.length > MAX_BODY_BYTES and self.head.waits_to_send:
            raise _unread(body_too_large())
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await self._read(feed)
        except TimeoutError:
            message = f"The body did not arrive within {BODY_SECONDS:g} seconds."
            raise _unread(ApiError(408, "request_timeout", message)) from None

    async def _read(self, feed: Callable[[bytes], object]) -> None:
        refusal: ApiError | None = None
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerGoneError
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            self._size += len(chunk)
            if refusal is None:
                try:
                    self._take(len(chunk))
                    feed(chunk)
                except ApiError as error:
                    refusal = error
            elif self._size > DISCARD_BYTES:
                raise _unread(refusal)
        if refusal is not None:
            raise refusal

    def _take(self, size: int) -> None:
        if self._size > MAX_BODY_BYTES:
            raise body_too_large()
        if not self._budget.take(size):
            raise server_error(
                503,
                "gateway_busy",
                "This gateway holds as many pictures as it may. Try again.",
                retry_after=BUSY_RETRY_SECONDS,
            )
        self._held += size

    def release(self) -> None:
        self._budget.give_back(self._held)
        self._held = 0


def body_too_large() -> ApiError:
    message = f"The request is over {MAX_BODY_BYTES} bytes, counted with its pictures in base64."
    return ApiError(413, "body_too_large", message)


def _unread(error: ApiError) -> ApiError:
    """The rest of the body is not read, so the connection cannot be used again."""
    error.headers = (*error.headers, (b"connection", b"close"))
    return error
