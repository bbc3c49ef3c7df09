"""Tiny LoRAs with random weights, in diffusers' form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

# Layers of every denoiser's attention, and of a CLIP text encoder's.
DENOISER_LAYERS = ["to_q", "to_v", "to_out.0"]
TEXT_LAYERS = ["q_proj", "v_proj", "out_proj"]
RANK = 2
# Strong enough to be seen in a picture of four steps.
SPREAD = 0.5


def write(model: Path, out: Path, part: str, seed: int) -> None:
    """A LoRA for the pipeline in ``model``, of its ``part``: ``denoiser`` or ``text``."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(model), local_files_only=True)
    if part == "text":
        layers = _layers(pipe.text_encoder, TEXT_LAYERS, seed)
        pipe.save_lora_weights(out, text_encoder_lora_layers=layers)
    elif hasattr(pipe, "unet"):
        pipe.save_lora_weights(out, unet_lora_layers=_layers(pipe.unet, DENOISER_LAYERS, seed))
    else:
        pipe.save_lora_weights(out, transformer_lora_layers=_layers(pipe.transformer, DENOISER_LAYERS, seed))


def write_foreign(out: Path) -> None:
    """A file of weights that belong to no layer of any pipeline."""
    out.mkdir(parents=True)
    save_file({"somewhere.else.lora_A.weight": torch.zeros(2, 2)}, out / "adapter.safetensors")


def _layers(module: Any, targets: list[str], seed: int) -> dict[str, torch.Tensor]:
    module.add_adapter(LoraConfig(r=RANK, target_modules=targets))
    torch.manual_seed(seed)
    return {
        name: torch.randn_like(value) * SPREAD for name, value in get_peft_model_state_dict(module).items()
    }
