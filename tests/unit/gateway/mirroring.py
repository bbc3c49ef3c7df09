"""A gateway whose callers are served by one worker, and whose copies go to another."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from imagefleet_runtime.gateway.resources import PoolModel, PoolView

from tests.unit.gateway.builders import (
    Answer,
    FakeWorker,
    Harness,
    draws,
    image_reply,
    make_model,
    make_pool,
    until,
)

STABLE, SHADOW = "shapes-1", "shapes-2"
RESIDENT = {"workSeconds": 0.0, "models": [{"model": SHADOW, "state": "Resident"}]}


def pool_that_copies(percent: float = 100.0, **more: float) -> PoolView:
    copies = ((SHADOW, percent), *more.items()) if percent else ()
    return make_pool(models=(PoolModel("shapes", ((STABLE, 100.0),), mirror=copies),))


@dataclass
class Stage:
    """A worker that answers callers, and one that has the shadow in memory."""

    harness: Harness
    stable: FakeWorker
    shadow: FakeWorker

    def set(self, percent: float = 100.0, pinned: bool = True, **limits: Any) -> None:
        self.harness.set_fleet(
            self.stable.view(),
            self.shadow.view(placement=((SHADOW, pinned),)),
            pools=(pool_that_copies(percent),),
            models=(make_model(STABLE), make_model(SHADOW, **limits)),
        )

    def outcomes(self) -> dict[str, int]:
        families = self.harness.gateway.metrics.registry.collect()
        copies = next(family for family in families if family.name == "imagefleet_gateway_mirrored")
        totals = [sample for sample in copies.samples if sample.name.endswith("_total")]
        assert {sample.labels["model"] for sample in totals} <= {SHADOW}
        return {sample.labels["outcome"]: int(sample.value) for sample in totals}

    async def ended(self, copies: int) -> dict[str, int]:
        """The outcomes of so many copies."""
        await until(lambda: sum(self.outcomes().values()) >= copies)
        return self.outcomes()

    async def figures(self) -> dict[str, Any]:
        names = json.loads((await self.harness.get("/v1/gateway"))[1])["names"]
        return dict(names[0])

    async def demand(self) -> dict[str, Any]:
        models = json.loads((await self.harness.get("/v1/gateway"))[1])["models"]
        return next((entry for entry in models if entry["model"] == SHADOW), {})


@asynccontextmanager
async def staged(harness: Harness, answer: Answer = draws, **state: Any) -> AsyncIterator[Stage]:
    stable, shadow = FakeWorker("w1"), FakeWorker("w2", answer, state=RESIDENT | state)
    async with stable.serving(), shadow.serving():
        stage = Stage(harness, stable, shadow)
        stage.set()
        await until(lambda: harness.gateway.fleet.snapshot.routes)
        yield stage


class Hanging:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.release = asyncio.Event()

    async def __call__(self, body: dict[str, Any]) -> web.StreamResponse:
        self.begun += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await draws(body)


async def scores(body: dict[str, Any]) -> web.StreamResponse:
    headers = {"run-seconds": "0.2", "checked": "1", "unsafe": "0", "quality": "0.9", "work-seconds": "0"}
    named = {f"x-imagefleet-{name}": value for name, value in headers.items()}
    return web.json_response(image_reply(body["seed"]), headers=named)
