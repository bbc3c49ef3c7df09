"""How often a shapes model draws what it is told.

python -m shapes.evaluate models/shapes-2 --count 200
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline

from shapes import pipeline
from shapes.captions import caption
from shapes.scenes import Scene, sample
from shapes.scorer import PASS, Score, score

BATCH = 50


@dataclass(frozen=True)
class Accuracy:
    """So many of so many pictures were right."""

    right: int
    count: int

    @property
    def share(self) -> float:
        """Right over all, 0..1."""
        return self.right / self.count

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson's score interval (Wilson 1927), 95 % by default.

        (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n); 90 of 100 gives 0.826..0.945.
        """
        p, n = self.share, self.count
        centre = p + z * z / (2 * n)
        spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def held_out_prompts(things: int, count: int, seed: int) -> list[tuple[str, Scene]]:
    """Captions of scenes that were never trained, with what they ask for; the same for the same seed."""
    rng = np.random.default_rng(seed)
    scenes = [sample(rng, things, test=True) for _ in range(count)]
    return [(caption(scene, rng), scene) for scene in scenes]


def pictures(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int = pipeline.STEPS,
    guidance: float = pipeline.GUIDANCE,
) -> npt.NDArray[np.uint8]:
    """One picture per prompt, (n, 64, 64, 3); picture i is drawn with seed + i."""
    drawn: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(prompts), BATCH):
        batch = list(prompts[start : start + BATCH])
        seeds = range(seed + start, seed + start + len(batch))
        generators = [torch.Generator().manual_seed(each) for each in seeds]
        images = pipe(
            batch, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        drawn.append(np.rint(images * 255).astype(np.uint8))
    return np.concatenate(drawn)


def scores(
    pipe: StableDiffusionPipeline, asked: Sequence[tuple[str, Scene]], *, seed: int, **how: float
) -> list[Score]:
    """The score of one picture for each prompt."""
    images = pictures(pipe, [prompt for prompt, _ in asked], seed=seed, **how)  # type: ignore[arg-type]
    return [score(image, scene) for image, (_, scene) in zip(images, asked, strict=True)]


def accuracy(results: Sequence[Score], part: str = "") -> Accuracy:
    """Of whole pictures, or of one part such as "colour 1" or "relation" wherever it was asked for."""
    if part:
        right = [result.parts[part] >= PASS for result in results if part in result.parts]
    else:
        right = [result.correct for result in results]
    return Accuracy(sum(right), len(right))


def summary(results: Sequence[Score]) -> dict[str, float]:
    """Share of pictures that are right, as a whole and in each part."""
    names = sorted({name for result in results for name in result.parts})
    return {"correct": accuracy(results).share} | {
        name: round(accuracy(results, name).share, 3) for name in names
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=100, help="pictures of one thing, and again of two")
    parser.add_argument("--steps", type=int, default=pipeline.STEPS)
    parser.add_argument("--guidance", type=float, default=pipeline.GUIDANCE)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pipe = pipeline.load(arguments.model)
    for things in (1, 2):
        asked = held_out_prompts(things, arguments.count, arguments.seed)
        results = scores(pipe, asked, seed=arguments.seed, steps=arguments.steps, guidance=arguments.guidance)
        print(json.dumps({"things": things, "pictures": arguments.count} | summary(results)))


if __name__ == "__main__":
    main()
