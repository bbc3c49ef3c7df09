"""Pictures as bytes."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

DEFAULT_QUALITY = 95
# zlib's level 6 takes three times as long for a few per cent on photographs and noise.
PNG_LEVEL = 2


class NotFiniteError(Exception):
    """A drawing holds NaN or infinite pixels."""


def to_pixels(drawn: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Height x width x 3 bytes from floats in [0, 1]. Raises NotFiniteError: a cast would make such pixels black."""
    if not np.isfinite(drawn).all():
        raise NotFiniteError("the pipeline drew pixels that are not numbers (NaN)")
    scaled: npt.NDArray[np.floating] = np.clip(drawn, 0.0, 1.0) * 255
    return scaled.round().astype(np.uint8)


def encode(pixels: npt.NDArray[np.uint8], output_format: str, compression: int | None) -> bytes:
    """``pixels`` as ``png``, ``jpeg`` or ``webp``; ``compression`` (0-100) is the quality of the latter two."""
    picture = Image.fromarray(pixels)
    stream = io.BytesIO()
    if output_format == "png":
        picture.save(stream, "PNG", compress_level=PNG_LEVEL)
    else:
        picture.save(
            stream, output_format.upper(), quality=DEFAULT_QUALITY if compression is None else compression
        )
    return stream.getvalue()
