"""What tests of the dispatcher share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.unit.worker.desk import Desk
from tests.unit.worker.engine_fakes import PlayedEngine


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    desk.running.cancel()
    for engine in desk.engines.values():
        engine.process.kill()


@pytest.fixture
def engine(desk: Desk) -> PlayedEngine:
    return desk.engines["a"]
