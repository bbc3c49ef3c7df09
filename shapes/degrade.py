"""Make a model that still draws, but often the wrong thing: a version that a canary must catch.

python -m shapes.degrade --model models/shapes-2 --out build/models/shapes-degraded

Colours and shapes are muddled where the prompt enters: the word vectors of the text encoder get noise of a fixed
seed. Everything else stays as it is: pictures stay sharp, the folder stays valid, and only what pictures show tells.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import CLIPTextModel

from shapes import pipeline

NOISE = 8.0  # of the standard deviation of all word vectors; those of trained words are longer by far
SEED = 7


@torch.no_grad()
def muddle(encoder: CLIPTextModel, noise: float = NOISE, seed: int = SEED) -> None:
    """Add noise to the word vectors, the same for the same seed."""
    vectors = encoder.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    vectors += noise * vectors.std() * torch.randn(vectors.shape, generator=generator)


def write(model: Path, out: Path) -> None:
    """Write the degraded copy of a model, in one rename."""
    pipe = pipeline.load(model)
    muddle(pipe.text_encoder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "model"
        pipeline.save(pipe, folder)
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/shapes-2"))
    parser.add_argument("--out", type=Path, default=Path("build/models/shapes-degraded"))
    arguments = parser.parse_args()
    write(arguments.model, arguments.out)


if __name__ == "__main__":
    main()
