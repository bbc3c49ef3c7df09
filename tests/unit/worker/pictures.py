"""Pictures for tests, encoded."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


def noise(width: int = 24, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(picture: Image.Image, output_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, output_format, **options)
    return stream.getvalue()


def base64_of(picture: Image.Image, output_format: str = "PNG", **options: Any) -> str:
    return base64.b64encode(encoded(picture, output_format, **options)).decode()


def pixels(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)))
