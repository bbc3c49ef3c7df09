import io

import numpy as np
import pytest
from imagefleet_runtime.worker.images import NotFiniteError, encode, to_pixels
from PIL import Image


def test_floats_become_bytes() -> None:
    drawn = np.array([[[0.0, 0.5, 1.0], [-0.1, 1.1, 0.25]]], dtype=np.float32)
    assert to_pixels(drawn).tolist() == [[[0, 128, 255], [0, 255, 64]]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_an_error_not_black(bad: float) -> None:
    drawn = np.zeros((2, 2, 3))
    drawn[1, 1, 1] = bad
    with pytest.raises(NotFiniteError):
        to_pixels(drawn)


def noise() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)


def test_png_keeps_every_pixel() -> None:
    assert (np.asarray(Image.open(io.BytesIO(encode(noise(), "png", None)))) == noise()).all()


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_more_compression_gives_fewer_bytes(output_format: str) -> None:
    small, large = (encode(noise(), output_format, quality) for quality in (10, 95))
    assert len(small) < len(large) == len(encode(noise(), output_format, None))
    assert Image.open(io.BytesIO(small)).size == (24, 16)
