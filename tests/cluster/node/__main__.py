"""`python -m tests.cluster.node CONFIG.json` runs a node process until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import aiohttp

from .addresses import Addresses
from .agent import Agent
from .api import Api
from .config import NodeConfig
from .logs import LogServer


async def serve(config: NodeConfig) -> None:
    agents: list[Agent] = []

    def is_running(namespace: str, pod: str, container: str) -> bool:
        for agent in agents:
            for runner in agent.runners.values():
                metadata = runner.context.pod["metadata"]
                if (metadata["namespace"], metadata["name"]) == (namespace, pod):
                    return any(c.state.running for c in runner.containers() if c.spec["name"] == container)
        return False

    port = await LogServer(config, is_running).start()
    addresses = Addresses()
    # Connections are not kept: a probe that finds an old one open proves nothing.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    headers = {"User-Agent": "kube-probe/1.36"}
    async with (
        Api(config.server, config.pki) as api,
        aiohttp.ClientSession(connector=connector, headers=headers) as p,
    ):
        agents.extend(Agent(api, config, spec, addresses, p, port) for spec in config.nodes)
        await _until_stopped(agents)


async def _until_stopped(agents: list[Agent]) -> None:
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for agent in agents:
        agent.kill_all()
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    asyncio.run(serve(NodeConfig.read(Path(sys.argv[1]))))
