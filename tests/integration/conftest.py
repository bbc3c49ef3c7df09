"""What the tests of the worker share."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.worker_process import Json, Worker, connect, end, entries, start_worker
from tests.unit.worker.otlp import Collector, collecting

Process = tuple[subprocess.Popen[bytes], str, Path]


@pytest.fixture(scope="module")
def models() -> dict[str, Json]:
    """Policy entries of the two tiny models, not pinned."""
    return entries()


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """What the shared worker sends its traces to."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def shared_process(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Process]:
    """One worker for the tests of several modules: it takes seconds to start."""
    folder = tmp_path_factory.mktemp("worker")
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    process, address = start_worker(folder, **traces)
    yield process, address, folder / "output"
    end(process)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(shared_process: Process) -> AsyncIterator[Worker]:
    """The shared worker, as the module before left it."""
    async with connect(*shared_process) as worker:
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
