import base64
import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker import images
from imagefleet_runtime.worker.images import (
    BadPictureError,
    NotFiniteError,
    decode_base64,
    encode,
    read_mask,
    read_picture,
    to_pixels,
)
from PIL import ExifTags, Image

from tests.unit.worker.pictures import encoded, noise, pixels


def test_floats_become_bytes() -> None:
    drawn = np.array([[[0.0, 0.5, 1.0], [-0.1, 1.1, 0.25]]], dtype=np.float32)
    assert to_pixels(drawn).tolist() == [[[0, 128, 255], [0, 255, 64]]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_an_error_not_black(bad: float) -> None:
    drawn = np.zeros((2, 2, 3))
    drawn[1, 1, 1] = bad
    with pytest.raises(NotFiniteError):
        to_pixels(drawn)


def test_png_keeps_every_pixel() -> None:
    drawn = np.asarray(noise())
    assert (pixels(encode(drawn, "png", None)) == drawn).all()


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_more_compression_gives_fewer_bytes(output_format: str) -> None:
    drawn = np.asarray(noise())
    small, large = (encode(drawn, output_format, quality) for quality in (10, 95))
    assert len(small) < len(large) == len(encode(drawn, output_format, None))
    assert Image.open(io.BytesIO(small)).size == (24, 16)


@given(st.binary(max_size=200))
def test_base64_is_read_back(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data).decode()) == data


def test_long_base64_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BASE64_PART", 8)
    data = bytes(range(100))
    assert decode_base64(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("text", ["a", "aGk", "aG k=", "aGk=\n", "@@@@", "é" * 4])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(BadPictureError, match="base64"):
        decode_base64(text)


@pytest.mark.parametrize("output_format", ["PNG", "JPEG", "WEBP"])
def test_a_plain_picture_goes_on_as_it_came(output_format: str) -> None:
    data = encoded(noise(), output_format)
    picture = read_picture(data)
    assert (picture.data, picture.width, picture.height) == (data, 24, 16)


def test_a_photograph_is_turned_as_its_camera_was_held() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera's right was up
    picture = read_picture(encoded(noise(), "PNG", exif=exif))
    assert (picture.width, picture.height) == (16, 24)
    assert (pixels(picture.data) == np.rot90(np.asarray(noise()), -1)).all()


def test_transparent_parts_of_a_picture_are_white() -> None:
    red_and_clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    red_and_clear.putpixel((1, 0), (0, 0, 255, 0))
    assert pixels(read_picture(encoded(red_and_clear)).data).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_a_palette_with_a_transparent_colour_is_white_there() -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    read = read_picture(encoded(palette, transparency=0))
    assert pixels(read.data).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_grey_of_16_bits_keeps_its_brightness() -> None:
    grey = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    assert pixels(read_picture(encoded(grey)).data).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_cmyk_becomes_rgb() -> None:
    read = read_picture(encoded(noise().convert("CMYK"), "JPEG"))
    assert pixels(read.data).shape == (16, 24, 3)


def test_of_a_file_with_several_photographs_the_first_counts() -> None:
    data = encoded(noise(), "MPO", save_all=True, append_images=[noise(8, 8)])
    assert (read_picture(data).width, read_picture(data).height) == (24, 16)


def animation() -> bytes:
    return encoded(noise(), "WEBP", save_all=True, append_images=[noise().rotate(90)])


def huge() -> bytes:
    """Few bytes, many pixels."""
    return encoded(Image.new("1", (6000, 5000)))


BAD_PICTURES = {
    "no picture": (b"hello", "not a PNG, JPEG or WebP"),
    "nothing": (b"", "not a PNG, JPEG or WebP"),
    "another format": (encoded(noise(), "GIF"), "not a PNG, JPEG or WebP"),
    "a truncated PNG": (encoded(noise())[:-200], "broken"),
    "a truncated JPEG": (encoded(noise(), "JPEG")[:-200], "broken"),
    "a truncated WebP": (encoded(noise(), "WEBP")[:-200], "broken|not a PNG"),
    "an animation": (animation(), "animation"),
    "too many pixels": (huge(), "too many pixels; at most 25,000,000"),
    "a decompression bomb": (encoded(Image.new("1", (16000, 16000))), "too many pixels"),
}


@pytest.mark.parametrize(("data", "why"), BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
@pytest.mark.parametrize("read", [read_picture, read_mask])
def test_a_bad_picture_is_refused_with_the_reason(read: Any, data: bytes, why: str) -> None:
    with pytest.raises(BadPictureError, match=why):
        read(data)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_spoilt_file_is_a_picture_or_refused_and_nothing_else(position: int, value: int) -> None:
    data = bytearray(encoded(noise(), "JPEG"))
    data[position] = value
    with contextlib.suppress(BadPictureError):
        assert read_picture(bytes(data)).width > 0


def rgba(*rows: list[tuple[int, int, int, int]]) -> Image.Image:
    return Image.fromarray(np.array(rows, dtype=np.uint8))


MASKS = {
    "white is drawn anew": (Image.fromarray(np.array([[0, 255]], dtype=np.uint8)), [[0, 255]]),
    "grey is drawn anew in part": (Image.fromarray(np.array([[100, 200]], dtype=np.uint8)), [[100, 200]]),
    "transparent is drawn anew, whatever its colour": (
        rgba([(255, 255, 255, 255), (0, 0, 0, 0)]),
        [[0, 255]],
    ),
    "half transparent in part": (rgba([(0, 0, 0, 55), (0, 0, 0, 255)]), [[200, 0]]),
    "opaque RGBA counts by its brightness": (rgba([(255, 255, 255, 255), (0, 0, 0, 255)]), [[255, 0]]),
    "two colours": (Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1"), [[0, 255]]),
}


@pytest.mark.parametrize(("mask", "want"), MASKS.values(), ids=MASKS.keys())
def test_a_mask_is_grey_and_white_where_it_is_drawn_anew(mask: Image.Image, want: list[list[int]]) -> None:
    read = read_mask(encoded(mask))
    assert pixels(read.data).tolist() == want
    assert (Image.open(io.BytesIO(read.data)).mode, read.width, read.height) == ("L", 2, 1)


@pytest.mark.parametrize(
    "mask", [Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 127)], ids=["black", "dark"]
)
def test_a_mask_that_leaves_nothing_to_draw_is_refused(mask: Image.Image) -> None:
    with pytest.raises(BadPictureError, match="nothing to draw"):
        read_mask(encoded(mask))
