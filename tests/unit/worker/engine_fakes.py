"""Engines whose part a test plays: the supervisor's end is real, the process is not."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from imagefleet_runtime.worker.handle import EngineHandle
from imagefleet_runtime.worker.messages import (
    Cancel,
    Cancelled,
    Capabilities,
    Checkpoint,
    Draw,
    Drawn,
    Failed,
    Loaded,
    Paused,
    Preview,
    SizeProfile,
    Step,
)
from imagefleet_runtime.worker.threads import in_thread

Order = TypeVar("Order")

TAKES = frozenset({"guidance_scale", "num_inference_steps"})
CAPABILITIES = Capabilities("StableDiffusionPipeline", 8, TAKES, True, batches=True)
# 512x512: up to four gain; 0.1 s a step alone. 100 bytes at rest, 200 for one picture, 50 more for each further one.
LOADED = Loaded(
    CAPABILITIES,
    (
        SizeProfile(
            512, 512, 0.0, ((1, 0.1), (2, 0.12), (4, 0.2), (8, 0.4)), ((1, 200), (2, 250), (4, 350), (8, 550))
        ),
    ),
    100,
)


class FakeProcess:
    pid = 1
    exitcode: int | None = None

    def __init__(self, hang_up: Callable[[], None]) -> None:
        self._hang_up = hang_up
        self._ended = threading.Event()

    def end(self, code: int) -> None:
        self.exitcode = code
        self._ended.set()
        self._hang_up()

    def kill(self) -> None:
        self.end(-9)

    def join(self) -> None:
        self._ended.wait()

    def close(self) -> None:
        pass


class PlayedEngine:
    """``handle``: the supervisor's end. The test reads its orders with ``next`` and answers them."""

    def __init__(self, on_exit: Callable[[EngineHandle], None] = lambda _engine: None) -> None:
        ours, self._theirs = multiprocessing.Pipe()
        self.process = FakeProcess(self._theirs.close)
        self.handle = EngineHandle(cast(Any, self.process), ours, on_exit)

    def take(self) -> object:
        """The next order. Blocks."""
        return self._theirs.recv()

    async def next(self) -> object:
        return await in_thread(self.take)

    async def draw(self) -> Draw:
        order = await self.next()
        assert isinstance(order, Draw), order
        return order

    async def draws(self, count: int) -> list[Draw]:
        return [await self.draw() for _ in range(count)]

    async def cancel(self) -> Cancel:
        order = await self.next()
        assert isinstance(order, Cancel), order
        return order

    async def order(self, kind: type[Order]) -> Order:
        order = await self.next()
        assert isinstance(order, kind), order
        return order

    @property
    def has_orders(self) -> bool:
        """Only meaningful once the supervisor has nothing left to do."""
        return self._theirs.poll()

    def send(self, message: object) -> None:
        self._theirs.send(message)

    def drawn(
        self, order: Draw, work_seconds: float = 2.0, peak_bytes: int | None = None, own_seconds: float = 0.0
    ) -> None:
        """``own_seconds``: of the work, outside of steps."""
        picture, shared = f"picture {order.seed}".encode(), work_seconds - own_seconds
        self.send(Drawn(order.id, picture, 2.0, work_seconds, shared, (), peak_bytes))

    def stepped(self, *orders: Draw, done: float = 0.5, seconds: float = 0.1) -> None:
        self.send(Step({order.id: done for order in orders}, orders[0].width, orders[0].height, seconds))

    def previewed(self, order: Draw, index: int) -> None:
        self.send(Preview(order.id, index, b"partial"))

    def failed(self, order: Draw, code: str = "generation_failed") -> None:
        self.send(Failed(order.id, code, "it went wrong"))

    def cancelled(self, identifier: int) -> None:
        self.send(Cancelled(identifier))

    def paused(self, identifier: int) -> None:
        self.send(Paused(identifier))

    def checkpointed(self, identifier: int, steps: int) -> None:
        self.send(Checkpoint(identifier, steps, f"after {steps}".encode()))
