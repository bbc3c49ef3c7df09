"""The supervisor's dispatcher and real engines: what is handed over, and put aside, gives the same pictures."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from imagefleet_runtime.worker import checkpoint, resuming
from imagefleet_runtime.worker.dispatch import Dispatcher
from imagefleet_runtime.worker.errors import InterruptedRequestError
from imagefleet_runtime.worker.handle import EngineHandle
from imagefleet_runtime.worker.messages import Loaded
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.waiting import Job, WaitingRoom

from tests.integration.engine.test_process import _main
from tests.unit.worker.test_waiting import make_job, make_model

STEPS = 300  # a second or so of the tiny model's
SECONDS = 120.0


class Shop:
    """A dispatcher over one model, whose engine is real."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.waiting = WaitingRoom(32)
        self.metrics = Metrics("team-a", "images", list, list)
        self.dispatcher = Dispatcher(
            models={model.name: model},
            waiting=self.waiting,
            metrics=self.metrics,
            memory_limit=lambda _model: 2**40,
            check=lambda _job: None,
            max_request_seconds=300.0,
            changed=lambda: None,
        )
        self.running = asyncio.create_task(self.dispatcher.run())

    def job(self, **fields: Any) -> Job:
        asked = {"width": 64, "height": 64, "steps": STEPS, "seed": 7, **fields}
        job = make_job(self.model, asyncio.get_running_loop(), time.monotonic(), **asked)
        for part in job.parts:
            part.order = replace(part.order, record_bytes=checkpoint.LIMIT_BYTES)
        return job

    def submit(self, job: Job) -> Job:
        self.waiting.add(job)
        self.dispatcher.wake()
        return job

    async def drawn(self, **fields: Any) -> tuple[bytes, ...]:
        return (await self.submit(self.job(**fields)).result).images

    @staticmethod
    async def begun(job: Job) -> None:
        """Steps of it were drawn here."""
        part = job.parts[0]
        async with asyncio.timeout(SECONDS):
            while not part.done > part.done_before:
                assert not job.result.done()
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def shops(folder: Path, count: int) -> AsyncIterator[list[Shop]]:
    from imagefleet_runtime.worker import engine

    from tests.integration.engine.drawing import order

    pipes = []
    for _ in range(count):  # all before the first thread of ours
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_main, args=(engine.main, ours, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append((process, ours))
    found = []
    for process, ours in pipes:
        model = make_model()
        model.engine = EngineHandle(cast(Any, process), ours, lambda _engine: None)
        loaded = await model.engine.load(order(folder), SECONDS, lambda _stage: None)
        assert isinstance(loaded, Loaded), loaded
        model.loaded(loaded)
        model.state = State.RESIDENT
        found.append(Shop(model))
    yield found
    for shop in found:
        shop.running.cancel()
        assert shop.model.engine is not None
        await shop.model.engine.stop()


@pytest.mark.timeout(280)
async def test_a_request_goes_on_in_another_worker_and_gives_way_there(folder: Callable[[str], Path]) -> None:
    async with shops(folder("stable_diffusion"), 2) as (first, second):
        undisturbed = await first.drawn(n=2)
        job = first.submit(first.job(n=2))
        await first.begun(job)
        first.dispatcher.interrupt()
        with pytest.raises(InterruptedRequestError) as error:
            await job.result
        assert error.value.checkpoint is not None
        given = checkpoint.read(base64.b64decode(error.value.checkpoint))
        assert 0 < given.steps_done == error.value.steps_done < 2 * STEPS
        await first.dispatcher.idle()

        resumed = second.job(n=2, priority="batch")
        resuming.check(given, second.model.entry, resumed.drawings)
        resuming.take_over(resumed, given)
        assert 0 < resumed.work_seconds < second.job(n=2).work_seconds
        second.submit(resumed)
        await second.begun(resumed)
        await second.drawn(width=96, steps=2)
        assert not resumed.result.done(), "the interactive request did not wait for it"
        assert (await resumed.result).images == undisturbed
        labels = {"namespace": "team-a", "pool": "images", "model": second.model.name}
        preempted = second.metrics.registry.get_sample_value("imagefleet_worker_preempted_total", labels)
        assert preempted == 1, "this model draws one at a time"
