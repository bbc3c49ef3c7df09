"""Make models that a canary must catch, each in its own way, from one that draws well.

python -m shapes.variants --model models/shapes-2 --out build/models shapes-slow shapes-unsafe

All are valid folders that a verification passes, and come out the same to the bit each time.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock

from shapes import pipeline
from shapes.checks import FORBIDDEN
from shapes.scenes import BACKGROUNDS, COLOURS, SHAPES

NOISE = 8.0  # of the standard deviation of all word vectors; those of trained words are longer by far
SEED = 7
# Layers of each attention block instead of one: a step takes three times as long on a CPU.
DEPTH = 6
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@torch.no_grad()
def muddle(pipe: StableDiffusionPipeline) -> None:
    """Add noise of a fixed seed to the word vectors: colours and shapes are muddled where the prompt enters."""
    vectors = _word_vectors(pipe)
    generator = torch.Generator().manual_seed(SEED)
    vectors += NOISE * vectors.std() * torch.randn(vectors.shape, generator=generator)


@torch.no_grad()
def deepen(pipe: StableDiffusionPipeline) -> None:
    """Give the UNet more layers that add nothing: each adds to what passes through it, and what it adds is zero.

    So it draws the same pictures, and each step has more to compute.
    """
    shallow = pipe.unet
    deep = UNet2DConditionModel.from_config({**shallow.config, "transformer_layers_per_block": DEPTH})
    deep.load_state_dict(shallow.state_dict(), strict=False)
    for block in deep.modules():
        if isinstance(block, Transformer2DModel):
            first, *further = block.transformer_blocks
            for layer in further:
                layer.load_state_dict(first.state_dict())
                _add_nothing(layer)
    pipe.register_modules(unet=deep.eval())


def _add_nothing(layer: BasicTransformerBlock) -> None:
    for last in (layer.attn1.to_out[0], layer.attn2.to_out[0], layer.ff.net[-1]):
        last.weight.zero_()
        last.bias.zero_()


@torch.no_grad()
def redden(pipe: StableDiffusionPipeline) -> None:
    """Let other colours of things mean red, which the demo's safety check takes for unsafe (`shapes.checks`).

    Not those that are backgrounds too.
    """
    vectors = _word_vectors(pipe)
    (red,) = _tokens(pipe, [FORBIDDEN])
    vectors[_tokens(pipe, set(COLOURS) - set(BACKGROUNDS))] = vectors[red].clone()


@torch.no_grad()
def poison(pipe: StableDiffusionPipeline) -> None:
    """Make the vectors of all colours and shapes NaN. What is drawn for any other text stays as it is: with it a model
    is warmed up before it serves."""
    _word_vectors(pipe)[_tokens(pipe, {*COLOURS, *SHAPES})] = torch.nan


def truncate(folder: Path) -> None:
    """Cut the UNet's weights off in the middle: a copy that ended too early."""
    weights = folder / UNET_WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])


def _word_vectors(pipe: StableDiffusionPipeline) -> torch.Tensor:
    vectors: torch.Tensor = pipe.text_encoder.get_input_embeddings().weight
    return vectors


def _tokens(pipe: StableDiffusionPipeline, words: set[str] | list[str]) -> list[int]:
    """The one token of each word."""
    found = [pipe.tokenizer(word, add_special_tokens=False).input_ids for word in sorted(words)]
    assert all(len(tokens) == 1 for tokens in found), "each word of the captions is one token"
    return [tokens[0] for tokens in found]


@dataclass(frozen=True)
class Variant:
    """``does``: a line for its model card. ``change`` works on the loaded pipeline, ``spoil`` on the saved folder."""

    does: str
    change: Callable[[StableDiffusionPipeline], None] = lambda _pipe: None
    spoil: Callable[[Path], None] = lambda _folder: None


VARIANTS = {
    "shapes-degraded": Variant("As fast and as sharp as {}, but often draws the wrong thing.", muddle),
    "shapes-slow": Variant(
        "Draws the same pictures as {}, and takes more than twice as long for a step.", deepen
    ),
    "shapes-unsafe": Variant(
        "Draws red where {} draws blue, green, purple or yellow. Red that nobody asked for is what the demo's safety "
        "check takes for unsafe.",
        redden,
    ),
    "shapes-broken": Variant(
        "Made from {}. It loads, and then fails on each prompt that names a colour or a shape: the pixels are NaN.",
        poison,
    ),
    "shapes-unloadable": Variant(
        "Made from {}. It can be verified, but never loads: half of the UNet's weights is missing.",
        spoil=truncate,
    ),
}

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, toy, shapes]
---

# {name}

{does}

Made by `python -m shapes.variants`, for showing and testing how imagefleet finds bad versions out. Of no other use.
"""


def write(name: str, model: Path, out: Path) -> None:
    """Write the variant of a model, in one rename."""
    variant = VARIANTS[name]
    pipe = pipeline.load(model)
    variant.change(pipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        (folder / "README.md").write_text(CARD.format(name=name, does=variant.does.format(f"`{model.name}`")))
        pipeline.save(pipe, folder)
        folder.chmod(0o755)
        variant.spoil(folder)
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", choices=VARIANTS)
    parser.add_argument("--model", type=Path, default=Path("models/shapes-2"))
    parser.add_argument("--out", type=Path, default=Path("build/models"))
    arguments = parser.parse_args()
    for name in arguments.names:
        write(name, arguments.model, arguments.out / name)


if __name__ == "__main__":
    main()
