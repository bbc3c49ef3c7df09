"""Train the text encoder and the UNet of a shapes model on cached latents; the autoencoder stays as it is.

python -m shapes.train_unet --vae build/train/vae --out build/train/shapes

Writes `state.pt` (to go on from with --resume), and the averaged weights as a pipeline folder at each evaluation.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

from shapes import pipeline, tokenizer
from shapes.captions import caption
from shapes.drawing import draw
from shapes.evaluate import held_out_prompts, scores, summary
from shapes.scenes import Scene, sample

BATCH = 32
LEARNING_RATE = 1e-3
WARM_UP = 200  # steps
DECAY = 0.4  # share of the run in which the learning rate falls
AVERAGE = 0.998  # decay of the averaged weights per step, after warm-up
# A prompt tells little of a picture's squared error where things are small and noise is low, and a network first learns
# what pays most. So a run starts with mostly single things, more weight on them and more noise, and ends without that
# bias. Each is a course over the run's progress in 0..1, linear in between.
PAIRS = 0.5  # share of pictures with two things among those that are drawn
PAIRS_PROGRESS = (0.3, 0.6), (0.25, 0.45)  # share among those that a batch takes
FOREGROUND_PROGRESS = (0.3, 0.6), (2.0, 1.0)  # weight of a thing's latents
TIME_PROGRESS = (0.3, 0.6), (0.8, 1.0)  # below 1: more steps with much noise, where colours are decided
NO_CAPTION = 0.1  # share of captions left out, for classifier-free guidance
ODD_WORD = 0.1  # share of captions with a word that means nothing, so that unknown words do little harm
EVALUATE_EVERY = 1000
VALIDATION = 60  # pictures each of one and of two things; seed 1000 keeps them apart from the benchmark's


@dataclass(frozen=True)
class Data:
    """Scenes and the scaled latents of one picture of each."""

    scenes: list[Scene]
    latents: torch.Tensor  # (n, 4, 8, 8), float16

    @functools.cached_property
    def rows(self) -> dict[int, npt.NDArray[np.int64]]:
        """The rows of scenes of one thing, under 0, and of two, under 1."""
        count = np.array([len(scene.things) for scene in self.scenes])
        return {0: np.flatnonzero(count == 1), 1: np.flatnonzero(count == 2)}


def encode(vae: AutoencoderKL, count: int, seed: int, cache: Path) -> Data:
    """Draw and encode `count` training pictures, or read the latents that an earlier run left in `cache`."""
    rng = np.random.default_rng(seed)
    scenes = [sample(rng, 1 + (rng.random() < PAIRS), test=False) for _ in range(count)]
    if not cache.exists():
        starts = range(0, count, BATCH)
        parts = [_latents(vae, scenes[start : start + BATCH], rng) for start in starts]
        torch.save(torch.cat(parts), cache)
    return Data(scenes, torch.load(cache, weights_only=True))


@torch.no_grad()
def _latents(vae: AutoencoderKL, scenes: list[Scene], rng: np.random.Generator) -> torch.Tensor:
    pixels = torch.from_numpy(draw(scenes, rng)).permute(0, 3, 1, 2).float() / 127.5 - 1
    pixels = pixels.to(memory_format=torch.channels_last)
    latents: torch.Tensor = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    return latents.half()


def text_of(scene: Scene, rng: np.random.Generator) -> str:
    """A caption to train with: sometimes empty, sometimes with an odd word."""
    if rng.random() < NO_CAPTION:
        return ""
    words = caption(scene, rng).split()
    if rng.random() < ODD_WORD:
        letters = rng.integers(ord("a"), ord("z") + 1, size=int(rng.integers(2, 7)))
        words.insert(int(rng.integers(len(words) + 1)), "".join(map(chr, letters)))
    return " ".join(words)


class Trainer:
    """The networks, their averages, and everything else that a resumed run needs."""

    def __init__(self, steps: int, seed: int, *, small: bool = False) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.steps, self.step = steps, 0
        self.tokenizer: CLIPTokenizer = tokenizer.build()
        self.nets = torch.nn.ModuleDict(
            {"unet": pipeline.unet(small=small), "text": pipeline.text_encoder(self.tokenizer)}
        )
        self.average = copy.deepcopy(self.nets).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.nets.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True
        )
        self.noise: DDIMScheduler = pipeline.scheduler()

    def train_step(self, data: Data) -> float:
        """One step on random pictures; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps)
        loss = self._loss(data)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.nets.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        decay = min(AVERAGE, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.nets.parameters()), 1 - decay)
        return loss.item()

    def _loss(self, data: Data) -> torch.Tensor:
        progress = self.step / self.steps
        rows = self._rows(data, float(np.interp(progress, *PAIRS_PROGRESS)))
        latents = data.latents[rows].float()
        texts = [text_of(data.scenes[row], self.rng) for row in rows]
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        noise = torch.randn_like(latents)
        times = self._times(float(np.interp(progress, *TIME_PROGRESS)))
        noisy = self.noise.add_noise(latents, noise, times)
        context = self.nets["text"](tokens.input_ids).last_hidden_state
        velocity = self.nets["unet"](noisy, times, context).sample
        target = self.noise.get_velocity(latents, noise, times)
        weight = foreground_weight(latents, float(np.interp(progress, *FOREGROUND_PROGRESS)))
        loss: torch.Tensor = (weight * (velocity - target).square()).mean()
        return loss

    def _rows(self, data: Data, pairs: float) -> npt.NDArray[np.int64]:
        """Random pictures, each of two things with the probability `pairs`."""
        groups = data.rows[0], data.rows[1]
        return np.array([self.rng.choice(groups[int(self.rng.random() < pairs)]) for _ in range(BATCH)])

    def _times(self, power: float) -> torch.Tensor:
        """Steps of the noise schedule, spread over the batch; a power below 1 favours much noise."""
        quantiles = ((np.arange(BATCH) + self.rng.random(BATCH)) / BATCH) ** power
        return torch.from_numpy((quantiles * len(self.noise.alphas_cumprod)).astype(np.int64))

    def pipeline(self, vae: AutoencoderKL) -> StableDiffusionPipeline:
        """A pipeline of the averaged weights."""
        nets = copy.deepcopy(self.average).eval()
        return pipeline.assemble(vae, nets["text"], self.tokenizer, nets["unet"])

    def state(self) -> dict[str, object]:
        """What `restore` needs."""
        return {
            "nets": self.nets.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def restore(self, file: Path) -> None:
        """Go on from a state that an earlier run wrote."""
        state = torch.load(file, weights_only=True)
        self.nets.load_state_dict(state["nets"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.rng = np.random.default_rng(self.step)


def foreground_weight(latents: torch.Tensor, weight: float) -> torch.Tensor:
    """`weight` where latents differ from the background's, else 1; scaled to a mean of 1: (n, 1, 8, 8)."""
    corner = latents[:, :, :1, :1]  # things keep clear of the border
    weights = 1 + (weight - 1) * ((latents - corner).abs().amax(1, keepdim=True) > 0.5)
    return weights / weights.mean()


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, constant, and over the last two fifths linear to a hundredth.

    With 10,000 steps: 5e-6 at step 0, 1e-3 from step 199 to 6,000, 5.05e-4 at step 8,000, 1e-5 at the end.
    """
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    left = max(0.0, 1 - step / steps)
    return LEARNING_RATE * (0.01 + 0.99 * min(1.0, left / DECAY))


def validate(pipe: StableDiffusionPipeline) -> dict[str, dict[str, float]]:
    """Shares of held-out captions that are drawn right."""
    return {
        name: summary(scores(pipe, held_out_prompts(things, VALIDATION, seed=1000), seed=1000))
        for things, name in ((1, "one"), (2, "two"))
    }


def train(trainer: Trainer, data: Data, vae: Path, out: Path) -> Iterator[dict[str, object]]:
    """Train to the end; yields what there is to tell about each hundred steps.

    The autoencoder is read again for each evaluation: its decoder may be in training at the same time.
    """
    started, losses = time.monotonic(), []
    while trainer.step < trainer.steps:
        losses.append(trainer.train_step(data))
        if trainer.step % 100 == 0:
            yield {
                "step": trainer.step,
                "loss": round(sum(losses) / len(losses), 4),
                "seconds": round(time.monotonic() - started),
            }
            losses.clear()
        if trainer.step % EVALUATE_EVERY == 0 or trainer.step == trainer.steps:
            pipe = trainer.pipeline(AutoencoderKL.from_pretrained(vae).eval())
            pipeline.save(pipe, out / "model")
            torch.save(trainer.state(), out / "state.pt")
            yield {"step": trainer.step, "held out": validate(pipe)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vae", type=Path, default=Path("build/train/vae"))
    parser.add_argument("--out", type=Path, default=Path("build/train/shapes"))
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--pictures", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="the smaller network, as in shapes-1")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(arguments.steps, arguments.seed, small=arguments.small)
    if arguments.resume:
        trainer.restore(arguments.out / "state.pt")
    vae = AutoencoderKL.from_pretrained(arguments.vae).eval()
    cache = arguments.out / f"latents-{arguments.pictures}-{arguments.seed}.pt"
    data = encode(vae, arguments.pictures, arguments.seed, cache)
    for line in train(trainer, data, arguments.vae, arguments.out):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
