"""Batches, priorities, cancellation and memory, with a real worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.worker_process import (
    MANY_STEPS,
    OTHER_SIZE,
    Json,
    Worker,
    children_of,
    picture,
)
from tests.pictures import same

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 2**20


async def metric(worker: Worker, name: str) -> float:
    text = (await worker.client.get("/metrics")).text
    labels = '{model="tiny-1",namespace="team-a",pool="images"'
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + labels))


async def test_requests_are_drawn_together_and_their_pictures_are_those_they_have_alone(
    worker: Worker,
) -> None:
    alone = [picture(await worker.generate(seed=seed, steps=3 + seed)) for seed in range(4)]
    before = [await metric(worker, f"imagefleet_worker_batch_size_{part}") for part in ("sum", "count")]
    together = await asyncio.gather(*(worker.generate(seed=seed, steps=3 + seed) for seed in range(4)))
    after = [await metric(worker, f"imagefleet_worker_batch_size_{part}") for part in ("sum", "count")]
    assert all(same(solo, picture(answer)) for solo, answer in zip(alone, together, strict=True))
    assert (after[0] - before[0]) / (after[1] - before[1]) > 1, "no step was shared"


async def test_a_joining_request_does_not_wait_for_the_one_that_runs(worker: Worker) -> None:
    running = asyncio.create_task(worker.generate(steps=MANY_STEPS))
    await worker.until_running()
    short = await worker.generate(steps=2)
    assert short.status_code == 200
    assert not running.done()
    assert (await running).status_code == 200


async def test_interactive_requests_overtake_those_of_class_batch(worker: Worker) -> None:
    running = asyncio.create_task(worker.generate(steps=MANY_STEPS))
    await worker.until_running()
    ended: list[str] = []

    async def ask(name: str, **fields: Any) -> None:
        answer = await worker.generate(**fields)
        assert answer.status_code == 200
        ended.append(name)

    batch = asyncio.create_task(ask("batch", width=80, height=64, priority="batch"))

    async def waits() -> bool:
        return bool((await worker.model("tiny-1"))["queued"] == 1)

    await worker.until(waits)
    await asyncio.gather(batch, ask("interactive", **OTHER_SIZE), running)
    assert ended == ["interactive", "batch"]


async def test_a_caller_that_leaves_makes_way_for_one_of_another_size(worker: Worker) -> None:
    before = await metric(worker, "imagefleet_worker_cancelled_total")
    leaving, waiting = await worker.fill()
    leaving.cancel()
    answer = await waiting
    assert answer.status_code == 200
    # Far less than the steps that nobody waits for would take, on any machine.
    steps = float(answer.headers["x-imagefleet-rate"]) * 64 * 64 / 1e6 * 2 * MANY_STEPS
    assert float(answer.headers["x-imagefleet-queue-seconds"]) < steps / 2
    assert await metric(worker, "imagefleet_worker_cancelled_total") == before + 1


async def test_a_size_that_memory_cannot_hold_is_refused_and_the_one_that_is_named_is_not(
    worker: Worker, models: dict[str, Json]
) -> None:
    await worker.put(models["tiny-1"] | {"pinned": True, "limits": {}})
    answer = await worker.generate(width=16384, height=16384)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "size_exceeds_memory", "size")
    total = (await worker.state())["memory"]["totalBytes"]
    assert f"({total} bytes)" in error["message"]
    side = int(error["message"].rpartition("x")[2])
    assert 64 < side < 16384
    assert side % 8 == 0


async def test_the_state_tells_how_pictures_of_a_size_are_drawn(worker: Worker) -> None:
    [size] = (await worker.model("tiny-1"))["sizes"]
    assert size["size"] == "64x64"
    assert size["maxBatch"] >= 1
    assert size["secondsPerStep"] > 0
    assert size["peakBytes"] == (await worker.model("tiny-1"))["memoryBytes"]
    stages = (await worker.model("tiny-1"))["loadStages"]
    assert set(stages) == {"verify", "fork", "weights", "options", "warm"}


def held_bytes(pid: int) -> int:
    """Memory of a process and of all below it, pages that they share counted once (PSS).

    Without the pages of files: those of libraries are shared with whoever else runs here, and come and go with them.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split()[:2] for line in rollup.splitlines()[1:])
    own = int(fields["Pss_Anon:"]) + int(fields["Pss_Shmem:"])
    return own * 1024 + sum(held_bytes(child) for child in children_of(pid))


async def test_unloading_gives_all_memory_back(shared: Worker, models: dict[str, Json]) -> None:
    """Seen from outside: what the worker's processes hold together, before a model and after it."""
    await cycle(shared, models)  # what the supervisor keeps of its first requests is no model's
    before = held_bytes(shared.process.pid)
    held = await cycle(shared, models)
    after = held_bytes(shared.process.pid)
    assert held > before + 20 * MIB, "a loaded model holds memory"
    assert after < before + 4 * MIB


async def cycle(worker: Worker, models: dict[str, Json]) -> int:
    """Load a model, draw, and unload it; the memory held while it was loaded."""
    await worker.put(models["tiny-1"] | {"pinned": True})
    await worker.until_state("tiny-1", "Resident")
    answers: list[httpx.Response] = await asyncio.gather(*(worker.generate(n=3) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    held = held_bytes(worker.process.pid)
    await worker.put()

    async def gone() -> bool:
        return not (await worker.state())["models"] and worker.engine_pids() == []

    await worker.until(gone)
    return held
