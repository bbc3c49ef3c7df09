"""LitServe with batching: requests that wait at the same time are drawn in one call, as far as their steps agree.

python -m bench._engine_litserve FOLDER THREADS PORT
"""

import base64
import sys
from collections import defaultdict
from typing import Any

import litserve
import torch
from diffusers import StableDiffusionPipeline

from bench._engine_draw import draw_png

MAX_BATCH = 16
# As LitServe's documentation advises for models of some hundred milliseconds.
BATCH_SECONDS = 0.05


class Images(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, folder: str, threads: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_SECONDS, api_path="/generate")
        self.folder = folder
        self.threads = threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self.threads)
        self.pipe = StableDiffusionPipeline.from_pretrained(
            self.folder, use_safetensors=True, local_files_only=True
        )
        self.pipe.set_progress_bar_config(disable=True)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def predict(self, batch: list[dict[str, Any]]) -> list[bytes]:
        by_steps = defaultdict(list)
        for place, request in enumerate(batch):
            by_steps[request["steps"]].append(place)
        drawn: dict[int, bytes] = {}
        for places in by_steps.values():
            drawn.update(zip(places, draw_png(self.pipe, [batch[place] for place in places]), strict=True))
        return [drawn[place] for place in range(len(batch))]

    def encode_response(self, output: bytes) -> dict[str, str]:
        return {"b64_json": base64.b64encode(output).decode()}


if __name__ == "__main__":
    api = Images(sys.argv[1], int(sys.argv[2]))
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[3]), generate_client_file=False, log_level="warning")
