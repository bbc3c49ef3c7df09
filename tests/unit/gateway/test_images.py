import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway import images
from imagefleet_runtime.gateway.errors import ApiError

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
        "style": None,
    },
    "no-ops left to us": {"background": "auto", "moderation": "auto"},
    "no stream": {"stream": False, "partial_images": 0},
    "a stream": {"stream": True, "partial_images": 3, "response_format": "b64_json"},
    "an end user's identifier": {"safety_identifier": "someone"},
    "a class and a deadline": {"priority": "batch", "deadline_seconds": 0.5},
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
    "streaming as text": ({"stream": "true"}, "invalid_type", "stream"),
    "partial images without a stream": ({"partial_images": 2}, "invalid_value", "partial_images"),
    "four partial images": ({"stream": True, "partial_images": 4}, "invalid_value", "partial_images"),
    "a stream of URLs": ({"stream": True, "response_format": "url"}, "invalid_value", "response_format"),
    "another class": ({"priority": "urgent"}, "invalid_value", "priority"),
    "a deadline that has passed": ({"deadline_seconds": 0}, "invalid_value", "deadline_seconds"),
    "a deadline after a week": ({"deadline_seconds": 604_801}, "invalid_value", "deadline_seconds"),
    "an adapter's name alone": ({"adapters": ["pixel"]}, "invalid_type", "adapters"),
    "an adapter without a name": ({"adapters": [{"scale": 1}]}, "invalid_value", "adapters"),
    "an adapter with more": ({"adapters": [{"name": "a", "uri": "b"}]}, "invalid_value", "adapters"),
    "adapters without end": ({"adapters": [{"name": "a"}] * 17}, "invalid_value", "adapters"),
    "an adapter beyond its scale": ({"adapters": [{"name": "a", "scale": 11}]}, "invalid_value", "adapters"),
    "a picture to follow that is none": ({"control_image": "bm9uZQ=="}, "invalid_image", "control_image"),
    "a picture to follow elsewhere": (
        {"control_image": "https://example.org/cat.png"},
        "invalid_image",
        "control_image",
    ),
    "a scale without a picture to follow": ({"control_scale": 1}, "invalid_value", "control_scale"),
}


def body_of(fields: Any) -> bytes:
    return fields if isinstance(fields, bytes) else json.dumps({"prompt": "a red circle"} | fields).encode()


@pytest.mark.parametrize("fields", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepts(fields: dict[str, Any]) -> None:
    request = images.read_generation(body_of(fields)).parameters
    assert request.prompt == "a red circle"
    assert {name: getattr(request, name) for name in fields} == fields


@pytest.mark.parametrize(("fields", "want_code", "want_param"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(fields: Any, want_code: str, want_param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        images.read_generation(body_of(fields))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, want_code, want_param)
    assert want_param is None or want_param in caught.value.message


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words_or_are_a_request(body: bytes) -> None:
    error: ApiError | None = None
    try:
        request = images.read_generation(body)
    except ApiError as refusal:
        error = refusal
    if error is None:
        assert request.parameters.prompt
    else:
        assert error.status == 400
        assert json.loads(error.body())["error"]["message"]
