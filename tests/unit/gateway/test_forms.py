from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway.errors import ApiError
from imagefleet_runtime.gateway.forms import MAX_PARTS, Form

TYPE = b"multipart/form-data; boundary=XX"


def part(name: str, data: bytes, head: str = "", disposition: str = "form-data") -> bytes:
    return (
        f'--XX\r\nContent-Disposition: {disposition}; name="{name}"\r\n{head}\r\n'.encode() + data + b"\r\n"
    )


def read(*chunks: bytes, content_type: bytes = TYPE) -> dict[str, list[bytes]]:
    form = Form(content_type)
    for chunk in chunks:
        form.feed(chunk)
    return {name: [bytes(value) for value in values] for name, values in form.finish().items()}


def test_parts_by_name_in_order() -> None:
    body = part("a", b"1") + part("b", b"") + part("a", b"2", "Content-Type: image/png\r\n") + b"--XX--\r\n"
    assert read(body) == {"a": [b"1", b"2"], "b": [b""]}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=60)), min_size=1, max_size=4),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
)
def test_however_it_is_cut_into_chunks(parts: list[tuple[str, bytes]], lengths: list[int]) -> None:
    parts = [(name, data.replace(b"--XX", b"")) for name, data in parts]
    body = b"".join(part(name, data) for name, data in parts) + b"--XX--"
    chunks, at = [], 0
    for number in range(len(body)):
        length = lengths[number % len(lengths)]
        chunks.append(body[at : at + length])
        at += length
    want: dict[str, list[bytes]] = {}
    for name, data in parts:
        want.setdefault(name, []).append(data)
    assert read(*chunks) == want


BAD: dict[str, tuple[dict[str, Any], bytes]] = {
    "no boundary": ({"content_type": b"multipart/form-data"}, b""),
    "a boundary without end": ({"content_type": TYPE + b"X" * 999}, b""),
    "nothing": ({}, b""),
    "another boundary": ({}, b"--YY\r\n"),
    "no end": ({}, part("a", b"1")),
    "a part without a name": ({}, b"--XX\r\nContent-Type: image/png\r\n\r\n1\r\n--XX--\r\n"),
    "a part that is an attachment": ({}, part("a", b"1", disposition="attachment") + b"--XX--"),
    "a part in base64": ({}, part("a", b"MQ==", "Content-Transfer-Encoding: base64\r\n") + b"--XX--"),
    "a header without end": ({}, part("a", b"1", f"X: {'x' * 9999}\r\n") + b"--XX--"),
    "headers without end": ({}, part("a", b"1", "X: x\r\n" * 99) + b"--XX--"),
    "parts without end": ({}, part("a", b"1") * (MAX_PARTS + 1) + b"--XX--"),
}


@pytest.mark.parametrize(("options", "body"), BAD.values(), ids=BAD.keys())
def test_refuses(options: dict[str, Any], body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read(body, **options)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_form", None)


@given(st.binary(max_size=100), st.binary(max_size=200))
def test_any_bytes_are_refused_in_words_or_are_parts(head: bytes, body: bytes) -> None:
    assert verdict(b"multipart/form-data; boundary=" + head, body) in ("parts", "invalid_form")


@given(
    st.lists(st.sampled_from([b"--XX", b"--XX--", b"\r\n", b"\r\n\r\n", b"a: b", b'name="x"', b"-", b"\0"]))
)
def test_any_shuffled_form_is_refused_in_words_or_is_parts(pieces: list[bytes]) -> None:
    assert verdict(TYPE, b"--XX\r\n" + b"".join(pieces)) in ("parts", "invalid_form")


def verdict(content_type: bytes, body: bytes) -> str:
    try:
        read(body, content_type=content_type)
    except ApiError as error:
        return error.code
    return "parts"
