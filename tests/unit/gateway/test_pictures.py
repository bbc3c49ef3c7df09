import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway.errors import ApiError
from imagefleet_runtime.gateway.pictures import Picture, read_data_url, read_picture, read_text

from tests.unit.gateway.builders import data_url, encoded

SIZE = (37, 21)
PNG = encoded("PNG", SIZE)
JPEG = encoded("JPEG", SIZE)

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "a PNG": ("PNG", {}),
    "a baseline JPEG": ("JPEG", {}),
    "a progressive JPEG": ("JPEG", {"progressive": True}),
    "a JPEG with a profile and a comment": ("JPEG", {"icc_profile": b"p" * 200_000, "comment": b"\xff\xc0"}),
    "a lossy WebP": ("WEBP", {}),
    "a lossless WebP": ("WEBP", {"lossless": True}),
    "an extended WebP": ("WEBP", {"icc_profile": b"p" * 50}),
}


@pytest.mark.parametrize(("form", "options"), KINDS.values(), ids=KINDS.keys())
def test_reads_the_size_of(form: str, options: dict[str, Any]) -> None:
    data = encoded(form, SIZE, **options)
    assert read_picture("image", data) == Picture(data, *SIZE)


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(1, 70), st.integers(1, 70))
def test_reads_any_size(form: str, width: int, height: int) -> None:
    picture = read_picture("image", encoded(form, (width, height)))
    assert (picture.width, picture.height) == (width, height)


BAD: dict[str, bytes] = {
    "nothing": b"",
    "text": b"a red circle",
    "a GIF": encoded("GIF", SIZE),
    "a PNG that ends in its header": PNG[:23],
    "a PNG without a size": PNG[:8] + b"\0\0\0\x0dIDAT" + PNG[16:],
    "a PNG of no width": PNG[:16] + bytes(4) + PNG[20:],
    "a PNG beyond any picture": PNG[:16] + (16_385).to_bytes(4, "big") + PNG[20:],
    "a JPEG that ends before its size": JPEG[:100],
    "a JPEG whose picture comes before its size": b"\xff\xd8\xff\xda\0\x08\x01",
    "a JPEG that loses its way": b"\xff\xd8\xff\xe0\0\x02no",
    "a JPEG of segments without end": b"\xff\xd8" + b"\xff\xe0\0\x02" * 100_000,
    "a WebP that is cut": encoded("WEBP", SIZE)[:27],
    "a WebP of something else": b"RIFF\0\0\0\0WEBPXXXX" + bytes(30),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_refuses(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_picture("mask", data)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_image", "mask")


@given(
    st.sampled_from(
        [b"", PNG[:16], JPEG[:2], b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBPVP8X"]
    ),
    st.binary(max_size=300),
)
def test_any_bytes_are_a_picture_of_some_size_or_refused_in_words(head: bytes, tail: bytes) -> None:
    assert verdict(head + tail) in ("readable", "invalid_image")


@given(st.sampled_from([PNG, JPEG, encoded("WEBP", SIZE)]), st.integers(0, 60), st.integers(0, 255))
def test_a_byte_that_changed_does_no_harm(data: bytes, at: int, value: int) -> None:
    changed = data[:at] + bytes([value]) + data[at + 1 :]
    assert verdict(changed) in ("readable", "invalid_image")


def verdict(data: bytes) -> str:
    """How a picture is received; one that counts as readable has a size."""
    try:
        picture = read_picture("image", data)
    except ApiError as error:
        return error.code
    return "readable" if picture.width * picture.height > 0 else "of no size"


def test_a_data_url() -> None:
    for url in (data_url("PNG", SIZE), data_url("PNG", SIZE).replace("image/png", "image/png;name=a.png")):
        assert read_data_url("image", url) == Picture(PNG, *SIZE)


def test_plain_base64_where_text_is_taken() -> None:
    assert read_text("control_image", base64.b64encode(PNG).decode()) == Picture(PNG, *SIZE)
    assert read_text("control_image", data_url("PNG", SIZE)) == Picture(PNG, *SIZE)


BAD_URLS: dict[str, tuple[str, str]] = {
    "an address": ("https://example.org/cat.png", "fetches nothing"),
    "a file": ("file:///etc/passwd", "fetches nothing"),
    "a data: URL in percents": ("data:image/png,%89PNG", "fetches nothing"),
    "base64 that is none": ("data:image/png;base64,####", "base64"),
    "base64 that is cut": ("data:image/png;base64,iVBOR", "base64"),
    "base64 of two lines": ("data:image/png;base64,iVBO\niVBO", "base64"),
    "base64 that goes on after its end": ("data:image/png;base64,iVA=iVBO", "base64"),
    "base64 that is not ASCII": ("data:image/png;base64,ä", "base64"),
    "text in base64": ("data:image/png;base64,Y2F0", "PNG, JPEG or WebP"),
}


@pytest.mark.parametrize(("url", "says"), BAD_URLS.values(), ids=BAD_URLS.keys())
def test_refuses_the_url(url: str, says: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_data_url("image", url)
    assert caught.value.code == "invalid_image"
    assert says in caught.value.message
