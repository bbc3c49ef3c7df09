"""A plain image server: FastAPI, one diffusers pipeline, one request at a time.

python -m bench._engine_fastapi FOLDER THREADS PORT
"""

import base64
import sys
import threading
from typing import Any

import torch
import uvicorn
from diffusers import StableDiffusionPipeline
from fastapi import FastAPI

from bench._engine_draw import draw_png


def create_app(folder: str) -> FastAPI:
    pipe = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    drawing = threading.Lock()  # pipelines are not thread safe
    app = FastAPI()

    @app.post("/generate")
    def generate(request: dict[str, Any]) -> dict[str, str]:
        with drawing:
            return {"b64_json": base64.b64encode(draw_png(pipe, [request])[0]).decode()}

    return app


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    uvicorn.run(create_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[3]), log_level="warning")
