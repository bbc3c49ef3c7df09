"""A proxy in front of the API server that counts a client's writes and can stop the world after one of them."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

READS = frozenset({"GET", "HEAD", "OPTIONS"})
NOT_FORWARDED = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-encoding"})


@dataclass
class WriteProxy:
    """Forwards everything to the API server at `server`, in a thread of its own.

    After write number `stop_after` has been carried out by the API server, and before its client hears of it,
    `on_stop` is called once: the place to kill the client. Renewals of Leases are not counted, nor are paths that do
    not contain `only`.
    """

    server: str
    ssl_context: ssl.SSLContext
    stop_after: int = 0
    on_stop: Callable[[], None] = lambda: None
    only: str = ""
    writes: list[str] = field(default_factory=list)
    address: str = ""

    def __enter__(self) -> WriteProxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)  # type: ignore[arg-type]

    async def _start(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self.ssl_context, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )
        app = web.Application(client_max_size=16 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        open_requests = asyncio.all_tasks() - {asyncio.current_task()}
        for task in open_requests:
            task.cancel()
        await asyncio.gather(*open_requests, return_exceptions=True)
        await self._session.close()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in NOT_FORWARDED}
        body = await request.read()
        async with self._session.request(
            request.method, self.server + request.raw_path, headers=headers, data=body or None
        ) as answer:
            if self._counts(request):
                await answer.read()
                self._count(f"{request.method} {request.path}")
            return await self._relay(request, answer)

    def _counts(self, request: web.Request) -> bool:
        lease = request.path.startswith("/apis/coordination.k8s.io/")
        return request.method not in READS and not lease and self.only in request.path

    def _count(self, write: str) -> None:
        self.writes.append(write)
        if len(self.writes) == self.stop_after:
            self.on_stop()

    @staticmethod
    async def _relay(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {
            k: v for k, v in answer.headers.items() if k.lower() not in NOT_FORWARDED - {"content-encoding"}
        }
        reply = web.StreamResponse(status=answer.status, headers=headers)
        await reply.prepare(request)
        async for chunk in answer.content.iter_any():
            await reply.write(chunk)
        await reply.write_eof()
        return reply
