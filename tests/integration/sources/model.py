"""A model as its owner keeps it: the files that a worker needs, among many that it must not read."""

from __future__ import annotations

import json
import random
from pathlib import Path

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.0",
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
LARGE = "unet/diffusion_pytorch_model.safetensors"
LARGE_BYTES = 5 * 1024 * 1024 + 12_345
UNWANTED = {
    ".gitattributes": b"*.safetensors filter=lfs",
    "README.md": b"# A model",
    "v1-5-pruned.safetensors": b"a whole checkpoint",
    "unet/diffusion_pytorch_model.bin": b"a pickle",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"a variant",
    "text_encoder/model.onnx": b"another format",
    "vae_1_0/model.safetensors": b"of no component",
    "logs/notes.txt": b"of no component",
}


def write_model(folder: Path) -> Path:
    """Only the files that a worker needs."""
    weights = random.Random(1)
    files = {
        "model_index.json": json.dumps(INDEX).encode(),
        "scheduler/scheduler_config.json": b"{}",
        "text_encoder/config.json": b"{}",
        "text_encoder/model.safetensors": weights.randbytes(700_001),
        "tokenizer/merges.txt": b"",
        "tokenizer/vocab.json": b'{"a": 0}',
        "unet/config.json": b"{}",
        LARGE: weights.randbytes(LARGE_BYTES),
    }
    return _write(folder, files)


def add_unwanted(folder: Path) -> Path:
    """What else lies in such repositories."""
    return _write(folder, UNWANTED)


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
