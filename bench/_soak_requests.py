"""The requests of the soak, and the pictures that a bare, unshared pipeline draws for them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict

ADAPTERS = ("warm", "cold")
PROMPTS = (
    "a red circle on white",
    "a blue square",
    "a green triangle on black",
    "a red circle above a blue square",
)
SEEDS = range(3)
STEPS = (4, 7, 11)
GUIDANCE = (1.0, 4.0)
SIDE = 64


@dataclass(frozen=True)
class Wanted:
    """One of the pictures that callers ask for again and again."""

    prompt: str
    seed: int
    steps: int
    guidance_scale: float
    adapter: str | None

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": self.prompt,
            "seed": self.seed,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "width": SIDE,
            "height": SIDE,
        }
        return body if self.adapter is None else {**body, "adapters": [{"name": self.adapter, "scale": 1.0}]}


def write_adapters(model: Path, folder: Path) -> dict[str, Path]:
    """A LoRA with random weights for each name of ADAPTERS, strong enough to be seen."""
    pipe = StableDiffusionPipeline.from_pretrained(model, use_safetensors=True, local_files_only=True)
    folders = {}
    for number, name in enumerate(ADAPTERS):
        torch.manual_seed(number)
        pipe.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v", "to_out.0"]), name)
        with torch.no_grad():
            for parameter, values in pipe.unet.named_parameters():
                if "lora_" in parameter and f".{name}." in parameter:
                    values.normal_(std=0.2)
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet, adapter_name=name))
        folders[name] = folder / name
        StableDiffusionPipeline.save_lora_weights(
            folders[name], unet_lora_layers=layers, safe_serialization=True
        )
        for file in folders[name].iterdir():
            file.chmod(0o644)
    return folders


def choose(count: int, chance: random.Random) -> list[Wanted]:
    """``count`` different ones."""
    every = [
        Wanted(prompt, seed, steps, guidance, adapter)
        for prompt in PROMPTS
        for seed in SEEDS
        for steps in STEPS
        for guidance in GUIDANCE
        for adapter in (None, *ADAPTERS)
    ]
    return chance.sample(every, count)


def draw_alone(
    model: Path, adapters: dict[str, Path], wanted: list[Wanted]
) -> dict[Wanted, npt.NDArray[np.uint8]]:
    """What bare diffusers draws for each: one at a time, in a pipeline that nobody else uses."""
    pipe = StableDiffusionPipeline.from_pretrained(model, use_safetensors=True, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for name, folder in adapters.items():
        pipe.load_lora_weights(folder, adapter_name=name, local_files_only=True)
    drawn = {}
    for one in wanted:
        if one.adapter is None:
            pipe.disable_lora()
        else:
            pipe.enable_lora()
            pipe.set_adapters([one.adapter], [1.0])
        drawn[one] = np.asarray(
            pipe(
                one.prompt,
                width=SIDE,
                height=SIDE,
                num_inference_steps=one.steps,
                guidance_scale=one.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(one.seed),
            ).images[0]
        )
    return drawn
