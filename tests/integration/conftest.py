"""What the tests of the worker share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.worker_process import Json, Worker, entries, running_worker


@pytest.fixture(scope="module")
def models() -> dict[str, Json]:
    """Policy entries of the two tiny models, not pinned."""
    return entries()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worker]:
    """One worker for all tests of a module: it takes seconds to start."""
    async with running_worker(tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest_asyncio.fixture(loop_scope="module")
async def worker(shared: Worker, models: dict[str, Json]) -> Worker:
    """The shared worker, holding tiny-1 and nothing else, idle."""
    await shared.put(models["tiny-1"] | {"pinned": True})
    await shared.until_state("tiny-1", "Resident")

    async def idle() -> bool:
        return bool((await shared.model("tiny-1"))["running"] == 0)

    await shared.until(idle)
    return shared
