"""Train the autoencoder of the shapes models: 64x64 pictures to 4x8x8 latents and back.

python -m shapes.train_vae --out build/train/vae
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.nn.functional import avg_pool2d

from shapes.drawing import Placed, cover, layout, render
from shapes.pipeline import FACTOR, LATENT_CHANNELS, autoencoder
from shapes.scenes import Scene, Shape, sample

BATCH = 16
LEARNING_RATE = 2e-3
WARM_UP = 100  # steps
PAIRS = 0.5  # share of pictures with two things
KL_WEIGHT = 2e-3  # per latent value: enough to keep latents near unit size, too little to blur
FOREGROUND_WEIGHT = (
    4.0  # a small thing covers 3 % of a picture: without this the background is all that counts
)
EDGE_WEIGHT = 0.5
GUIDE_WEIGHT = 1.0
# The means of the latents are held near something simple. Three channels: the mean colour of the 8x8 pixels that a
# latent pixel stands for. The fourth: a code of the shape there. A free bottleneck takes thousands of steps to sort its
# colours out; and where only the outline tells a circle from a square, the UNet learns colours and places in minutes
# but shapes in hours, since an outline is a small part of the squared error. A code is as easy to learn as a colour.
COLOUR_MEAN = torch.tensor([0.27, 0.06, 0.14])[:, None, None]
COLOUR_SPREAD = torch.tensor([0.73, 0.61, 0.64])[:, None, None]
SHAPE_CODES: dict[Shape, float] = {"circle": -2.2, "square": 2.2, "triangle": -1.1, "star": 1.1}
LATENT_NOISE = 0.3  # at most: what the UNet draws is never quite what the encoder would have made of it
SAVE_EVERY = 500


@dataclass(frozen=True)
class Batch:
    """Training pictures, and what the means of their latents are held near."""

    pixels: torch.Tensor  # (n, 3, 64, 64) in -1..1
    guide: torch.Tensor  # (n, 4, 8, 8)


def batch_of(rng: np.random.Generator, count: int) -> Batch:
    """Fresh training pictures."""
    scenes = [sample(rng, 1 + (rng.random() < PAIRS), test=False) for _ in range(count)]
    places = [layout(scene, rng) for scene in scenes]
    pixels = torch.from_numpy(render(scenes, places)).permute(0, 3, 1, 2).float() / 127.5 - 1
    colours = (avg_pool2d(pixels, FACTOR) - COLOUR_MEAN) / COLOUR_SPREAD
    shapes = torch.stack([_shape_map(scene, placed) for scene, placed in zip(scenes, places, strict=True)])
    return Batch(pixels.to(memory_format=torch.channels_last), torch.cat([colours, shapes], dim=1))


def _shape_map(scene: Scene, places: Sequence[Placed]) -> torch.Tensor:
    """The code of the thing in each latent pixel of which it covers a quarter, less where less: (1, 8, 8)."""
    maps = []
    for thing, place in zip(scene.things, places, strict=True):
        covered = avg_pool2d(torch.from_numpy(cover(thing.shape, place)).float()[None], FACTOR)
        maps.append(SHAPE_CODES[thing.shape] * (4 * covered).clamp(max=1))
    return torch.stack(maps).sum(0)


def loss_of(vae: AutoencoderKL, batch: Batch, generator: torch.Generator) -> torch.Tensor:
    """Reconstruction from noisy latents with weight on things and edges, guided latents, and a little KL."""
    pixels = batch.pixels
    posterior: DiagonalGaussianDistribution = vae.encode(pixels).latent_dist
    latents = posterior.sample(generator)
    strength = LATENT_NOISE * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    latents = latents + strength * torch.randn(latents.shape, generator=generator)
    error = vae.decode(latents).sample - pixels
    corner = pixels[:, :, :1, :1]  # things keep clear of the border, so this is the background
    weight = 1 + FOREGROUND_WEIGHT * ((pixels - corner).abs().amax(1, keepdim=True) > 0.05)
    likeness = (weight * (error.abs() + error.square())).mean()
    across = (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
    down = (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    guided = (posterior.mean - batch.guide).square().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss: torch.Tensor = likeness + EDGE_WEIGHT * (across + down) + GUIDE_WEIGHT * guided + KL_WEIGHT * kl
    return loss


def train(vae: AutoencoderKL, out: Path, steps: int, seed: int, *, decoder_only: bool) -> None:
    """Train for `steps` and write the autoencoder, at the end and now and then before."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    vae = vae.to(memory_format=torch.channels_last)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    weights = [weight for weight in vae.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARM_UP / steps, cycle_momentum=False
    )
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        loss = loss_of(vae, batch_of(rng, BATCH), generator)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0:
            line = {"step": step, "loss": round(sum(losses) / len(losses), 4)}
            print(json.dumps(line | {"seconds": round(time.monotonic() - started)}), flush=True)
            losses.clear()
        if step % SAVE_EVERY == 0 or step == steps:
            save(vae, out)


def save(vae: AutoencoderKL, out: Path) -> None:
    """Write the autoencoder in one rename, so that a reader never sees half of it."""
    scratch = out.with_name(f".{out.name}")
    standardised(vae, batch_of(np.random.default_rng(0), 256).pixels).save_pretrained(scratch)
    shutil.rmtree(out, ignore_errors=True)
    scratch.rename(out)


@torch.no_grad()
def standardised(vae: AutoencoderKL, pixels: torch.Tensor) -> AutoencoderKL:
    """The same autoencoder with latents of mean 0 and standard deviation 1 in each channel, over pictures
    (``pixels``: n, 3, 64, 64).

    What scales and shifts is folded into the 1x1 convolutions on both sides of the latents. Its scaling factor is 1.
    """
    vae = copy.deepcopy(vae)
    latents = vae.encode(pixels).latent_dist.mean
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= spread[None, :, None, None]
    before.bias[:LATENT_CHANNELS] -= mean
    before.bias[:LATENT_CHANNELS] /= spread
    before.weight[:LATENT_CHANNELS] /= spread[:, None, None, None]
    before.bias[LATENT_CHANNELS:] -= 2 * spread.log()  # of the log variance
    vae.register_to_config(scaling_factor=1.0)
    return vae


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/train/vae"))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="an autoencoder to go on from")
    parser.add_argument("--decoder-only", action="store_true", help="latents stay what they are")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    vae = AutoencoderKL.from_pretrained(arguments.start) if arguments.start else autoencoder()
    train(vae, arguments.out, arguments.steps, arguments.seed, decoder_only=arguments.decoder_only)


if __name__ == "__main__":
    main()
