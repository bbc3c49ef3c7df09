"""A pipeline of some hundred megabytes with random weights, to measure how fast weights load."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from scripts import demo_model


def write(folder: Path) -> None:
    """Write it to ``folder``: the tiny pipeline with a UNet of about 140 million parameters (float32)."""
    pipe = demo_model.build(seed=1)
    torch.manual_seed(1)
    pipe.register_modules(
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(320, 640),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=demo_model.TEXT_WIDTH,
            attention_head_dim=8,
        )
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
