import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
import pytest

from tests.unit.gateway.builders import Harness, make_settings

HarnessFactory = Callable[..., AbstractAsyncContextManager[Harness]]


@asynccontextmanager
async def running(**env: str) -> AsyncIterator[Harness]:
    harness = Harness(make_settings(**env))
    serving = asyncio.create_task(harness.server.serve())
    while not harness.server.started:
        await asyncio.sleep(0)
    port = harness.server.servers[0].sockets[0].getsockname()[1]
    harness.url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as harness.session:
        try:
            yield harness
        finally:
            harness.gateway.close()
    harness.server.should_exit = True
    await serving


@pytest.fixture
def start_gateway() -> HarnessFactory:
    """Starts a gateway with settings of one's own."""
    return running


@pytest.fixture
async def gateway() -> AsyncIterator[Harness]:
    """A gateway that holds requests long enough for a test to change the fleet."""
    async with running() as harness:
        yield harness


@pytest.fixture
async def impatient() -> AsyncIterator[Harness]:
    """A gateway that gives up holding at once."""
    async with running(IMAGEFLEET_HOLD_SECONDS="0.05") as harness:
        yield harness
