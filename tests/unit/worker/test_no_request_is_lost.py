"""Many mixed requests against engines that draw, fail, run out of memory and are late: each one ends, once."""

import asyncio
import random
import threading
import time
from typing import Any

import pytest
from imagefleet_runtime.worker import resuming
from imagefleet_runtime.worker.errors import ApiError, InterruptedRequestError
from imagefleet_runtime.worker.messages import Cancel, Continue, Draw, Interrupt, Pause
from imagefleet_runtime.worker.waiting import Job

from tests.unit.worker.desk import Desk
from tests.unit.worker.engine_fakes import PlayedEngine

SIZES: list[dict[str, Any]] = [{}, {"width": 256, "height": 256}, {"width": 1024, "height": 1024}]
REQUESTS = 150


class ErraticEngine:
    """Plays an engine in a thread: it takes orders at its steps, and answers each drawing once. It notes where what it
    was given could not have been drawn together, or was more than is worth it."""

    def __init__(self, engine: PlayedEngine, seed: int) -> None:
        self._engine = engine
        self._chance = random.Random(seed)
        self._drawing: dict[int, Draw] = {}
        self._paused: dict[int, Draw] = {}
        self.pauses = 0
        self.wrong: list[str] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                self._take_orders()
                self._step()
        except (EOFError, OSError, TypeError):  # a TypeError is what it is to close a connection that is read
            return  # the test is over

    def _take_orders(self) -> None:
        while not self._drawing or self._engine.has_orders:
            order = self._engine.take()
            if isinstance(order, Draw):
                self._drawing[order.id] = order
            elif isinstance(order, Cancel) and self._take(order.id):
                self._engine.cancelled(order.id)
            elif isinstance(order, Pause) and order.id in self._drawing:
                self._paused[order.id] = self._drawing.pop(order.id)
                self.pauses += 1
                self._engine.paused(order.id)
            elif isinstance(order, Continue) and order.id in self._paused:
                self._drawing[order.id] = self._paused.pop(order.id)
            elif isinstance(order, Interrupt) and (found := self._take(order.id)):
                self._stop(found)
        self._look()

    def _take(self, identifier: int) -> Draw | None:
        return self._drawing.pop(identifier, None) or self._paused.pop(identifier, None)

    def _stop(self, order: Draw) -> None:
        """Some cannot be interrupted, and some have not begun."""
        kind = self._chance.random()
        if kind < 0.2:
            self._engine.drawn(order, work_seconds=0.001)
        elif kind < 0.4:
            self._engine.cancelled(order.id)
        else:
            self._engine.checkpointed(order.id, 3)

    def _look(self) -> None:
        if len({(order.width, order.height) for order in self._drawing.values()}) > 1:
            self.wrong.append("two sizes at a time")
        if len(self._drawing) > 4:
            self.wrong.append(f"{len(self._drawing)} at a time")

    def _step(self) -> None:
        orders = list(self._drawing.values())
        if not orders:
            return
        time.sleep(0.003)  # so that others come in the middle of a picture
        self._engine.stepped(*orders, done=self._chance.random(), seconds=0.001)
        for order in orders:
            kind = self._chance.random()
            if kind > 0.5:
                continue
            del self._drawing[order.id]
            if kind < 0.02:
                self._engine.failed(order)
            else:
                self._engine.drawn(order, work_seconds=0.001)


async def end_of(job: Job) -> str:
    try:
        outcome = await job.result
    except InterruptedRequestError as error:
        return "interrupted" if error.checkpoint else "not begun"
    except ApiError as error:
        return error.code
    except asyncio.CancelledError:
        return "cancelled"
    assert len(outcome.images) == len(job.drawings)
    expected = [f"picture {draw.seed}".encode() for draw in job.drawings]
    return "drawn" if list(outcome.images) == expected else "wrong"


@pytest.mark.parametrize(("seed", "interrupted"), [(0, False), (1, False), (2, True)])
async def test_each_of_many_requests_ends_once(seed: int, interrupted: bool) -> None:
    chance = random.Random(seed)
    desk = Desk()
    engines = [ErraticEngine(engine, seed) for engine in desk.engines.values()]
    ends: list[asyncio.Task[str]] = []
    for number in range(REQUESTS):
        fields = dict(chance.choice(SIZES), n=chance.randint(1, 3), seed=number * 10)
        # After all were drawn, one of class batch first: it is being drawn when an interactive one comes.
        priority = {1: "batch", 2: "interactive"}.get(number % 25, chance.choice(["interactive", "batch"]))
        job = desk.submit(chance.choice("ab"), priority=priority, **fields)
        ends.append(asyncio.create_task(end_of(job)))
        if chance.random() < 0.2:
            await asyncio.sleep(0)
            job.result.cancel()
            if not desk.waiting.discard(job):
                desk.dispatcher.cancel(job)
        if number % 25 == 0:
            await asyncio.gather(*ends)
        elif number % 25 < 3:
            await desk.settled()
        elif chance.random() < 0.2:
            await asyncio.sleep(0.001)  # let some of them begin
    if interrupted:
        last = [desk.submit(n=3, seed=number * 10) for number in range(REQUESTS, REQUESTS + 20)]
        ends += [asyncio.create_task(end_of(job)) for job in last]
        await desk.settled()  # some of them have begun, and cannot be done yet
        desk.dispatcher.interrupt()
        for job in desk.waiting.take_all(lambda _job: True):
            job.answer(resuming.interrupted(job))
    codes = await asyncio.gather(*ends)
    await desk.dispatcher.idle()
    known = {"drawn", "generation_failed", "cancelled"}
    assert set(codes) <= (known | {"interrupted", "not begun"} if interrupted else known)
    assert "interrupted" in codes if interrupted else codes.count("drawn") > REQUESTS / 2
    assert sum(engine.pauses for engine in engines) > 0
    assert len(desk.waiting) == 0
    assert desk.dispatcher.count == 0
    assert [complaint for engine in engines for complaint in engine.wrong] == []
    assert all(desk.dispatcher.work_seconds(model) == 0.0 for model in desk.models.values())
    desk.running.cancel()
    for engine in desk.engines.values():
        engine.process.kill()
