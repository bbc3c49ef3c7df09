"""An equal canary on a worker that it shares with the stable model: what its latency seems to be.

Both are shapes-2, under two names. CALLERS ask for the stable one alone; meanwhile the canary is loaded beside it; then
each request goes to either by chance, SHARE percent of them to the canary. What is compared is what gateways compare
(`x-imagefleet-run-seconds` for each unit of work, by its logarithm).

    canary_latency        of the canary's pictures; baseline: the stable one's
    canary_latency_first  of the canary's first 50 alone; baseline: the stable one's meanwhile

Arguments by environment: CALLERS (4), SHARE (20), PICTURES (400), ROUNDS (3), THREADS (1).
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path

from bench.report import figure, progress
from tests.cluster.fleet import MODELS
from tests.integration.worker_process import Worker, entry_of, running_worker

CALLERS = int(os.environ.get("CALLERS", "4"))
SHARE = float(os.environ.get("SHARE", "20")) / 100
PICTURES = int(os.environ.get("PICTURES", "400"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
THREADS = os.environ.get("THREADS", "1")
FIRST = 50
STEPS = 6
ALONE_SECONDS = 5.0
STABLE, CANARY = "stable", "canary"


@dataclass
class Drawn:
    """ln(run-seconds) of the pictures drawn with both models, in the order in which they ended."""

    pictures: list[tuple[str, float]] = field(default_factory=list)

    def mean(self, model: str, until: int) -> float:
        """Geometric mean in seconds, of the pictures before that one."""
        return exp(statistics.fmean(value for name, value in self.pictures[:until] if name == model))

    def until(self, model: str, count: int) -> int:
        """Where a model's so-many-th picture is."""
        places = [place for place, (name, _) in enumerate(self.pictures, start=1) if name == model]
        return places[min(count, len(places)) - 1]


async def load(worker: Worker, share: float, enough: Callable[[Drawn], bool]) -> Drawn:
    """Constant load, of which the canary gets a share, until there is enough."""
    drawn = Drawn()

    async def caller(dice: random.Random) -> None:
        while not enough(drawn):
            model = CANARY if dice.random() < share else STABLE
            answer = await worker.generate(model=model, prompt="a red circle on white", steps=STEPS)
            answer.raise_for_status()
            drawn.pictures.append((model, log(float(answer.headers["x-imagefleet-run-seconds"]))))

    await asyncio.gather(*(caller(random.Random(number)) for number in range(CALLERS)))
    return drawn


async def rollout(worker: Worker) -> Drawn:
    """The canary is loaded while the stable model draws, then both do."""
    entries = [entry_of(name, MODELS / "shapes-2") | {"pinned": True} for name in (STABLE, CANARY)]
    await worker.put(entries[0])
    await worker.until_state(STABLE, "Resident")
    loaded = asyncio.Event()
    alone = asyncio.create_task(load(worker, 0.0, lambda _: loaded.is_set()))
    await asyncio.sleep(ALONE_SECONDS)
    await worker.put(*entries)
    await worker.until_state(CANARY, "Resident")
    loaded.set()
    await alone
    return await load(worker, SHARE, lambda drawn: len(drawn.pictures) >= PICTURES)


async def one_round(number: int) -> tuple[Drawn, int]:
    """A fresh worker's."""
    with tempfile.TemporaryDirectory(prefix="imagefleet-bench-") as folder:
        async with running_worker(Path(folder), IMAGEFLEET_TORCH_THREADS=THREADS) as worker:
            drawn = await rollout(worker)
    first = drawn.until(CANARY, FIRST)
    whole, begin = (
        drawn.mean(CANARY, until) / drawn.mean(STABLE, until) for until in (len(drawn.pictures), first)
    )
    progress(f"round {number}/{ROUNDS}: {whole:.3f} times the stable one's, the first {begin:.3f} times")
    return drawn, first


def main() -> None:
    """All rounds; of each figure the median."""
    rounds = [asyncio.run(one_round(number)) for number in range(1, ROUNDS + 1)]
    for name, ends in (
        ("canary_latency", [(drawn, len(drawn.pictures)) for drawn, _ in rounds]),
        ("canary_latency_first", rounds),
    ):
        canary, stable = (
            statistics.median(drawn.mean(model, end) for drawn, end in ends) for model in (CANARY, STABLE)
        )
        figure(name, canary, "s", stable)


if __name__ == "__main__":
    main()
