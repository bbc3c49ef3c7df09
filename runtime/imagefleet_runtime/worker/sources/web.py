"""HTTP requests to sources that may be hostile: https only, bounded answers, no token for other hosts."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin

import httpx

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.remote import RangeIgnoredError, TransientError

MAX_JSON_BYTES = 16 * 1024 * 1024
DOCUMENT_SECONDS = 120.0
CHUNK_BYTES = 1024 * 1024
CONNECT_SECONDS = 10.0
# Without a byte for so long, a connection counts as broken.
READ_SECONDS = 20.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

# At INFO, httpx logs each URL, and that of a redirect to a file may be signed.
logging.getLogger("httpx").setLevel(logging.WARNING)


class Web:
    """Requests below ``base``. Plain http is spoken only where ``base`` itself says so.

    An ``Authorization`` header is dropped by httpx when a redirect leads to another origin.
    """

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")
        self._plain = httpx.URL(base).scheme == "http"
        self._client = httpx.Client(
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=64),
            follow_redirects=True,
            max_redirects=5,
            # Compressed bodies could unpack to any size, and their ranges are not those of the file.
            headers={"Accept-Encoding": "identity", "User-Agent": "imagefleet-worker"},
            event_hooks={"request": [self._refuse_plain]},
        )

    def close(self) -> None:
        self._client.close()

    def _refuse_plain(self, request: httpx.Request) -> None:
        if request.url.scheme != "https" and not self._plain:
            raise SourceError(
                "FetchFailed", f"{self.base} redirects to {request.url.scheme}://, not https://"
            )

    def json(self, url: str, headers: Mapping[str, str]) -> tuple[Any, httpx.Response]:
        """The JSON document at ``url``, at most MAX_JSON_BYTES. Raises SourceError, TransientError."""
        with self.get(url, headers) as response:
            self.check(response, url)
            text = self.body(response, url)
        try:
            return json.loads(text), response
        except (ValueError, RecursionError):
            raise SourceError("FetchFailed", f"{self._shown(url)} is not JSON") from None

    def body(self, response: httpx.Response, url: str) -> bytes:
        """All of ``response``, at most MAX_JSON_BYTES in DOCUMENT_SECONDS. Raises SourceError; inside ``get`` only."""
        body = bytearray()
        deadline = time.monotonic() + DOCUMENT_SECONDS
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > MAX_JSON_BYTES or time.monotonic() > deadline:
                limits = f"{MAX_JSON_BYTES} bytes, {DOCUMENT_SECONDS:.0f} s"
                raise SourceError("FetchFailed", f"{self._shown(url)} does not end ({limits})")
        return bytes(body)

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The response, its body not yet read, whatever its status. Raises TransientError, SourceError."""
        try:
            with self._client.stream("GET", self.absolute(url), headers=dict(headers)) as response:
                yield response
        except httpx.TransportError as error:
            raise TransientError(f"{self.base}: {type(error).__name__} {error}".rstrip()) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # too many redirects, a redirect to nonsense
            raise SourceError("FetchFailed", f"{self.base}: {type(error).__name__}") from None

    @contextlib.contextmanager
    def ranged(
        self, response: httpx.Response, url: str, start: int, size: int, *, ranged: bool
    ) -> Iterator[Iterator[bytes]]:
        """The body of ``response``, checked to be that of a file of ``size`` bytes from ``start``."""
        self.check(response, url)
        if ranged and response.status_code != 206:
            raise RangeIgnoredError
        _check_size(response, self._shown(url), start, size)
        yield response.iter_raw()

    def check(self, response: httpx.Response, url: str) -> None:
        """Raises SourceError or TransientError for a status that is no success."""
        status = response.status_code
        if status < 300:
            return
        shown = f"{self._shown(url)} answers {status}"
        if status in BUSY:
            raise TransientError(shown, _retry_after(response))
        if status in (401, 403):
            raise SourceError("AccessDenied", f"{shown}; check the Secret that the source's secretRef names")
        if status in (404, 410):
            raise SourceError("SourceNotFound", shown)
        raise SourceError("FetchFailed", shown)

    def absolute(self, url: str) -> str:
        return urljoin(self.base + "/", url)

    def _shown(self, url: str) -> str:
        """Without the query: it may hold a signature."""
        return self.absolute(url).partition("?")[0]


def range_header(start: int, end: int, size: int) -> dict[str, str]:
    """The header for bytes ``start`` to ``end`` (exclusive) of ``size``; none for all of them."""
    return {} if (start, end) == (0, size) else {"Range": f"bytes={start}-{end - 1}"}


def _check_size(response: httpx.Response, shown: str, start: int, size: int) -> None:
    """Raises SourceError where the server contradicts its listing."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise SourceError("FetchFailed", f"{shown} comes compressed, which was not asked for")
    if response.status_code == 206:
        span, _, total = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
        good = span.startswith(f"{start}-") and total in (str(size), "*")
    else:
        good = response.headers.get("content-length", str(size)) == str(size)
    if not good:
        raise SourceError("FetchFailed", f"{shown} is not of the {size} bytes that the listing says")


def _retry_after(response: httpx.Response) -> float | None:
    """``Retry-After`` in seconds; a date, which clocks may disagree on, counts as absent."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def check_endpoint(endpoint: str) -> str:
    """``endpoint`` as it is, where it is an http or https URL without a user. Raises SourceError (FetchFailed)."""
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise SourceError("FetchFailed", "the endpoint must be https://HOST[:PORT] or http://HOST[:PORT]")
    return endpoint.rstrip("/")
