"""Calls to pods, which may be anybody's: bounded in time and size, and never sent elsewhere."""

import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from imagefleet_operator.plan.types import Json


class CallError(Exception):
    """A pod did not answer, or not with what it was asked for. ``brief`` says what it did instead, in words that are
    the same each time."""

    def __init__(self, brief: str, detail: str = "") -> None:
        super().__init__(f"{brief}: {detail}" if detail else brief)
        self.brief = brief


class PodClient:
    """One session to many pods."""

    def __init__(self, connections: int) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, limit_per_host=2),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),  # pods have nothing to remember here
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def call(
        self,
        verb: str,
        address: tuple[str, int],
        path: str,
        *,
        seconds: float,
        most_bytes: int,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON of an answer 200 from a pod's IP and port. Raises CallError."""
        ip, port = address
        host = f"[{ip}]" if ":" in ip else ip
        try:
            async with self._session.request(
                verb,
                f"http://{host}:{port}{path}",
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,  # to wherever a pod likes, from inside the operator's network
            ) as response:
                raw = await _read(response, most_bytes)
                if response.status != 200:
                    raise CallError(f"{verb} {path}: {response.status}", raw[:300].decode(errors="replace"))
                return json.loads(raw)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise CallError(f"{verb} {path}: {type(error).__name__}", str(error)) from error


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    raw = bytearray()
    async for part in response.content.iter_any():
        raw += part
        if len(raw) > most_bytes:
            raise CallError(f"an answer of more than {most_bytes} bytes")
    return bytes(raw)
