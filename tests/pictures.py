"""Pictures as the API sends them."""

from __future__ import annotations

import base64
import io

from PIL import Image


def opened(encoded: str | None) -> Image.Image:
    """A picture of an answer or an event, decoded in full."""
    assert encoded
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    picture.load()
    return picture
