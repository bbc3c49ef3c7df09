"""Draw a grid of pictures, as in docs/images/shapes.png.

python -m shapes.grid --model models/shapes-2 --out docs/images/shapes.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from shapes import pipeline
from shapes.evaluate import pictures

PROMPTS = (
    "a red circle on white",
    "a blue square on gray",
    "a yellow star on black",
    "a green triangle on pink",
    "a large purple circle on white",
    "a small white square on black",
    "a black triangle on gray",
    "a red star on white",
    "a red circle above a blue square on white",
    "a yellow square left of a purple circle on black",
    "a green triangle below a white circle on gray",
    "a blue circle right of a black square on pink",
)
COLUMNS = 4
GAP = 4  # pixels between pictures
SCALE = 2


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/shapes-2"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/shapes.png"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    drawn = pictures(pipeline.load(arguments.model), PROMPTS, seed=arguments.seed)
    framed = np.pad(drawn, ((0, 0), (GAP, 0), (GAP, 0), (0, 0)), constant_values=255)
    rows = [
        np.concatenate(list(framed[start : start + COLUMNS]), axis=1)
        for start in range(0, len(PROMPTS), COLUMNS)
    ]
    grid = Image.fromarray(np.concatenate(rows))
    grid = grid.resize((grid.width * SCALE, grid.height * SCALE), Image.Resampling.LANCZOS)
    grid.save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
