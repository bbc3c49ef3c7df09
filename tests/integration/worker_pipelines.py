"""Tiny pipelines of several families, with random weights. Imports torch: import it where it is used."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionInpaintPipeline,
)
from imagefleet_runtime.worker.messages import Generate, Load
from imagefleet_runtime.worker.pipeline import Pipeline
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

from scripts import demo_model

WIDTH = 32  # of the text encoders


def load(folder: Path, class_name: str = "AutoPipelineForText2Image") -> Pipeline:
    return Pipeline.load(Load(str(folder), class_name, "auto", threads=1))


def draw(pipeline: Pipeline, seed: int, width: int = 64, height: int = 64) -> npt.NDArray[np.uint8]:
    request = Generate("a red circle", None, 1, width, height, 2, 5.0, seed, "png", None)
    return pipeline.draw(request, seed, lambda: None)


def write_stable_diffusion(folder: Path) -> None:
    demo_model.write(folder, seed=3)


def write_inpainting(folder: Path) -> None:
    """A folder that was saved from an inpainting pipeline, as many on the hub were."""
    parts = demo_model.build(seed=3).components
    parts.pop("image_encoder")
    StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)


def write_broken(folder: Path) -> None:
    """A pipeline that draws NaN, as float16 does with some VAEs."""
    pipe = demo_model.build(seed=3)
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.fill_(math.nan)
    pipe.save_pretrained(folder)


def write_flux(folder: Path) -> None:
    torch.manual_seed(3)
    tokenizer = demo_model.build(seed=3).tokenizer
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", -2.0),
        *((character, -1.0) for character in "▁adeilcr"),
    ]
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(
            block_out_channels=[4, 4, 8, 8],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            latent_channels=1,
            norm_num_groups=4,
            shift_factor=0.0,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                eos_token_id=tokenizer.eos_token_id,
            )
        ),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(pieces), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
        ),
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=64),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder)
