"""A worker under thousands of mixed requests: nothing lost, no wrong picture, no memory that grows.

    make bench NAME=soak [REQUESTS=2000] [MODEL=build/models/shapes-2]

Callers ask for pictures whose pixels are known from bare diffusers, some with LoRA adapters, some in class batch, some
from where an interrupted worker left off; some leave in the middle, some ask for what is too large; and engines are
killed. Each request must end in its right picture, in a typed error
that fits, or in its caller's leaving. Prints JSON lines; exits 1 where one was lost or wrong.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from imagefleet_runtime.worker.memory import private_bytes
from imagefleet_runtime.worker.source import DigestCache, folder_digest, scan
from PIL import Image

from bench import _soak_requests as requests
from bench._engine_systems import Worker
from bench.report import figure, progress
from tests.integration.worker_process import bearer, engines_of

MODEL = Path(os.environ.get("MODEL", "build/models/shapes-2")).resolve()
REQUESTS = int(os.environ.get("REQUESTS", "2000"))
CALLERS = 20
PICTURES = 48
KILL_EVERY = (
    150  # requests; but a model whose engine dies three times in five minutes is put aside, as it should be
)
KILL_SECONDS = 160.0
# The rest of all requests are pictures.
LEAVES, TOO_LARGE = 0.1, 0.05
# Of the pictures.
IN_BATCH, RESUMED = 0.4, 0.3
# What a worker draws before it is interrupted: a part of the pictures that all callers ask it for.
SECONDS_TO_INTERRUPT = 0.5
# Levels of 255: pixels are rounded, and 1e-4 of the range can fall on the other side of a half.
TOLERANCE = 1
REFUSALS = {"size_exceeds_memory", "limit_exceeded"}
SAMPLES_PER_QUARTER = 12


class Soak:
    def __init__(
        self,
        worker: Worker,
        pictures: dict[requests.Wanted, Any],
        checkpoints: dict[requests.Wanted, str],
        chance: random.Random,
    ) -> None:
        self._worker = worker
        self._pictures = pictures
        self._checkpoints = checkpoints
        self._chance = chance
        self._left = REQUESTS
        self.ends: Counter[str] = Counter()
        self._killed = time.monotonic() - KILL_SECONDS
        self.memory: list[tuple[int, int]] = []  # of the supervisor and of all engines, in bytes

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=CALLERS)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._worker.port}", timeout=120, limits=limits
        ) as client:
            await asyncio.gather(*(self._caller(client) for _number in range(CALLERS)))

    async def _caller(self, client: httpx.AsyncClient) -> None:
        while self._left:
            self._left -= 1
            number = REQUESTS - self._left
            if number % KILL_EVERY == 0:
                self._kill_engine()
            if number % max(REQUESTS // (4 * SAMPLES_PER_QUARTER), 1) == 0:
                self.memory.append(self._memory())
                progress(f"{number} of {REQUESTS}: {dict(self.ends)}")
            self.ends[await self._one(client)] += 1

    async def _one(self, client: httpx.AsyncClient) -> str:
        """How one request ended."""
        kind = self._chance.random()
        if kind < TOO_LARGE:
            return await self._too_large(client)
        wanted = self._chance.choice(list(self._pictures))
        if kind < TOO_LARGE + LEAVES:
            return await self._leave(client, wanted)
        answer = await self._post(client, self._asked(wanted))
        if answer.status_code != 200:
            code = answer.json()["error"]["code"]
            return code if code in ("engine_crashed", "queue_full") else f"lost: {code}"
        picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
        difference = np.abs(np.asarray(picture, np.int16) - self._pictures[wanted]).max()
        return "picture" if difference <= TOLERANCE else "wrong"

    def _asked(self, wanted: requests.Wanted) -> dict[str, Any]:
        priority = "batch" if self._chance.random() < IN_BATCH else "interactive"
        body = {**wanted.body(), "priority": priority}
        found = self._checkpoints.get(wanted)
        if found is None or self._chance.random() > RESUMED:
            return body
        self.ends["(resumed)"] += 1
        return {**body, "resume": found}

    async def _too_large(self, client: httpx.AsyncClient) -> str:
        answer = await self._post(client, {"prompt": "a red circle", "width": 4096, "height": 4096})
        code = answer.json().get("error", {}).get("code")
        return "refused" if code in REFUSALS else f"lost: {answer.status_code} {code}"

    async def _leave(self, client: httpx.AsyncClient, wanted: requests.Wanted) -> str:
        try:
            async with asyncio.timeout(self._chance.uniform(0.01, 0.5)):
                await self._post(client, wanted.body())
        except TimeoutError:
            return "left"
        return "left too late"

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        return await client.post("/v1/generate", headers=bearer("gateway"), json={"model": "model", **body})

    def _kill_engine(self) -> None:
        if time.monotonic() - self._killed < KILL_SECONDS:
            return
        self._killed = time.monotonic()
        self.ends["(engines killed)"] += 1
        for pid in engines_of(self._worker.process.pid):
            os.kill(pid, signal.SIGKILL)

    def _memory(self) -> tuple[int, int]:
        worker = self._worker.process.pid
        return held_by(worker), sum(map(held_by, engines_of(worker)))


def held_by(pid: int) -> int:
    """Memory that the process shares with no other, in bytes; 0 where it has ended."""
    return private_bytes(Path(f"/proc/{pid}/smaps_rollup")) or 0


def report(soak: Soak) -> bool:
    """Print the figures; whether all was well."""
    lost = sum(count for end, count in soak.ends.items() if end.startswith("lost"))
    killed, resumed = soak.ends.pop("(engines killed)", 0), soak.ends.pop("(resumed)", 0)
    figure("soak_requests", sum(soak.ends.values()), "requests", REQUESTS)
    figure("soak_engines_killed", killed, "engines")
    figure("soak_pictures", soak.ends["picture"], "requests")
    figure("soak_resumed", resumed, "requests")
    figure("soak_cancelled", soak.ends["left"], "requests")
    figure("soak_refused", soak.ends["refused"], "requests")
    figure("soak_engine_crashed", soak.ends["engine_crashed"], "requests")
    figure("soak_lost", lost, "requests")
    figure("soak_wrong_pictures", soak.ends["wrong"], "requests")
    quarter = len(soak.memory) // 4
    for place, name in enumerate(("supervisor", "engines")):
        # Between a kill and the next load there is no engine to weigh.
        first, last = (
            statistics.median([sample[place] for sample in part if sample[place]])
            for part in (soak.memory[:quarter], soak.memory[-quarter:])
        )
        figure(f"soak_memory_{name}", last, "bytes", first)
    return not lost and not soak.ends["wrong"]


def main() -> None:
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="imagefleet-soak-") as name:
        scratch = Path(name)
        adapters = requests.write_adapters(MODEL, scratch)
        progress(f"drawing {PICTURES} pictures alone")
        pictures = requests.draw_alone(MODEL, adapters, requests.choose(PICTURES, chance))
        with _worker(scratch / "interrupted", adapters) as worker:
            checkpoints = asyncio.run(interrupt(worker, chance.sample(list(pictures), CALLERS)))
        progress(f"{len(checkpoints)} checkpoints")
        with _worker(scratch / "worker", adapters) as worker:
            soak = Soak(worker, pictures, checkpoints, chance)
            asyncio.run(soak.run())
            good = report(soak)
    sys.exit(0 if good else 1)


@contextlib.contextmanager
def _worker(scratch: Path, adapters: dict[str, Path]) -> Iterator[Worker]:
    """A worker that holds the model, and keeps what checkpoints need."""
    worker = Worker(scratch, threads=1, IMAGEFLEET_INTERRUPT="checkpoint")
    try:
        worker.until_ready()
        entries = [_entry(name, adapters[name]) for name in adapters]
        worker.allow("model", MODEL, pinned=True, adapters=entries)
        worker.until_resident("model")
        yield worker
    finally:
        worker.end()


async def interrupt(worker: Worker, wanted: list[requests.Wanted]) -> dict[requests.Wanted, str]:
    """The checkpoints of those of ``wanted`` that are being drawn when ``worker`` is interrupted."""
    address = f"http://127.0.0.1:{worker.port}"
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        asked = [
            client.post("/v1/generate", headers=bearer("gateway"), json={"model": "model", **one.body()})
            for one in wanted
        ]
        replies = asyncio.gather(*asked)
        await asyncio.sleep(SECONDS_TO_INTERRUPT)
        await client.post("/v1/worker/interrupt", headers=bearer("operator"))
        bodies = [reply.json() for reply in await replies]
    return {one: body["checkpoint"] for one, body in zip(wanted, bodies, strict=True) if "checkpoint" in body}


def _entry(name: str, folder: Path) -> dict[str, str]:
    return {"name": name, "path": str(folder), "digest": folder_digest(scan(folder), DigestCache())}


if __name__ == "__main__":
    main()
