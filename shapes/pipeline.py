"""The parts of a shapes model, untrained, and how they become a folder that diffusers loads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils.logging import disable_progress_bar
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from shapes import tokenizer as words
from shapes.drawing import SIDE

TEXT_WIDTH = 128
disable_progress_bar()

LATENT_CHANNELS = 4  # diffusers' inpainting accepts no other number
FACTOR = 8  # pixels per latent pixel, along each side
STEPS = 16
GUIDANCE = 3.0


def autoencoder() -> AutoencoderKL:
    """Half a million weights, most of them where pictures are small."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 32, 64),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two causal layers over the captions' words."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=words.MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def unet(*, small: bool = False) -> UNet2DConditionModel:
    """Two resolutions, 8x8 and 4x4, with attention to the text at both; the small one has less of it."""
    down = ("DownBlock2D", "DownBlock2D") if small else ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    up = ("CrossAttnUpBlock2D", "UpBlock2D") if small else ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    return UNet2DConditionModel(
        sample_size=SIDE // FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """Predicts velocity, from pure noise: without the zero terminal SNR no background would become white or black."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
    )


def assemble(
    vae: AutoencoderKL, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, denoiser: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """The whole pipeline, without a safety checker: there is nothing to check in shapes."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(folder: Path) -> StableDiffusionPipeline:
    """A shapes model in float32."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write float16 weights as safetensors, readable by all; other files of the folder stay."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    for part in parts.values():
        part.to(torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    for part in parts.values():
        part.to(torch.float32)
    for config in folder.rglob("*.json"):
        _edit(config)
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


def _edit(config: Path) -> None:
    """Forget where parts were loaded from, and let a plain load give float32 in every part.

    transformers loads in the dtype that the configuration names, diffusers in float32.
    """
    content = json.loads(config.read_text())
    for loading in ("_name_or_path", "is_local", "local_files_only"):
        content.pop(loading, None)
    if "dtype" in content:
        content["dtype"] = "float32"
    config.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
