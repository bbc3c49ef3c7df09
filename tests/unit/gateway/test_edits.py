"""What an edit may ask, as a form and as JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway import images
from imagefleet_runtime.gateway.errors import ApiError
from imagefleet_runtime.gateway.parameters import Adapter
from imagefleet_runtime.gateway.pictures import Picture

from tests.unit.gateway.builders import data_url, encoded

PNG = encoded("PNG", (8, 8))
PICTURE = Picture(PNG, 8, 8)
URL = {"image_url": data_url("PNG", (8, 8))}
Parts = dict[str, list[bytes]]


def form(**parts: bytes | list[bytes]) -> dict[str, list[bytearray]]:
    given = {"prompt": b"a red circle", "image": PNG} | parts
    return {
        name: [bytearray(value) for value in ([values] if isinstance(values, bytes) else values)]
        for name, values in given.items()
    }


TYPED: dict[str, tuple[bytes, Any]] = {
    "n": (b"2", 2),
    "seed": (b"0", 0),
    "guidance_scale": (b"2.5", 2.5),
    "num_inference_steps": (b"7", 7),
    "output_compression": (b"100", 100),
    "strength": (b"0.5", 0.5),
    "stream": (b"true", True),
    "partial_images": (b"0", 0),
    "deadline_seconds": (b"9", 9.0),
    "priority": (b"batch", "batch"),
    "size": (b"512x256", "512x256"),
    "model": ("färben".encode(), "färben"),
    "prompt": (b"42", "42"),
    "input_fidelity": (b"low", "low"),
    "background": (b"auto", "auto"),
    "user": (b"someone", "someone"),
    "adapters": (b'[{"name": "pixel", "scale": 0.8}]', [Adapter("pixel", 0.8)]),
}


@pytest.mark.parametrize(("name", "text", "want"), [(n, *row) for n, row in TYPED.items()], ids=TYPED.keys())
def test_a_forms_text_has_the_parameters_type(name: str, text: bytes, want: Any) -> None:
    assert getattr(images.read_edit_form(form(**{name: text})).parameters, name) == want


PICTURES: dict[str, tuple[dict[str, Any], Picture | None]] = {
    "one picture": ({}, None),
    "a list of one picture": ({"image": [], "image[]": PNG}, None),
    "a picture and its mask": ({"mask": PNG}, PICTURE),
    "a data: URL": ({"image": URL["image_url"].encode()}, None),
}


@pytest.mark.parametrize(("parts", "mask"), PICTURES.values(), ids=PICTURES.keys())
def test_pictures_of_a_form(parts: dict[str, Any], mask: Picture | None) -> None:
    request = images.read_edit_form(form(**parts))
    assert (request.image, request.mask) == (PICTURE, mask)


BRACKETS: dict[str, tuple[list[bytes], list[bytes], list[Adapter]]] = {
    "names alone": ([b"a", b"b"], [], [Adapter("a"), Adapter("b")]),
    "names and scales": ([b"a", b"b"], [b"0.5", b"-1"], [Adapter("a", 0.5), Adapter("b", -1)]),
}


@pytest.mark.parametrize(("names", "scales", "want"), BRACKETS.values(), ids=BRACKETS.keys())
def test_adapters_as_the_openai_client_writes_them(
    names: list[bytes], scales: list[bytes], want: list[Adapter]
) -> None:
    brackets = {"adapters[][name]": names} | ({"adapters[][scale]": scales} if scales else {})
    assert images.read_edit_form(form(**brackets)).parameters.adapters == want


REFUSED_FORMS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no prompt": ({"prompt": []}, "missing_required_parameter", "prompt"),
    "an empty prompt": ({"prompt": b""}, "invalid_value", "prompt"),
    "two prompts": ({"prompt": [b"a", b"b"]}, "invalid_value", "prompt"),
    "a prompt without end": ({"prompt": b"a" * 200_000}, "invalid_value", "prompt"),
    "a prompt of too many characters": ({"prompt": b"a" * 32_001}, "invalid_value", "prompt"),
    "a prompt that is not UTF-8": ({"prompt": b"\xff"}, "invalid_value", "prompt"),
    "no picture": ({"image": []}, "missing_required_parameter", "image"),
    "two pictures": ({"image": [PNG, PNG]}, "unsupported_parameter", "image"),
    "a list of two pictures": ({"image": [], "image[]": [PNG, PNG]}, "unsupported_parameter", "image"),
    "two masks": ({"mask": [PNG, PNG]}, "unsupported_parameter", "mask"),
    "a picture that is text": ({"image": b"cat"}, "invalid_image", "image"),
    "a picture elsewhere": ({"image": b"https://example.org/cat.png"}, "invalid_image", "image"),
    "an empty mask": ({"mask": b""}, "invalid_image", "mask"),
    "a count that is text": ({"n": b"two"}, "invalid_type", "n"),
    "a count that is nothing": ({"n": b""}, "invalid_type", "n"),
    "a seed below 0": ({"seed": b"-1"}, "invalid_value", "seed"),
    "guidance that is not a number": ({"guidance_scale": b"nan"}, "invalid_value", "guidance_scale"),
    "no strength": ({"strength": b"0"}, "invalid_value", "strength"),
    "more than all": ({"strength": b"1.01"}, "invalid_value", "strength"),
    "a strength that is not a number": ({"strength": b"nan"}, "invalid_value", "strength"),
    "a high fidelity": ({"input_fidelity": b"high"}, "unsupported_parameter", "input_fidelity"),
    "a transparent background": ({"background": b"transparent"}, "unsupported_parameter", "background"),
    "partial images without a stream": ({"partial_images": b"1"}, "invalid_value", "partial_images"),
    "an unknown field": ({"sharpness": b"1"}, "unknown_parameter", "sharpness"),
    "a field of generations": ({"style": b"vivid"}, "unknown_parameter", "style"),
    "adapters that are not JSON": ({"adapters": b"pixel"}, "invalid_value", "adapters"),
    "adapters that are no list": ({"adapters": b'{"name": "pixel"}'}, "invalid_type", "adapters"),
    "an adapter of infinite scale": (
        {"adapters[][name]": b"a", "adapters[][scale]": b"inf"},
        "invalid_value",
        "adapters",
    ),
    "a scale for one of two adapters": (
        {"adapters[][name]": [b"a", b"b"], "adapters[][scale]": b"1"},
        "invalid_value",
        "adapters",
    ),
}


@pytest.mark.parametrize(("parts", "code", "param"), REFUSED_FORMS.values(), ids=REFUSED_FORMS.keys())
def test_refuses_a_form_with(parts: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        images.read_edit_form({name: values for name, values in form(**parts).items() if values})
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert param in caught.value.message


def json_edit(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a red circle", "images": [URL]} | fields).encode()


def test_json() -> None:
    request = images.read_edit_json(json_edit(mask=URL, strength=0.5, seed=3, user=None))
    assert (request.image, request.mask, request.strength) == (PICTURE, PICTURE, 0.5)
    assert request.parameters.seed == 3


REFUSED_JSON: dict[str, tuple[dict[str, Any], str, str]] = {
    "no picture": ({"images": None}, "missing_required_parameter", "images"),
    "an empty list": ({"images": []}, "missing_required_parameter", "images"),
    "two pictures": ({"images": [URL, URL]}, "unsupported_parameter", "images"),
    "a form's name": ({"image": URL["image_url"]}, "unknown_parameter", "image"),
    "a picture elsewhere": ({"images": [{"image_url": "http://a/b.png"}]}, "invalid_image", "images"),
    "a stored file": ({"images": [{"file_id": "file-1"}]}, "unsupported_parameter", "images"),
    "a stored mask": ({"mask": {"file_id": "file-1"}}, "unsupported_parameter", "mask"),
    "a mask that is text": ({"mask": "data:..."}, "invalid_type", "mask"),
    "a reference with more": ({"images": [URL | {"detail": "high"}]}, "invalid_value", "images"),
    "a strength as text": ({"strength": "0.5"}, "invalid_type", "strength"),
}


@pytest.mark.parametrize(("fields", "code", "param"), REFUSED_JSON.values(), ids=REFUSED_JSON.keys())
def test_refuses_json_with(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        images.read_edit_json(json_edit(**fields))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert param in caught.value.message


NAMES = st.sampled_from([*images.Edit.__struct_fields__, "image", "image[]", "mask", "adapters[][name]", "x"])


@given(st.dictionaries(NAMES, st.lists(st.binary(max_size=20), min_size=1, max_size=2), max_size=5))
def test_any_form_is_a_request_or_refused_in_words(parts: Parts) -> None:
    assert verdict(form(**parts)) in (200, 400)


def verdict(parts: dict[str, list[bytearray]]) -> int:
    try:
        request = images.read_edit_form(parts)
    except ApiError as error:
        return error.status if error.message else 0
    return 200 if request.image else 0
