import json
from typing import Any

import pytest
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.schema import parse

from tests.unit.worker.http_fakes import ask
from tests.unit.worker.pictures import base64_of, noise


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"", "invalid_value", None),
        (b"[]", "invalid_value", None),
        (b'{"prompt": "x"}', "invalid_value", "model"),
        (ask(size="1x1"), "unknown_parameter", "size"),
        (ask(n=True), "invalid_value", "n"),
        (ask(n=129), "invalid_value", "n"),
        (ask(seed=9007199254740992), "invalid_value", "seed"),
        (ask(guidance_scale=float("nan")), "invalid_value", "guidance_scale"),
        (ask(width=1e99), "invalid_value", "width"),
        (ask(strength=0), "invalid_value", "strength"),
        (ask(strength=1.1), "invalid_value", "strength"),
        (ask(control_scale=2.1), "invalid_value", "control_scale"),
        (ask(adapters=[{"name": "pixel"}, {"scale": 1.0}]), "invalid_value", "adapters[1].name"),
        (ask(adapters=[{"name": "pixel", "scale": 11.0}]), "invalid_value", "adapters[0].scale"),
        (ask(adapters=[{"name": "pixel", "weight": 1.0}]), "unknown_parameter", "adapters[0].weight"),
        (ask(priority="urgent"), "invalid_value", "priority"),
        (ask(deadline_seconds=0), "invalid_value", "deadline_seconds"),
        (ask(stream=1), "invalid_value", "stream"),
        (ask(partial_images=4), "invalid_value", "partial_images"),
        (ask(image="@@"), "invalid_image", "image"),
        (ask(image=5), "invalid_image", "image"),
        (ask(image="aGVsbG8="), "invalid_image", "image"),
        (ask(mask=base64_of(noise())[:200]), "invalid_image", "mask"),
        (ask(control_image="aGVsbG8="), "invalid_image", "control_image"),
    ],
)
def test_a_bad_body_is_refused_by_the_name_of_its_field(text: bytes, code: str, param: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        parse(GenerateBody, text)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)


@pytest.mark.parametrize("fields", [{"prompt": ["a secret castle"]}, {"image": "a secret castle"}])
def test_a_refusal_does_not_repeat_what_was_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        parse(GenerateBody, json.dumps({"model": "m", "prompt": "x", **fields}).encode())
    assert "castle" not in refused.value.message


def test_pictures_are_read() -> None:
    body = parse(GenerateBody, ask(image=base64_of(noise()), control_image=base64_of(noise(8, 8), "JPEG")))
    assert body.image is not None
    assert body.control_image is not None
    assert (body.image.width, body.control_image.width, body.mask) == (24, 8, None)


def test_what_is_not_said_is_interactive_and_whole() -> None:
    body = parse(GenerateBody, ask(image=None))
    assert (body.image, body.priority, body.deadline_seconds) == (None, "interactive", None)
    assert (body.stream, body.partial_images, body.adapters) == (False, 0, [])
