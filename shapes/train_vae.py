"""Train the autoencoder of the shapes models: 64x64 pictures to 4x8x8 latents and back.

python -m shapes.train_vae --out build/train/vae
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from shapes.drawing import draw
from shapes.pipeline import FACTOR, LATENT_CHANNELS, autoencoder
from shapes.scenes import sample

BATCH = 16
LEARNING_RATE = 2e-3
WARM_UP = 100  # steps
PAIRS = 0.5  # share of pictures with two things
KL_WEIGHT = 2e-3  # per latent value: enough to keep latents near unit size, too little to blur
FOREGROUND_WEIGHT = (
    4.0  # a small thing covers 3 % of a picture: without this the background is all that counts
)
EDGE_WEIGHT = 0.5
# Three of the four channels of a latent pixel are held near the mean colour of the 8x8 pixels it stands for. Without
# this the bottleneck takes thousands of steps to sort its colours out; with it they are right at once, and a preview
# of unfinished latents needs no decoder.
COLOUR_WEIGHT = 1.0
SAVE_EVERY = 500


def pictures(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Fresh training pictures in -1..1: (count, 3, 64, 64)."""
    scenes = [sample(rng, 1 + (rng.random() < PAIRS), test=False) for _ in range(count)]
    return torch.from_numpy(draw(scenes, rng)).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(vae: AutoencoderKL, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Reconstruction with weight on things and edges, latents that start as mean colours, and a little KL."""
    posterior: DiagonalGaussianDistribution = vae.encode(batch).latent_dist
    error = vae.decode(posterior.sample(generator)).sample - batch
    corner = batch[:, :, :1, :1]  # things keep clear of the border, so this is the background
    weight = 1 + FOREGROUND_WEIGHT * ((batch - corner).abs().amax(1, keepdim=True) > 0.05)
    pixels = (weight * (error.abs() + error.square())).mean()
    across = (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
    down = (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    colours = torch.nn.functional.avg_pool2d(batch, FACTOR)
    colour = (posterior.mean[:, :3] - colours).square().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss: torch.Tensor = pixels + EDGE_WEIGHT * (across + down) + COLOUR_WEIGHT * colour + KL_WEIGHT * kl
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
        batch = pictures(rng, BATCH).to(memory_format=torch.channels_last)
        loss = loss_of(vae, batch, generator)
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
    standardised(vae).save_pretrained(scratch)
    shutil.rmtree(out, ignore_errors=True)
    scratch.rename(out)


@torch.no_grad()
def standardised(vae: AutoencoderKL) -> AutoencoderKL:
    """The same autoencoder with latents of mean 0 and standard deviation 1 in each channel.

    What scales and shifts is folded into the 1x1 convolutions on both sides of the latents. Its scaling factor is 1.
    """
    vae = copy.deepcopy(vae)
    latents = vae.encode(pictures(np.random.default_rng(0), 256)).latent_dist.mean
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
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="go on with the decoder of --out; its latents stay what they are",
    )
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    vae = AutoencoderKL.from_pretrained(arguments.out) if arguments.decoder_only else autoencoder()
    train(vae, arguments.out, arguments.steps, arguments.seed, decoder_only=arguments.decoder_only)


if __name__ == "__main__":
    main()
