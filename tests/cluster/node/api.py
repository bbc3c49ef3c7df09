"""The few API calls a node makes, over plain aiohttp: a full client takes a second of one core to import."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

Object = dict[str, Any]

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    def __init__(self, server: str, pki: Path) -> None:
        self._server = server
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / "node.crt", pki / "node.key")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Api:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "used outside `async with`"
        return self._session

    async def get(self, path: str, **params: str) -> Object:
        return await self._call("GET", path, params=params)

    async def create(self, path: str, body: Object) -> Object:
        return await self._call("POST", path, body=body)

    async def patch(self, path: str, body: Object, kind: str = STRATEGIC) -> Object:
        return await self._call("PATCH", path, body=body, content_type=kind)

    async def delete(self, path: str, body: Object) -> Object:
        return await self._call("DELETE", path, body=body)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type} if body is not None else {}
        url = self._server + path
        async with self.session.request(method, url, params=params, data=data, headers=headers) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiError(response.status, _message(text))
            result: Object = json.loads(text)
            return result

    async def follow(self, path: str, **params: str) -> AsyncIterator[tuple[str, list[Object]]]:
        """Yield ("SYNC", everything), then each change as (type, [object]); list again when told to."""
        while True:
            try:
                listed = await self.get(path, **params)
                yield "SYNC", listed.get("items") or []
                version = listed["metadata"]["resourceVersion"]
                async for kind, item in self._watch(path, params, version):
                    yield kind, [item]
            except (TimeoutError, aiohttp.ClientError, ApiError):
                pass
            await asyncio.sleep(0.5)

    async def _watch(
        self, path: str, params: dict[str, str], version: str
    ) -> AsyncIterator[tuple[str, Object]]:
        """Reconnects from the last version seen, and ends when that version is too old."""
        while True:
            query = {**params, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
            # No total limit, and a read limit: bookmarks come every minute, so silence is a dead connection.
            limits = aiohttp.ClientTimeout(total=None, sock_read=150)
            async with self.session.get(self._server + path, params=query, timeout=limits) as response:
                if response.status >= 400:
                    raise ApiError(response.status, _message(await response.text()))
                async for line in _lines(response.content):
                    event: Object = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), event["object"].get("message", ""))
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length (the reader's own limit is below the size of a large object)."""
    rest = b""
    async for chunk in stream.iter_any():
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            if line:
                yield line


def _message(text: str) -> str:
    try:
        return str(json.loads(text).get("message", text))
    except (ValueError, AttributeError):
        return text
