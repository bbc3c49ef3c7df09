"""Pictures as the API sends them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def opened(encoded: str | None) -> Image.Image:
    """A picture of an answer or an event, decoded in full."""
    assert encoded
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    picture.load()
    return picture


def same(one: Image.Image, other: Image.Image) -> bool:
    """Whether two drawings are of the same picture: another batch or process may round a value the other way, which
    makes 1 of 255."""
    first, second = (np.asarray(picture.convert("RGB"), int) for picture in (one, other))
    return first.shape == second.shape and bool(np.abs(first - second).max() <= 1)


def all_same(pictures: Sequence[str], others: Sequence[str]) -> bool:
    """Whether as many pictures, as the API sends them, are the same one by one."""
    return all(same(opened(one), opened(other)) for one, other in zip(pictures, others, strict=True))
