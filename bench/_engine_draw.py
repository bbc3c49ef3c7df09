"""How the baselines draw: diffusers' pipeline, called as its documentation does, once for requests of equal steps."""

import io
from typing import Any

import torch


def draw_png(pipe: Any, requests: list[dict[str, Any]]) -> list[bytes]:
    """A PNG for each of ``requests`` (prompt, steps, seed), all of which have the same number of steps."""
    images = pipe(
        [request["prompt"] for request in requests],
        num_inference_steps=requests[0]["steps"],
        generator=[torch.Generator("cpu").manual_seed(request["seed"]) for request in requests],
        width=64,
        height=64,
        guidance_scale=5.0,
    ).images
    return [_png(image) for image in images]


def _png(image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=2)
    return stream.getvalue()
