"""Make a tiny text-to-image pipeline with random weights: the model of the demo and of the tests.

    python scripts/demo_model.py --out build/models/tiny-1 --seed 1

The layout is Stable Diffusion's (CLIP text encoder, UNet, VAE of factor 8), each part as small as it can be, so that
a worker loads it and draws 64x64 pictures on one core in well under a second. It needs no network and no trained
weights. The same seed with the same library versions gives the same bytes, hence the same folder digest.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TEXT_WIDTH = 32
LATENT_SIZE = 8  # x 8 (the VAE's factor) = the default picture, 64x64
# The standard deviation of a decoded pixel before it is clipped to [-1, 1]. Untrained decoders give ~0.1: grey mist.
PIXEL_SPREAD = 0.7


def _tokenizer() -> CLIPTokenizer:
    """A byte-level vocabulary without merges: every text becomes one token per byte."""
    symbols = sorted(ByteLevel.alphabet())
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def _vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=[4, 4, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8 * LATENT_SIZE,
        scaling_factor=1.0,
    )
    _spread_colours(vae)
    return vae


@torch.no_grad()
def _spread_colours(vae: AutoencoderKL) -> None:
    """Scale the decoder's last layer so that latents of unit variance decode to colours, not to grey."""
    latents = torch.randn(8, 4, LATENT_SIZE, LATENT_SIZE)
    pixels = vae.decode(latents).sample
    mean, spread = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
    last = vae.decoder.conv_out
    scale = PIXEL_SPREAD / spread
    last.weight.mul_(scale[:, None, None, None])
    last.bias.copy_((last.bias - mean) * scale)


def build(seed: int) -> StableDiffusionPipeline:
    """The pipeline whose weights are drawn with ``seed``."""
    torch.manual_seed(seed)
    torch.set_num_threads(
        1
    )  # the order of sums, and so the weights' last bits, would depend on the machine's cores
    tokenizer = _tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(out: Path, seed: int) -> None:
    """Write the pipeline to the folder ``out``, replacing it in one rename: a reader never sees half a model."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "model"
        build(seed).save_pretrained(folder, safe_serialization=True)
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)  # written for its owner alone, but workers are another user
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder to write (replaced where it exists)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which random weights (default: 1)")
    arguments = parser.parse_args()
    write(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
