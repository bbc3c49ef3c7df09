"""The part of a kubelet's server that `kubectl logs` needs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path

from aiohttp import web

from .config import NodeConfig

CHUNK = 64 * 1024
# A follower looks for more this often: one stat of one file.
FOLLOW_SECONDS = 0.2

# (namespace, pod, container) -> is it still running
IsRunning = Callable[[str, str, str], bool]


class LogServer:
    def __init__(self, config: NodeConfig, is_running: IsRunning) -> None:
        self._config = config
        self._is_running = is_running
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen on a free port, for the API server alone, which shows a certificate of the cluster."""
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        pki = self._config.pki
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
        tls.load_cert_chain(pki / "node-server.crt", pki / "node-server.key")
        tls.verify_mode = ssl.CERT_REQUIRED
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls, shutdown_timeout=0.5).start()
        return int(self._runner.addresses[0][1])

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        namespace, pod, container = (request.match_info[key] for key in ("namespace", "pod", "container"))
        previous = request.query.get("previous") == "true"
        path = self._find(namespace, pod, container, 1 if previous else 0)
        if path is None:
            which = "previous terminated container" if previous else "container"
            message = f'{which} "{container}" in pod "{pod}" not found'
            return web.Response(status=400, text=message)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        follow = request.query.get("follow") == "true"
        with contextlib.suppress(ConnectionError):
            await self._send(response, path, request.query, follow, (namespace, pod, container))
        return response

    async def _send(
        self,
        response: web.StreamResponse,
        path: Path,
        query: Mapping[str, str],
        follow: bool,
        key: tuple[str, str, str],
    ) -> None:
        with path.open("rb") as file:
            file.seek(tail_offset(path, _number(query, "tailLines")))
            left = _number(query, "limitBytes")
            while True:
                # Asked before reading: what it wrote last is then read for sure.
                running = self._is_running(*key)
                while data := file.read(CHUNK if left is None else min(left, CHUNK)):
                    await response.write(data)
                    left = None if left is None else left - len(data)
                if not follow or not running or left == 0:
                    return
                await asyncio.sleep(FOLLOW_SECONDS)

    def _find(self, namespace: str, pod: str, container: str, back: int) -> Path | None:
        """The log of the newest run, or of the one `back` runs before; of the newest pod of that name."""
        folders = self._config.pod_logs.glob(f"{namespace}_{pod}_*/{container}")
        newest = max(folders, key=lambda folder: folder.stat().st_mtime, default=None)
        if newest is None:
            return None
        runs = sorted(newest.glob("*.log"), key=lambda path: int(path.stem))
        return runs[-1 - back] if len(runs) > back else None


def tail_offset(path: Path, lines: int | None) -> int:
    """Where the last `lines` lines begin."""
    if lines is None:
        return 0
    data = path.read_bytes()
    position = len(data)
    if data.endswith(b"\n"):
        position -= 1
    for _ in range(lines):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return 0
    return len(data) if lines == 0 else position + 1


def _number(query: Mapping[str, str], name: str) -> int | None:
    value = query.get(name)
    return int(value) if value else None
