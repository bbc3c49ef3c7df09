"""Bare diffusers, as a script would use it: load a folder, then draw one picture for each line on standard input.

    python -m bench._engine_bare FOLDER THREADS

Prints a JSON line once it has loaded, and one for each picture with the seconds that it took, its PNG included.
"""

import json
import sys
import time

import torch
from diffusers import StableDiffusionPipeline

from bench._engine_draw import draw_png


def main() -> None:
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    pipe = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    print(json.dumps({"loaded": True}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        draw_png(pipe, [json.loads(line)])
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
