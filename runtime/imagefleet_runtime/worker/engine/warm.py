"""Draw each of a model's sizes once before it serves, and measure what steps cost and need."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from imagefleet_runtime.worker.engine.failures import is_out_of_memory
from imagefleet_runtime.worker.engine.meter import Meter
from imagefleet_runtime.worker.engine.pipeline import Pipeline
from imagefleet_runtime.worker.images import to_pixels
from imagefleet_runtime.worker.messages import Draw, SizeProfile, Warmth
from imagefleet_runtime.worker.throughput import LEAST_GAIN

# The first steps pay for what is set up lazily: kernels are chosen, code is compiled.
WARM_UP_STEPS = 2
# Steps of each larger batch: one to warm up, three to measure.
BATCH_STEPS = 4
# Small models are drawn again and again for so long: else all of their steps may fall into another process's turn.
LEAST_SECONDS = 0.1
# The search for larger batches ends after so many that are not worth it: a single one may be another process's doing.
MISSES = 2
# A batch that would be measured for longer is not tried: a model whose step takes seconds fills the device alone.
LONGEST_SECONDS = 20.0

Seconds = TypeVar("Seconds", float, tuple[float, float])


def warm(pipeline: Pipeline, meter: Meter, warmth: Warmth) -> tuple[SizeProfile, ...]:
    """Raises what the first drawing of a size raises, NotFiniteError too: a model that cannot draw its own sizes must
    not serve. Sizes that the pipeline cannot draw are rounded down to what it can."""
    multiple = pipeline.capabilities.size_multiple
    sizes = [tuple(max(side - side % multiple, multiple) for side in size) for size in warmth.sizes]
    return tuple(
        _Warming(pipeline, meter, warmth, width, height).profile() for width, height in dict.fromkeys(sizes)
    )


class _Warming:
    def __init__(self, pipeline: Pipeline, meter: Meter, warmth: Warmth, width: int, height: int) -> None:
        self._pipeline = pipeline
        self._meter = meter
        self._warmth = warmth
        self._draw = Draw(
            id=0,
            prompt="calibration",
            negative_prompt=None,
            width=width,
            height=height,
            steps=warmth.steps,
            guidance_scale=warmth.guidance_scale,
            seed=0,
            output_format="png",
            output_compression=None,
        )

    def profile(self) -> SizeProfile:
        rounds = self._run(1, WARM_UP_STEPS)
        self._meter.reset()
        total, step = self._fastest(1, min(rounds, default=0.0), self._alone)
        fixed = max(total - step * self._draw.steps, 0.0)
        steps, peaks = {1: step}, self._peak(1)
        self._measure_batches(steps, peaks)
        return SizeProfile(
            self._draw.width, self._draw.height, fixed, tuple(steps.items()), tuple(peaks.items())
        )

    def _alone(self) -> tuple[float, float]:
        """Seconds of one picture, and of each of its steps."""
        started = time.monotonic()
        rounds = self._run(1, self._draw.steps)
        total = time.monotonic() - started
        # Pipelines without a shared part have no rounds to see: all their time is taken for steps.
        return total, min(rounds) if rounds else total / self._draw.steps

    def _together(self, batch: int) -> float:
        """Seconds of a step of ``batch`` pictures."""
        # Other work on the machine only ever adds to a step's time: the least is nearest to the truth.
        return min(self._run(batch, BATCH_STEPS)[1:])

    def _fastest(self, batch: int, step_seconds: float, measure: Callable[[], Seconds]) -> Seconds:
        """What ``measure`` gives for the way to draw ``batch`` pictures that is fastest, and from now on used.

        ``step_seconds``: about what a step takes.
        """
        lanes, pixels = self._pipeline.lanes, batch * self._draw.width * self._draw.height
        found = {}
        for split in lanes.candidates(batch, step_seconds):
            lanes.learn(pixels, split)
            found[split] = min(_repeated(measure))
        best = min(found, key=lambda split: found[split])
        lanes.learn(pixels, best)
        return found[best]

    def _measure_batches(self, steps: dict[int, float], peaks: dict[int, int]) -> None:
        """Double the batch while that gains and fits."""
        batch, misses, best = 2, 0, 1 / steps[1]
        while misses < MISSES and self._worth_trying(batch, steps, peaks):
            self._meter.reset()
            try:
                steps[batch] = self._fastest(batch, steps[batch // 2], partial(self._together, batch))
            except Exception as error:
                if is_out_of_memory(error):
                    return
                raise
            peaks.update(self._peak(batch))
            per_second = batch / steps[batch]
            misses = 0 if per_second >= best * LEAST_GAIN else misses + 1
            best = max(best, per_second)
            batch *= 2

    def _worth_trying(self, batch: int, steps: dict[int, float], peaks: dict[int, int]) -> bool:
        return (
            self._pipeline.capabilities.batches
            and batch <= self._warmth.max_batch
            and steps[batch // 2] * 2 * BATCH_STEPS <= LONGEST_SECONDS
            and self._fits(batch, peaks)
        )

    def _fits(self, batch: int, peaks: dict[int, int]) -> bool:
        """Whether ``batch`` should fit, as far as the smaller ones tell: their growth is taken to go on."""
        limit, known = self._warmth.memory_bytes, sorted(peaks.items())
        if limit is None or len(known) < 2:
            return True
        (fewer, less), (more, most) = known[-2:]
        return most + (most - less) / (more - fewer) * (batch - more) <= limit

    def _peak(self, batch: int) -> dict[int, int]:
        peak = self._meter.peak()
        return {} if peak is None else {batch: peak}

    def _run(self, batch: int, steps: int) -> list[float]:
        """Draw ``batch`` pictures side by side; the seconds of each round that all took part in."""
        for number in range(batch):
            self._pipeline.start(replace(self._draw, id=number, steps=steps), lambda _index, _pixels: None)
        seconds: list[float] = []
        while len(self._pipeline.hub):
            started = time.monotonic()
            ended = self._pipeline.hub.round()
            self._pipeline.synchronize()
            if not ended.results:  # the last round also decodes
                seconds.append(time.monotonic() - started)
            for _drawing, drawn in ended.results:
                to_pixels(drawn)
            for _drawing, error in ended.errors:
                self._abandon()
                raise error
        self._pipeline.forget_steps()
        return seconds

    def _abandon(self) -> None:
        for drawing in list(self._pipeline.hub):
            self._pipeline.hub.cancel(drawing.id)
        self._pipeline.hub.round()
        self._pipeline.forget_steps()


def _repeated(measure: Callable[[], Seconds]) -> list[Seconds]:
    """What ``measure`` gives, once and for as long as that is too little to be believed."""
    started = time.monotonic()
    found = [measure()]
    while time.monotonic() - started < LEAST_SECONDS:
        found.append(measure())
    return found
