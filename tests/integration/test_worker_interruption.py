"""A worker that must go hands over what it draws, and another one goes on; and urgent requests go first."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.worker_process import (
    LIMIT_SECONDS,
    MANY_STEPS,
    OTHER_SIZE,
    Worker,
    bearer,
    connect,
    end,
    entries,
    picture,
    start_worker,
)
from tests.pictures import all_same, same

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Any, ...]]]:
    """Two workers, started at the same time for all import torch."""
    started = []
    for name in ("first", "second"):
        folder = tmp_path_factory.mktemp(name)
        started.append((*start_worker(folder, IMAGEFLEET_INTERRUPT="checkpoint"), folder / "output"))
    yield started
    for process, *_ in started:
        end(process)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def workers(processes: list[tuple[Any, ...]]) -> AsyncIterator[list[Worker]]:
    held = entries()["tiny-1"] | {"pinned": True}
    async with connect(*processes[0]) as first, connect(*processes[1]) as second:
        workers = [first, second]
        for worker in workers:
            await worker.put(held)
        for worker in workers:
            await worker.until_state("tiny-1", "Resident")
        yield workers


async def until_steps(worker: Worker) -> None:
    """Of the work of what runs some is done."""
    begun = 0.0

    async def holds() -> bool:
        nonlocal begun
        model = await worker.model("tiny-1")
        if model["running"] == 0:
            return False
        begun = begun or model["workSeconds"]
        return bool(0 < model["workSeconds"] < 0.95 * begun)

    await worker.until(holds)


async def metric(worker: Worker, name: str) -> float:
    lines = (await worker.client.get("/metrics")).text.splitlines()
    found = [
        line for line in lines if line.startswith(f"imagefleet_worker_{name}_total{{") and "tiny-1" in line
    ]
    return sum(float(line.split()[-1]) for line in found)


async def test_interactive_requests_go_before_a_running_one_of_class_batch(workers: list[Worker]) -> None:
    worker = workers[1]
    undisturbed = picture(await worker.generate(steps=MANY_STEPS, seed=3))
    slow = asyncio.create_task(worker.generate(steps=MANY_STEPS, seed=3, priority="batch"))
    await until_steps(worker)
    for _ in range(3):
        assert (await worker.generate(**OTHER_SIZE)).status_code == 200
        assert not slow.done()
    assert same(picture(await slow), undisturbed)
    assert await metric(worker, "preempted") >= 1


async def test_only_the_operator_may_interrupt(workers: list[Worker]) -> None:
    answer = await workers[1].client.post("/v1/worker/interrupt", headers=bearer("gateway"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_caller")
    assert not (await workers[1].state())["draining"]


async def test_a_broken_checkpoint_is_refused(workers: list[Worker]) -> None:
    answer = await workers[1].generate(resume="bm90aGluZw==")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "checkpoint_unusable")


async def _streamed(
    worker: Worker, began: asyncio.Event | None = None, **fields: Any
) -> list[tuple[str, Any]]:
    """The events of a stream, and their data. ``began`` is set when the first one comes."""
    body = {"model": "tiny-1", "prompt": "a secret castle", "stream": True, **fields}
    events: list[tuple[str, Any]] = []
    async with worker.client.stream("POST", "/v1/generate", headers=bearer("gateway"), json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        name = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name:
                events.append((name, json.loads(line.removeprefix("data: "))))
                name = ""
                if began is not None:
                    began.set()
    return events


async def test_on_sigterm_all_is_handed_over_and_another_worker_draws_the_same_pictures(
    workers: list[Worker],
) -> None:
    """A plain request of two pictures, a stream, and one that waits."""
    first, second = workers[:2]
    asked: dict[str, Any] = {"steps": MANY_STEPS, "n": 2, "seed": 5}
    streamed: dict[str, Any] = {"steps": MANY_STEPS, "seed": 9, "partial_images": 3}
    whole = await second.generate(**asked)
    previews = await _streamed(second, **streamed)
    began = asyncio.Event()
    plain = asyncio.create_task(first.generate(**asked))
    stream = asyncio.create_task(_streamed(first, began, **streamed))
    async with asyncio.timeout(LIMIT_SECONDS):
        await began.wait()  # until then the answer is no stream yet
    waiting = asyncio.create_task(first.generate(**OTHER_SIZE))

    async def halfway() -> bool:
        return bool((await first.model("tiny-1"))["queued"] == 1)

    await first.until(halfway)
    first.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.process.wait, LIMIT_SECONDS) == 0
    handed = await waiting
    assert (handed.status_code, handed.json()["error"]["code"]) == (503, "interrupted")
    assert "checkpoint" not in handed.json()

    interrupted = await plain
    assert (interrupted.status_code, interrupted.json()["error"]["code"]) == (503, "interrupted")
    resumed = await second.generate(**asked, resume=interrupted.json()["checkpoint"])
    assert all_same(*([entry["b64_json"] for entry in answer.json()["data"]] for answer in (resumed, whole)))
    steps = int(resumed.headers["x-imagefleet-resumed-steps"])
    assert steps == interrupted.json()["stepsDone"]
    assert 0 < steps < 2 * MANY_STEPS
    assert float(resumed.headers["x-imagefleet-run-seconds"]) > 0

    events = await stream
    assert events[-1][0] == "imagefleet.checkpoint"
    rest = await _streamed(second, **streamed, resume=events[-1][1]["checkpoint"])
    told = [*events[:-1], *rest]
    assert [name for name, _ in told] == [name for name, _ in previews]
    assert all_same(*([data["b64_json"] for _, data in events] for events in (told, previews)))
    assert await metric(second, "resumed") == 2


async def test_an_operator_interrupts_a_worker_that_lives_on(workers: list[Worker]) -> None:
    second = workers[1]
    running = asyncio.create_task(second.generate(steps=MANY_STEPS, seed=5))
    await until_steps(second)
    answer = await second.client.post("/v1/worker/interrupt", headers=bearer("operator"))
    assert answer.json()["draining"]
    handed = await running
    assert (handed.status_code, handed.json()["error"]["code"]) == (503, "interrupted")
    assert handed.json()["checkpoint"]
    assert (await second.client.get("/livez")).status_code == 200
    assert await metric(second, "interrupted") == 1
