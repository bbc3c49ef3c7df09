import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tests.unit.gateway.builders import KEY, Harness, make_settings

HarnessFactory = Callable[..., AbstractAsyncContextManager[Harness]]


@asynccontextmanager
async def running(key: Ed25519PrivateKey = KEY, **env: str) -> AsyncIterator[Harness]:
    harness = Harness(make_settings(**env), key)
    config = harness.server.config
    config.load()
    # uvicorn's own protocol without its server, whose ticks would add a fifth of a second to every test.
    protocol = functools.partial(HttpToolsProtocol, config=config, server_state=ServerState(), app_state={})
    listener = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    harness.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener, aiohttp.ClientSession() as harness.session:
        try:
            yield harness
        finally:
            harness.gateway.close()


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
