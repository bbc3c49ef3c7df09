"""A dispatcher with engines whose part a test plays."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.dispatch import Dispatcher
from imagefleet_runtime.worker.metrics import Metrics
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.waiting import Job, WaitingRoom
from prometheus_client import generate_latest

from tests.unit.worker.engine_fakes import LOADED, PlayedEngine
from tests.unit.worker.test_waiting import make_job, make_model


class Desk:
    """A dispatcher, its queue, and two models, "a" and "b", whose engines the test plays."""

    def __init__(self, max_request_seconds: float = 300.0) -> None:
        self.engines = {name: PlayedEngine() for name in "ab"}
        self.models = {name: self._resident(name) for name in "ab"}
        self.waiting = WaitingRoom(32)
        self.metrics = Metrics("team-a", "images", list, list)
        self.refusals: list[Job] = []  # jobs that a late check refuses
        self.limit = 10_000
        self.dispatcher = Dispatcher(
            models=self.models,
            waiting=self.waiting,
            metrics=self.metrics,
            memory_limit=lambda _model: self.limit,
            check=self._check,
            max_request_seconds=max_request_seconds,
            changed=lambda: None,
        )
        self.running = asyncio.create_task(self.dispatcher.run())

    def _resident(self, name: str) -> Model:
        model = make_model(name)
        model.loaded(LOADED)
        model.state, model.engine = State.RESIDENT, self.engines[name].handle
        return model

    def _check(self, job: Job) -> None:
        if job in self.refusals:
            raise errors.invalid("size_exceeds_memory", "too large", "size")

    def job(self, model: str = "a", **fields: Any) -> Job:
        """One that has not been submitted."""
        return make_job(self.models[model], asyncio.get_running_loop(), time.monotonic(), **fields)

    def submit(self, model: str = "a", **fields: Any) -> Job:
        job = self.job(model, **fields)
        self.waiting.add(job)
        self.dispatcher.wake()
        return job

    async def settled(self) -> None:
        """The dispatcher has nothing left to do, and its engines were told all."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def seconds(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def metrics_text(self) -> str:
        return generate_latest(self.metrics.registry).decode()

    def metric(self, line: str) -> float:
        labels = 'model="a",namespace="team-a",pool="images"'
        found = [
            row
            for row in self.metrics_text().splitlines()
            if row.startswith(f"imagefleet_worker_{line}{{{labels}")
        ]
        return float(found[0].split()[-1]) if found else 0.0
