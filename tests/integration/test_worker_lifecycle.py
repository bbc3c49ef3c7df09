"""Loads, evictions, crashes, hangs and the end of a worker."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.fleet import MODELS
from tests.integration.worker_process import (
    MANY_STEPS,
    OTHER_SIZE,
    Json,
    Worker,
    children_of,
    command_of,
    connect,
    end,
    entry_of,
    picture,
    start_worker,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


SETTINGS = {
    "shared": {},
    "small": {"IMAGEFLEET_QUEUE_LIMIT": "1"},
    "strict": {"IMAGEFLEET_MAX_REQUEST_SECONDS": "5"},
}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Any, ...]]]:
    """Three workers, started at the same time for all import torch: one for most tests, one to be filled and drained,
    one to be hung."""
    started: dict[str, tuple[Any, ...]] = {}
    for name, settings in SETTINGS.items():
        folder = tmp_path_factory.mktemp(name)
        started[name] = (*start_worker(folder, **settings), folder / "output")
    yield started
    for process, *_ in started.values():
        end(process)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(processes: dict[str, tuple[Any, ...]]) -> AsyncIterator[Worker]:
    async with connect(*processes["shared"]) as worker:
        yield worker


@pytest_asyncio.fixture(loop_scope="module")
async def small(processes: dict[str, tuple[Any, ...]], models: dict[str, Json]) -> AsyncIterator[Worker]:
    """A worker in whose queue one request may wait, holding tiny-1."""
    async with connect(*processes["small"]) as worker:
        await worker.put(models["tiny-1"] | {"pinned": True})
        await worker.until_state("tiny-1", "Resident")
        yield worker


async def test_a_model_of_the_wrong_digest_never_loads_until_it_is_put_right(
    worker: Worker, models: dict[str, Json]
) -> None:
    entry = models["tiny-2"] | {"pinned": True}
    await worker.put(entry | {"digest": "sha256:" + "0" * 64})
    failed = await worker.until_state("tiny-2", "Failed")
    assert failed["reason"] == "DigestMismatch"
    answer = await worker.generate(model="tiny-2")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
    assert int(answer.headers["retry-after"]) >= 1
    await worker.put(entry)
    await worker.until_state("tiny-2", "Resident")


async def test_a_policy_swaps_one_model_for_another(worker: Worker, models: dict[str, Json]) -> None:
    [before] = worker.engine_pids()
    await worker.put(models["tiny-2"] | {"pinned": True})
    await worker.until_state("tiny-2", "Resident")
    assert picture(await worker.generate(model="tiny-2")).size == (64, 64)

    async def one_engine_left() -> bool:
        return before not in worker.engine_pids() and len((await worker.state())["models"]) == 1

    await worker.until(one_engine_left)


async def test_an_allowed_model_is_loaded_when_a_request_comes(
    worker: Worker, models: dict[str, Json]
) -> None:
    await worker.put(models["tiny-1"] | {"pinned": True}, models["tiny-2"])
    assert (await worker.model("tiny-2"))["state"] == "Absent"
    assert picture(await worker.generate(model="tiny-2")).size == (64, 64)
    assert (await worker.model("tiny-2"))["state"] == "Resident"


async def test_the_least_recently_used_model_makes_room(worker: Worker, models: dict[str, Json]) -> None:
    total = (await worker.state())["memory"]["totalBytes"]
    big = {name: models[name] | {"memoryBytes": total - 1} for name in models}
    await worker.put()
    await worker.put(big["tiny-1"], big["tiny-2"])
    assert (await worker.generate(model="tiny-1")).status_code == 200
    # Its measured size is small, and room for the other's declared size is all there is.
    assert (await worker.generate(model="tiny-2")).status_code == 200
    assert (await worker.model("tiny-1"))["state"] == "Absent"


async def test_a_pinned_model_that_cannot_fit_fails_and_says_so(
    worker: Worker, models: dict[str, Json]
) -> None:
    await worker.put(
        models["tiny-1"] | {"pinned": True}, models["tiny-2"] | {"pinned": True, "memoryBytes": 2**60}
    )
    failed = await worker.until_state("tiny-2", "Failed")
    assert failed["reason"] == "DoesNotFit"
    assert str(2**60) in failed["message"]


async def test_a_killed_engine_fails_its_request_and_the_next_ones_are_drawn(worker: Worker) -> None:
    restarts = (await worker.model("tiny-1"))["restarts"]
    hit = asyncio.create_task(worker.generate(steps=MANY_STEPS))
    await worker.until_running()
    waiting = asyncio.create_task(worker.generate(**OTHER_SIZE))
    [engine] = worker.engine_pids()
    os.kill(engine, signal.SIGKILL)
    failed = await hit
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_crashed")
    assert "SIGKILL" in failed.json()["error"]["message"]
    assert (await waiting).status_code == 200
    assert (await worker.model("tiny-1"))["restarts"] == restarts + 1
    assert (await worker.client.get("/livez")).status_code == 200


async def test_an_engine_that_keeps_dying_is_called_failed_and_loaded_again_later(
    worker: Worker, models: dict[str, Json]
) -> None:
    await worker.put(models["tiny-2"] | {"pinned": True})
    for crashes in range(3):
        await worker.until_state("tiny-2", "Resident")
        await worker.until(lambda: _only_one(worker.engine_pids()))
        assert (await worker.model("tiny-2"))["restarts"] == crashes
        [engine] = worker.engine_pids()
        os.kill(engine, signal.SIGKILL)
        await worker.until(partial(worker.has_restarted, "tiny-2", crashes + 1))
    assert (await worker.model("tiny-2"))["reason"] == "EngineCrashed"
    await worker.until_state("tiny-2", "Resident")


async def _only_one(pids: list[int]) -> bool:
    return len(pids) == 1


async def test_weights_that_cannot_be_read_fail_the_load_and_nothing_else(
    worker: Worker, models: dict[str, Json], tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(MODELS / "tiny-1", folder)
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"no weights at all")
    broken = entry_of("broken", folder)
    await worker.put(models["tiny-1"] | {"pinned": True}, broken)
    waiting = await worker.generate(model="broken")
    assert (waiting.status_code, waiting.json()["error"]["code"]) == (503, "model_loading")
    assert (await worker.model("broken"))["reason"] == "LoadFailed"
    refused = await worker.generate(model="broken")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_failed")
    assert (await worker.generate()).status_code == 200


async def test_a_caller_that_leaves_frees_the_device(worker: Worker) -> None:
    leaving = asyncio.create_task(worker.generate(steps=MANY_STEPS, n=3))
    await worker.until_running()
    leaving.cancel()
    answer = await worker.generate()
    assert answer.status_code == 200
    # Far less than the 900 steps that nobody waits for would take, on any machine.
    steps = float(answer.headers["x-imagefleet-rate"]) * 64 * 64 / 1e6 * 2 * 3 * MANY_STEPS
    assert float(answer.headers["x-imagefleet-queue-seconds"]) < steps / 2


async def test_a_full_queue_says_when_to_come_back(small: Worker) -> None:
    running, waiting = await small.fill()
    refused = await small.generate(**OTHER_SIZE)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert float(refused.headers["x-imagefleet-work-seconds"]) > 0
    assert [(await task).status_code for task in (running, waiting)] == [200, 200]


async def test_a_full_queue_takes_what_can_begin_at_once(small: Worker) -> None:
    running, waiting = await small.fill()
    joins = await small.generate()  # of the size that runs, and shorter
    assert (joins.status_code, running.done()) == (200, False)
    assert [(await task).status_code for task in (running, waiting)] == [200, 200]


async def test_a_drain_finishes_what_runs_and_refuses_what_waits(small: Worker) -> None:
    running, waiting = await small.fill()
    small.process.send_signal(signal.SIGTERM)
    refused = await waiting
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "worker_draining")
    assert (await small.client.get("/readyz")).status_code == 503
    late = await small.generate()
    assert (late.status_code, late.json()["error"]["code"]) == (503, "worker_draining")
    assert picture(await running).size == (64, 64)
    assert await asyncio.to_thread(small.process.wait, 30) == 0
    assert '"stopped"' in small.output.read_text().splitlines()[-1]


async def test_a_worker_without_its_importer_is_not_live(shared: Worker) -> None:
    importer = next(pid for pid in children_of(shared.process.pid) if "forkserver" in command_of(pid))
    os.kill(importer, signal.SIGKILL)

    async def not_live() -> bool:
        return (await shared.client.get("/livez")).status_code == 503

    await shared.until(not_live)


async def test_a_drawing_that_hangs_is_ended_and_the_next_one_is_drawn(
    processes: dict[str, tuple[Any, ...]], models: dict[str, Json]
) -> None:
    async with connect(*processes["strict"]) as strict:
        await strict.put(models["tiny-1"] | {"pinned": True})
        await strict.until_state("tiny-1", "Resident")
        [engine] = strict.engine_pids()
        os.kill(engine, signal.SIGSTOP)
        failed = await strict.generate()
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_crashed")
        assert "no answer within 5 s" in failed.json()["error"]["message"]
        assert picture(await strict.generate()).size == (64, 64)
