import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway import images
from imagefleet_runtime.gateway.errors import ApiError

from tests.unit.gateway.builders import make_model

ACCEPTED: dict[str, dict[str, Any]] = {
    "a prompt is enough": {},
    "null is the same as absent": {"n": None, "size": None, "quality": None, "seed": None, "user": None},
    "all of OpenAI's fields": {
        "model": "shapes",
        "n": 2,
        "size": "512x768",
        "quality": "high",
        "response_format": "url",
        "output_format": "webp",
        "output_compression": 80,
        "user": "someone",
    },
    "the extras": {"seed": 0, "negative_prompt": "", "num_inference_steps": 1, "guidance_scale": 0},
    "a whole number as guidance": {"guidance_scale": 5},
    "the largest seed": {"seed": 2**53 - 1},
    "size auto": {"size": "auto"},
    "steps with quality auto": {"num_inference_steps": 5, "quality": "auto"},
    "no-ops that ask for what is done anyway": {
        "background": "opaque",
        "moderation": "low",
        "stream": False,
        "partial_images": 0,
        "style": None,
    },
    "no-ops left to us": {"background": "auto", "moderation": "auto", "stream": None, "partial_images": None},
    "png with full compression": {"output_format": "png", "output_compression": 100},
}

REFUSED: dict[str, tuple[Any, str, str | None]] = {
    "an empty body": (b"", "invalid_json", None),
    "half an object": (b'{"prompt": "a', "invalid_json", None),
    "bytes that are not UTF-8": (b'{"prompt": "\xff\xfe"}', "invalid_json", None),
    "a list": (b"[]", "invalid_type", None),
    "no prompt": (b"{}", "missing_required_parameter", "prompt"),
    "an empty prompt": ({"prompt": ""}, "invalid_value", "prompt"),
    "a null prompt": ({"prompt": None}, "invalid_type", "prompt"),
    "a number as prompt": ({"prompt": 3}, "invalid_type", "prompt"),
    "a prompt without end": ({"prompt": "a" * 32_001}, "invalid_value", "prompt"),
    "an unknown field": ({"strength": 1}, "unknown_parameter", "strength"),
    "a field of the edits endpoint": ({"image": "..."}, "unknown_parameter", "image"),
    "a number as model": ({"model": 1}, "invalid_type", "model"),
    "no image at all": ({"n": 0}, "invalid_value", "n"),
    "half an image": ({"n": 1.5}, "invalid_type", "n"),
    "n as text": ({"n": "2"}, "invalid_type", "n"),
    "true images": ({"n": True}, "invalid_type", "n"),
    "a size that is a word": ({"size": "large"}, "invalid_value", "size"),
    "a size with one side": ({"size": "512"}, "invalid_value", "size"),
    "a size of nothing": ({"size": "0x512"}, "invalid_value", "size"),
    "a negative size": ({"size": "-512x512"}, "invalid_value", "size"),
    "a size beyond any picture": ({"size": "99999x8"}, "invalid_value", "size"),
    "a size as number": ({"size": 512}, "invalid_type", "size"),
    "an unknown quality": ({"quality": "best"}, "invalid_value", "quality"),
    "an unknown response format": ({"response_format": "png"}, "invalid_value", "response_format"),
    "an unknown output format": ({"output_format": "gif"}, "invalid_value", "output_format"),
    "compression over 100": (
        {"output_format": "jpeg", "output_compression": 101},
        "invalid_value",
        "output_compression",
    ),
    "compression of a png": ({"output_compression": 50}, "invalid_value", "output_compression"),
    "a negative seed": ({"seed": -1}, "invalid_value", "seed"),
    "a seed beyond 2**53": ({"seed": 2**53}, "invalid_value", "seed"),
    "a seed as text": ({"seed": "42"}, "invalid_type", "seed"),
    "no steps": ({"num_inference_steps": 0}, "invalid_value", "num_inference_steps"),
    "steps and quality": (
        {"num_inference_steps": 5, "quality": "low"},
        "invalid_value",
        "num_inference_steps",
    ),
    "negative guidance": ({"guidance_scale": -0.1}, "invalid_value", "guidance_scale"),
    "guidance that is not a number": (b'{"prompt": "a", "guidance_scale": NaN}', "invalid_json", None),
    "a transparent background": ({"background": "transparent"}, "unsupported_parameter", "background"),
    "another moderation": ({"moderation": "high"}, "unsupported_parameter", "moderation"),
    "a style": ({"style": "vivid"}, "unsupported_parameter", "style"),
    "more images than a number holds": ({"n": 10**400}, "invalid_value", "n"),
    "more steps than a number holds": (
        {"num_inference_steps": 2**64},
        "invalid_value",
        "num_inference_steps",
    ),
    "a value that speaks of another field": ({"quality": "at `$.evil`"}, "invalid_value", "quality"),
    "a value that speaks of an unknown field": (
        {"quality": "Object contains unknown field `x`"},
        "invalid_value",
        "quality",
    ),
    "a name that speaks of another field": ({"x` - at `$.evil": 1}, "unknown_parameter", "x` - at `$.evil"),
    "a name of two lines": ({"two\nlines": 1}, "unknown_parameter", "two\nlines"),
    "a name without end": ({"x" * 9999: 1}, "unknown_parameter", "x" * 100),
    "streaming": ({"stream": True}, "unsupported_parameter", "stream"),
    "partial images": ({"partial_images": 2}, "unsupported_parameter", "partial_images"),
}


def body_of(fields: Any) -> bytes:
    return fields if isinstance(fields, bytes) else json.dumps({"prompt": "a red circle"} | fields).encode()


@pytest.mark.parametrize("fields", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepts(fields: dict[str, Any]) -> None:
    request = images.decode(body_of(fields))
    assert request.prompt == "a red circle"
    assert {name: getattr(request, name) for name in fields} == fields


@pytest.mark.parametrize(("fields", "want_code", "want_param"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(fields: Any, want_code: str, want_param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        images.decode(body_of(fields))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, want_code, want_param)
    assert want_param is None or want_param in caught.value.message


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words_or_are_a_request(body: bytes) -> None:
    error: ApiError | None = None
    try:
        request = images.decode(body)
    except ApiError as refusal:
        error = refusal
    if error is None:
        assert request.prompt
    else:
        assert error.status == 400
        assert json.loads(error.body())["error"]["message"]


QUALITIES: dict[str, tuple[str | None, int, int, int]] = {
    "absent is the default": (None, 25, 50, 25),
    "auto is the default": ("auto", 25, 50, 25),
    "medium is the default": ("medium", 25, 50, 25),
    "standard is the default": ("standard", 25, 50, 25),
    "low is half, rounded up": ("low", 25, 50, 13),
    "low of one step is one": ("low", 1, 50, 1),
    "high is one and a half, rounded up": ("high", 25, 50, 38),
    "hd is high": ("hd", 20, 50, 30),
    "high stops at maxSteps": ("high", 25, 30, 30),
}


@pytest.mark.parametrize(("quality", "default", "most", "want"), QUALITIES.values(), ids=QUALITIES.keys())
def test_quality_is_a_number_of_steps(quality: str | None, default: int, most: int, want: int) -> None:
    assert images.quality_steps(quality, default, most) == want


LIMITS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "too large": ({"size": "1024x1088"}, "size", "maxMegapixels", "1.1"),
    "too many steps": ({"num_inference_steps": 51}, "num_inference_steps", "maxSteps", "50"),
    "too many images": ({"n": 5}, "n", "maxImages", "4"),
}


@pytest.mark.parametrize(("fields", "param", "limit", "value"), LIMITS.values(), ids=LIMITS.keys())
def test_over_a_limit_of_the_model(fields: dict[str, Any], param: str, limit: str, value: str) -> None:
    request = images.decode(body_of(fields))
    with pytest.raises(ApiError) as caught:
        images.worker_request(request, make_model(), "shapes", seed=1)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "limit_exceeded", param)
    assert limit in caught.value.message
    assert value in caught.value.message


def test_exactly_at_the_limits() -> None:
    request = images.decode(body_of({"size": "1024x1024", "n": 4, "num_inference_steps": 50}))
    sent = images.worker_request(request, make_model(max_megapixels=1.048576), "shapes", seed=1)
    assert (sent.width, sent.height, sent.n, sent.steps) == (1024, 1024, 4, 50)


def test_what_is_absent_is_left_to_the_model() -> None:
    sent = images.worker_request(images.decode(body_of({})), make_model(), "shapes", seed=42)
    assert json.loads(images.encode(sent)) == {
        "model": "shapes-1",
        "pool_model": "shapes",
        "prompt": "a red circle",
        "width": 512,
        "height": 512,
        "seed": 42,
        "quality": "medium",
    }


def test_what_is_given_reaches_the_worker() -> None:
    fields = {
        "n": 2,
        "size": "256x512",
        "quality": "hd",
        "response_format": "url",
        "output_format": "jpeg",
        "output_compression": 70,
        "negative_prompt": "blue",
        "guidance_scale": 0,
        "user": "someone",
    }
    sent = images.worker_request(images.decode(body_of(fields)), make_model(), "shapes", seed=7)
    assert json.loads(images.encode(sent)) == {
        "model": "shapes-1",
        "pool_model": "shapes",
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "n": 2,
        "width": 256,
        "height": 512,
        "steps": 30,
        "guidance_scale": 0,
        "seed": 7,
        "output_format": "jpeg",
        "output_compression": 70,
        "response_format": "url",
        "quality": "high",
    }


def test_work_units_of_the_contracts_example() -> None:
    sent = images.worker_request(images.decode(body_of({})), make_model(), "shapes", seed=1)
    assert math.isclose(images.work_units(sent, make_model()), 10.48576)
    assert math.isclose(images.work_units(sent, make_model()) * 0.011, 0.115, abs_tol=0.0005)


def test_unguided_work_is_half() -> None:
    sent = images.worker_request(
        images.decode(body_of({"guidance_scale": 1})), make_model(), "shapes", seed=1
    )
    assert math.isclose(images.work_units(sent, make_model()), 5.24288)
