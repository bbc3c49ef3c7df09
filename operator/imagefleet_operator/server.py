"""``/metrics``, ``/livez`` and ``/readyz``, on followers too."""

import logging
from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

logger = logging.getLogger(__name__)


class Probes:
    """What the probes say. ``problems`` is asked at every probe and returns what is wrong, nothing where all
    is well."""

    def __init__(self) -> None:
        self.problems: Callable[[], list[str]] = list
        self.refresh: Callable[[], None] = lambda: None
        """Called before metrics are read, to bring gauges up to date."""


async def start_server(host: str, port: int, probes: Probes) -> web.AppRunner:
    """Serve until the runner is cleaned up. Raises OSError where the address cannot be had."""

    async def livez(_: web.Request) -> web.Response:
        problems = probes.problems()
        if problems:
            logger.error("not alive: %s", "; ".join(problems))
        return web.Response(status=500 if problems else 200, text="\n".join(problems) or "ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def metrics(_: web.Request) -> web.Response:
        probes.refresh()
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
