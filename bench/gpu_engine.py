"""The engine with models of true size on a GPU: alone, batched at step level, swapped, and against its prediction.

    make bench NAME=gpu_engine [TINY=1]

Pipelines have random weights (SDXL, FLUX.1-dev and Z-Image shapes, bfloat16), so nothing is downloaded. Where there is
no CUDA GPU it says so and ends; TINY=1 tries the same code with tiny shapes on whatever there is. Prints JSON lines.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from imagefleet_runtime.worker import messages
from imagefleet_runtime.worker.checkpoint import LIMIT_BYTES
from imagefleet_runtime.worker.engine.meter import Meter
from imagefleet_runtime.worker.engine.pipeline import Pipeline
from imagefleet_runtime.worker.engine.warm import warm
from imagefleet_runtime.worker.footprint import Footprint

from bench import _gpu_models as models
from bench.report import figure, progress

TINY = bool(os.environ.get("TINY"))
ROUNDS = 3
BATCH = 8
BATCHED_PICTURES = 16


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def side(pixels: int) -> int:
    return pixels // 8 if TINY else pixels


def draw(shape: models.Shape, number: int, pixels: int) -> messages.Draw:
    return messages.Draw(
        id=number,
        prompt="a red circle",
        negative_prompt=None,
        width=side(pixels),
        height=side(pixels),
        steps=4 if TINY else shape.steps,
        guidance_scale=shape.guidance_scale,
        seed=number,
        output_format="png",
        output_compression=None,
    )


def seconds(pipeline: Pipeline, draws: list[messages.Draw], at_once: int) -> float:
    """Seconds until all ``draws`` are pictures, ``at_once`` of them in the hub at any time."""
    waiting = list(draws)
    pipeline.synchronize()
    started = time.perf_counter()
    while waiting or len(pipeline.hub):
        while waiting and len(pipeline.hub) < at_once:
            pipeline.start(waiting.pop(0), lambda _index, _pixels: None)
        for _drawing, error in pipeline.hub.round().errors:
            raise error
    pipeline.synchronize()
    return time.perf_counter() - started


def bare_seconds(pipe: Any, wanted: messages.Draw) -> float:
    """The same picture by a plain call of diffusers' pipeline."""
    started = time.perf_counter()
    pipe(
        wanted.prompt,
        width=wanted.width,
        height=wanted.height,
        num_inference_steps=wanted.steps,
        guidance_scale=wanted.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(wanted.seed),
        output_type="np",
    )
    return time.perf_counter() - started


def measure(shape: models.Shape) -> None:
    progress(f"{shape.name}: making the weights")
    pipe = models.build(shape, device(), full=not TINY)
    order = messages.Load("", messages.Options(), torch.get_num_threads(), _warmth(shape))
    pipeline = Pipeline(pipe, device(), order)
    meter = Meter(device())
    weights_bytes = meter.now()
    profiles = warm(pipeline, meter, order.warmth)
    for profile in profiles:
        progress(f"{shape.name}: {profile}")
    _alone(shape, pipe, pipeline)
    _batched(shape, pipeline)
    _kept(shape, pipeline)
    _memory(shape, pipeline, meter, Footprint(weights_bytes, profiles))
    _swap(shape, pipe)


def _warmth(shape: models.Shape) -> messages.Warmth:
    sizes = tuple((side(pixels), side(pixels)) for pixels in (512, 1024))
    return messages.Warmth(sizes, 4, shape.guidance_scale, BATCH, None)


def _alone(shape: models.Shape, pipe: Any, pipeline: Pipeline) -> None:
    wanted = draw(shape, 1, 1024)
    ours, bare = [], []
    for _round in range(ROUNDS):
        ours.append(seconds(pipeline, [wanted], 1))
        bare.append(bare_seconds(pipe, wanted))
    figure(f"{shape.name}_seconds_per_picture_1024", statistics.median(ours), "s", statistics.median(bare))


def _kept(shape: models.Shape, pipeline: Pipeline) -> None:
    """A picture whose answers are kept, so that it can be interrupted, beside one whose answers are not."""
    wanted = draw(shape, 1, 1024)
    kept, plain = [], []
    for _round in range(ROUNDS):
        kept.append(seconds(pipeline, [replace(wanted, record_bytes=LIMIT_BYTES)], 1))
        plain.append(seconds(pipeline, [wanted], 1))
    figure(f"{shape.name}_recording_seconds_1024", statistics.median(kept), "s", statistics.median(plain))


def _batched(shape: models.Shape, pipeline: Pipeline) -> None:
    """Requests of mixed steps at 512x512: together, beside one after the other."""
    wanted = [draw(shape, number, 512) for number in range(BATCHED_PICTURES)]
    wanted = [replace(one, steps=max(one.steps - number % 4 * 4, 1)) for number, one in enumerate(wanted)]
    together, alone = [], []
    for _round in range(ROUNDS):
        together.append(len(wanted) / seconds(pipeline, wanted, BATCH))
        alone.append(len(wanted) / seconds(pipeline, wanted, 1))
    figure(
        f"{shape.name}_images_per_second_512",
        statistics.median(together),
        "images/s",
        statistics.median(alone),
    )


def _memory(shape: models.Shape, pipeline: Pipeline, meter: Meter, known: Footprint) -> None:
    """The peak of two pictures of a size that was not measured, beside what the worker would predict for it."""
    pixels = side(768)
    wanted = [draw(shape, number, 768) for number in range(2)]
    predicted = known.peak(pixels, pixels, len(wanted))
    meter.reset()
    seconds(pipeline, wanted, len(wanted))
    peak = meter.peak()
    if peak is None or predicted is None:
        progress(f"{shape.name}: no peaks can be measured here")
        return
    figure(f"{shape.name}_peak_memory", peak, "bytes", predicted)


def _swap(shape: models.Shape, pipe: Any) -> None:
    """From the host's memory to the accelerator's, as when one of two models that are held on the host takes over;
    beside one copy of as many bytes."""
    if device() != "cuda":
        return
    pipe.to("cpu")
    gc.collect()
    torch.cuda.empty_cache()
    size = sum(
        parameter.numel() * parameter.element_size()
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for parameter in part.parameters()
    )
    started = time.perf_counter()
    pipe.to("cuda")
    torch.cuda.synchronize()
    took = time.perf_counter() - started
    pipe.to("cpu")
    torch.cuda.empty_cache()
    source = torch.empty(min(size, 4 * 2**30), dtype=torch.uint8)
    started = time.perf_counter()
    source.to("cuda")
    torch.cuda.synchronize()
    figure(f"{shape.name}_swap", took, "s", (time.perf_counter() - started) * size / source.numel())


def main() -> None:
    torch.set_grad_enabled(False)
    if device() != "cuda" and not TINY:
        progress(
            "gpu_engine: there is no CUDA GPU here, so nothing was measured; TINY=1 tries the code without one"
        )
        return
    for shape in models.SHAPES:
        measure(shape)
        gc.collect()
        if device() == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
