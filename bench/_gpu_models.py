"""Pipelines of true size with random weights, made in the device's memory: nothing is downloaded.

Only what is computed counts here, so tokenizers are the tiny byte-level ones of the demo, whose tokens are all within
the true vocabularies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from scripts import demo_model

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Shape:
    """``full``: as published; else tiny, to try the code on a CPU."""

    name: str
    build: Callable[[bool], Any]
    guidance_scale: float
    steps: int


def _vae(full: bool, channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[128, 256, 512, 512] if full else [4, 4, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2 if full else 1,
        latent_channels=channels,
        norm_num_groups=32 if full else 4,
        shift_factor=0.0,
    )


def _clip(full: bool, width: int, layers: int, *, projection: bool) -> Any:
    tokenizer = demo_model.build(seed=1).tokenizer
    config = CLIPTextConfig(
        vocab_size=49408 if full else len(tokenizer),
        hidden_size=width if full else 32,
        intermediate_size=4 * width if full else 64,
        num_hidden_layers=layers if full else 2,
        num_attention_heads=width // 64 if full else 4,
        projection_dim=width if full else 32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def sdxl(full: bool) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL base 1.0: a UNet of 2.6 billion parameters."""
    tokenizer = demo_model.build(seed=1).tokenizer
    cross = 2048 if full else 64
    return StableDiffusionXLPipeline(
        vae=_vae(full, 4),
        text_encoder=_clip(full, 768, 12, projection=False),
        text_encoder_2=_clip(full, 1280, 32, projection=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=128 if full else 8,
            block_out_channels=(320, 640, 1280) if full else (32, 64),
            layers_per_block=2 if full else 1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")[
                : 3 if full else 2
            ],
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")[0 if full else 1 :],
            transformer_layers_per_block=(1, 2, 10) if full else (1, 1),
            attention_head_dim=(5, 10, 20) if full else 8,
            norm_num_groups=32 if full else 8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256 if full else 8,
            projection_class_embeddings_input_dim=2816 if full else 6 * 8 + 32,
            cross_attention_dim=cross,
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
    )


def flux(full: bool) -> FluxPipeline:
    """FLUX.1-dev: a transformer of 12 billion parameters, and T5 XXL."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), *((letter, -1.0) for letter in "▁adeilcr")]
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(full, 16 if full else 1),
        text_encoder=_clip(full, 768, 12, projection=False),
        tokenizer=demo_model.build(seed=1).tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(
                vocab_size=32128 if full else len(pieces),
                d_model=4096 if full else 32,
                d_kv=64 if full else 8,
                d_ff=10240 if full else 64,
                num_layers=24 if full else 1,
                num_heads=64 if full else 2,
                feed_forward_proj="gated-gelu",
            )
        ),
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=64 if full else 4,
            num_layers=19 if full else 1,
            num_single_layers=38 if full else 1,
            attention_head_dim=128 if full else 16,
            num_attention_heads=24 if full else 2,
            joint_attention_dim=4096 if full else 32,
            pooled_projection_dim=768 if full else 32,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56) if full else (4, 4, 8),
        ),
    )


def z_image(full: bool) -> ZImagePipeline:
    """Z-Image: a single-stream transformer of 6 billion parameters, and Qwen3 4B."""
    symbols = sorted(ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={word: index for index, word in enumerate([*symbols, "<|endoftext|>"])}, merges=[]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    width = 2560 if full else 32
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(full, 16 if full else 4),
        text_encoder=Qwen3Model(
            Qwen3Config(
                vocab_size=151936 if full else len(tokenizer),
                hidden_size=width,
                intermediate_size=9728 if full else 64,
                num_hidden_layers=36 if full else 3,
                num_attention_heads=32 if full else 2,
                num_key_value_heads=8 if full else 2,
                head_dim=128 if full else 16,
            )
        ),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=16 if full else 4,
            dim=3840 if full else 64,
            n_layers=30 if full else 2,
            n_refiner_layers=2 if full else 1,
            n_heads=30 if full else 2,
            n_kv_heads=30 if full else 2,
            cap_feat_dim=width,
            axes_dims=[32, 48, 48] if full else [8, 12, 12],
        ),
    )


SHAPES = (
    Shape("sdxl", sdxl, guidance_scale=5.0, steps=30),
    Shape("flux1-dev", flux, guidance_scale=3.5, steps=28),
    Shape("z-image", z_image, guidance_scale=4.0, steps=28),
)


def build(shape: Shape, device: str, *, full: bool) -> Any:
    """The pipeline, in bfloat16 on a GPU; weights are drawn in the device's memory."""
    torch.manual_seed(1)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            pipe = shape.build(full)
    finally:
        torch.set_default_dtype(before)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, dtype)
