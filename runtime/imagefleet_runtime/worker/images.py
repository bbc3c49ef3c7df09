"""Pictures as bytes: those that callers send, checked; those that engines draw, encoded."""

from __future__ import annotations

import binascii
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

DEFAULT_QUALITY = 95
# zlib's level 6 takes three times as long for a few per cent on photographs and noise.
PNG_LEVEL = 2
FORMATS = ("PNG", "JPEG", "WEBP")
# More than a camera of 24 megapixels gives, and several times what any model draws. Decoded, such a picture is 100 MB,
# and 225 MB where it is put on white; a bomb would be gigabytes.
MAX_PIXELS = 25_000_000
OPAQUE = 255
# A mask's pixel is drawn anew from here on, as diffusers' pipelines have it.
MASK_THRESHOLD = 128
# Whole groups of four characters. binascii holds Python's lock: other threads run between two parts.
BASE64_PART = 4 * 256 * 1024


class NotFiniteError(Exception):
    """A drawing holds NaN or infinite pixels."""


class BadPictureError(ValueError):
    """Bytes that are not a picture this worker takes; the message says why."""


@dataclass(frozen=True)
class Picture:
    """A checked PNG, JPEG or WebP file of RGB or grey pixels, upright, and its size in pixels."""

    data: bytes
    width: int
    height: int


def decode_base64(text: str) -> bytes:
    """Raises BadPictureError."""
    parts = (text[start : start + BASE64_PART] for start in range(0, len(text), BASE64_PART))
    try:
        return b"".join(binascii.a2b_base64(part, strict_mode=True) for part in parts)
    except ValueError:  # binascii.Error, and characters that are not ASCII
        raise BadPictureError("must be a picture in base64, without line breaks") from None


def read_picture(data: bytes) -> Picture:
    """``data`` as RGB, upright, on white where it is transparent. Raises BadPictureError."""
    return _read(data, _as_rgb)


def read_mask(data: bytes) -> Picture:
    """``data`` as a grey PNG in which white is drawn anew. Raises BadPictureError.

    Where it is transparent anywhere, transparent is drawn anew and opaque is kept, whatever the colours: OpenAI's
    masks. Else its brightness counts.
    """
    return _read(data, _as_mask)


def _read(data: bytes, convert: Callable[[Image.Image], Image.Image]) -> Picture:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_kind(opened)
            opened.load()
            upright = _is_upright(opened)
            if upright and convert is _as_rgb and opened.mode == "RGB" and not opened.has_transparency_data:
                return Picture(data, opened.width, opened.height)
            picture = convert(opened if upright else ImageOps.exif_transpose(opened))
            return Picture(_png(picture), picture.width, picture.height)
    except BadPictureError:
        raise
    except UnidentifiedImageError:
        raise BadPictureError("is not a PNG, JPEG or WebP picture") from None
    except Image.DecompressionBombError:
        raise BadPictureError(_too_large()) from None
    except Exception as error:  # Pillow raises whatever a broken file makes its decoders trip over
        raise BadPictureError(f"is a broken picture: {type(error).__name__}: {error}") from None


def _check_kind(opened: Image.Image) -> None:
    """From the header alone, before any pixel is decoded. Raises BadPictureError."""
    if opened.width * opened.height > MAX_PIXELS:
        raise BadPictureError(_too_large())
    # MPO: a JPEG with more than one picture, as phones and stereo cameras write; its first is the photograph.
    if getattr(opened, "is_animated", False) and opened.format != "MPO":
        raise BadPictureError("is an animation; send one picture of it")


def _too_large() -> str:
    return f"has too many pixels; at most {MAX_PIXELS:,} are taken"


def _is_upright(opened: Image.Image) -> bool:
    return bool(opened.getexif().get(ExifTags.Base.Orientation, 1) == 1)


def _as_rgb(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return _eight_bits(picture).convert("RGB")
    colours = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    on_white = Image.new("RGB", colours.size, "white")
    on_white.paste(colours, mask=colours.getchannel("A"))
    return on_white


def _as_mask(picture: Image.Image) -> Image.Image:
    mask = _eight_bits(picture).convert("L")
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if np.asarray(alpha).min() < OPAQUE:
            mask = ImageOps.invert(alpha)
    if np.asarray(mask).max() < MASK_THRESHOLD:
        raise BadPictureError("leaves nothing to draw: no part of it is white or transparent")
    return mask


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits brought to 8, which Pillow's own conversion would cut off at 255."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def to_pixels(drawn: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Height x width x 3 bytes from floats in [0, 1]. Raises NotFiniteError: a cast would make such pixels black."""
    if not np.isfinite(drawn).all():
        raise NotFiniteError("the pipeline drew pixels that are not numbers (NaN)")
    scaled: npt.NDArray[np.floating] = np.clip(drawn, 0.0, 1.0) * 255
    return scaled.round().astype(np.uint8)


def encode(pixels: npt.NDArray[np.uint8], output_format: str, compression: int | None) -> bytes:
    """``pixels`` as ``png``, ``jpeg`` or ``webp``; ``compression`` (0-100) is the quality of the latter two."""
    picture = Image.fromarray(pixels)
    if output_format == "png":
        return _png(picture)
    stream = io.BytesIO()
    picture.save(
        stream, output_format.upper(), quality=DEFAULT_QUALITY if compression is None else compression
    )
    return stream.getvalue()


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()
