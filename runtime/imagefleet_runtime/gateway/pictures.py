"""Pictures that callers send: their size, read from the first bytes. Nothing is decompressed here.

Pure.
"""

import re
from collections.abc import Callable, Iterator

import msgspec

from .errors import ApiError, invalid

MAX_SIDE_PIXELS = 16_384
# Segments before a JPEG's size: metadata. The longest known, a colour profile, takes 255.
_MAX_JPEG_SEGMENTS = 4096
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE)
_URL_SHOWN = 100

Buffer = bytes | bytearray


class Picture(msgspec.Struct, frozen=True):
    """An encoded picture as it came, and its size in pixels before any rotation that its metadata asks for."""

    data: Buffer
    width: int
    height: int


class _UnreadableError(ValueError):
    """What is wrong with a picture's header."""


def read_picture(param: str, data: Buffer) -> Picture:
    """Check a picture's header. Raises ApiError (400 `invalid_image`) that names `param`."""
    try:
        width, height = _dimensions(data)
    except _UnreadableError as problem:
        raise _invalid(param, str(problem)) from None
    if not 0 < max(width, height) <= MAX_SIDE_PIXELS or not min(width, height):
        raise _invalid(param, f"it says it is {width}x{height}; each side may be 1 to {MAX_SIDE_PIXELS}")
    return Picture(data, width, height)


def read_data_url(param: str, url: str) -> Picture:
    """The picture in a `data:` URL. Raises ApiError (400 `invalid_image`)."""
    match = _DATA_URL.match(url)
    if match is None:
        raise _invalid(
            param,
            f"'{url[:_URL_SHOWN]}' is not a data: URL in base64, and the gateway fetches nothing. "
            "Send the picture itself, as data:image/png;base64,...",
        )
    return _read_base64(param, url[match.end() :])


def read_text(param: str, text: str) -> Picture:
    """The picture in a `data:` URL or in plain base64. Raises ApiError (400 `invalid_image`)."""
    if ":" in text[:_URL_SHOWN]:
        return read_data_url(param, text)
    return _read_base64(param, text)


def _read_base64(param: str, text: str) -> Picture:
    try:
        # As strict as binascii, and five times as fast.
        data = msgspec.convert(text, bytes)
    except msgspec.ValidationError:
        raise _invalid(param, "it is not valid base64") from None
    return read_picture(param, data)


def _invalid(param: str, problem: str) -> ApiError:
    return invalid("invalid_image", param, f"'{param}' is not a picture that can be read: {problem}.")


def _dimensions(data: Buffer) -> tuple[int, int]:
    """Width and height in pixels. Raises _UnreadableError."""
    for matches, read in _FORMATS:
        if matches(data):
            try:
                return read(data)
            except IndexError:
                raise _UnreadableError("it ends within its header") from None
    raise _UnreadableError("it must be a PNG, JPEG or WebP" if data else "it is empty")


def _is_png(data: Buffer) -> bool:
    return data.startswith(b"\x89PNG\r\n\x1a\n")


def _png(data: Buffer) -> tuple[int, int]:
    """PNG (ISO/IEC 15948): the first chunk is IHDR and begins with width and height."""
    if data[12:16] != b"IHDR":
        raise _UnreadableError("its first chunk is not IHDR")
    return _number(data, 16, 4, "big"), _number(data, 20, 4, "big")


def _is_webp(data: Buffer) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _webp(data: Buffer) -> tuple[int, int]:
    """WebP (RFC 9649): lossy, lossless, or extended with a canvas of its own."""
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return _number(data, 26, 2, "little") & 0x3FFF, _number(data, 28, 2, "little") & 0x3FFF
    if kind == b"VP8L" and data[20:21] == b"\x2f":
        bits = _number(data, 21, 4, "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return _number(data, 24, 3, "little") + 1, _number(data, 27, 3, "little") + 1
    raise _UnreadableError("it is a WebP without a picture")


def _is_jpeg(data: Buffer) -> bool:
    return data.startswith(b"\xff\xd8\xff")


def _jpeg(data: Buffer) -> tuple[int, int]:
    """JPEG (ITU T.81, annex B): the first start-of-frame segment holds height, then width."""
    for marker, at in _jpeg_segments(data):
        if marker in _JPEG_SIZE_MARKERS:
            return _number(data, at + 5, 2, "big"), _number(data, at + 3, 2, "big")
        if marker in (0xD9, 0xDA):
            break
    raise _UnreadableError("it is a JPEG without a size")


def _jpeg_segments(data: Buffer) -> Iterator[tuple[int, int]]:
    """(marker, position of the segment's length) in order, as long as they are well-formed."""
    at = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            at += 2
        else:
            yield marker, at + 2
            at += 2 + _number(data, at + 2, 2, "big")


def _number(data: Buffer, at: int, size: int, order: str) -> int:
    """Raises IndexError where the data ends before it."""
    raw = data[at : at + size]
    if len(raw) < size:
        raise IndexError
    return int.from_bytes(raw, "big" if order == "big" else "little")


_FORMATS: tuple[tuple[Callable[[Buffer], bool], Callable[[Buffer], tuple[int, int]]], ...] = (
    (_is_png, _png),
    (_is_jpeg, _jpeg),
    (_is_webp, _webp),
)
