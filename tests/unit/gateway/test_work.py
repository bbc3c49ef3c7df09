import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway import images, work
from imagefleet_runtime.gateway.errors import ApiError

from tests.unit.gateway.builders import data_url, encoded, make_model


def asked(**fields: Any) -> work.Request:
    return images.read_generation(json.dumps({"prompt": "a red circle"} | fields).encode())


def edit(own: tuple[int, int], mask: bool = False, **fields: Any) -> work.Request:
    pictures = {"images": [{"image_url": data_url("PNG", own)}]} | (
        {"mask": {"image_url": data_url("PNG", own)}} if mask else {}
    )
    return images.read_edit_json(json.dumps({"prompt": "a red circle"} | pictures | fields).encode())


def planned(request: work.Request, seed: int = 7, **model: Any) -> work.Plan:
    return work.plan(request, make_model(**model), "shapes", seed)


def sent_to_the_worker(request: work.Request, seed: int = 7, **model: Any) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(work.encode(planned(request, seed, **model).body, 0.0))
    return sent


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
    assert work.quality_steps(quality, default, most) == want


LIMITS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "too large": ({"size": "1024x1088"}, "size", "maxMegapixels", "1.1"),
    "too many steps": ({"num_inference_steps": 51}, "num_inference_steps", "maxSteps", "50"),
    "too many images": ({"n": 5}, "n", "maxImages", "4"),
}


@pytest.mark.parametrize(("fields", "param", "limit", "value"), LIMITS.values(), ids=LIMITS.keys())
def test_over_a_limit_of_the_model(fields: dict[str, Any], param: str, limit: str, value: str) -> None:
    with pytest.raises(ApiError) as caught:
        planned(asked(**fields))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "limit_exceeded", param)
    assert limit in caught.value.message
    assert value in caught.value.message


def test_exactly_at_the_limits() -> None:
    request = asked(size="1024x1024", n=4, num_inference_steps=50)
    sent = planned(request, max_megapixels=1.048576).body
    assert (sent.width, sent.height, sent.n, sent.steps) == (1024, 1024, 4, 50)


def test_what_is_absent_is_left_to_the_model() -> None:
    assert sent_to_the_worker(asked(), seed=42) == {
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
        "output_format": "jpeg",
        "output_compression": 70,
        "negative_prompt": "blue",
        "guidance_scale": 0,
        "user": "someone",
        "safety_identifier": "someone",
        "adapters": [{"name": "pixel", "scale": 0.8}, {"name": "ink"}],
        "priority": "batch",
        "stream": True,
        "partial_images": 2,
    }
    assert sent_to_the_worker(asked(**fields), adapters=("pixel", "ink")) == {
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
        "quality": "high",
        "adapters": [{"name": "pixel", "scale": 0.8}, {"name": "ink"}],
        "priority": "batch",
        "stream": True,
        "partial_images": 2,
    }


def test_pictures_reach_the_worker_in_base64() -> None:
    control = encoded("PNG", (64, 64))
    request = asked(control_image=base64.b64encode(control).decode(), control_scale=0.5)
    sent = sent_to_the_worker(request)
    assert base64.b64decode(sent["control_image"]) == control
    assert sent["control_scale"] == 0.5


def test_an_edit_without_a_size_leaves_it_to_the_worker() -> None:
    request = edit((200, 100), mask=True, strength=0.5)
    sent = sent_to_the_worker(request)
    assert base64.b64decode(sent["image"]) == encoded("PNG", (200, 100))
    assert base64.b64decode(sent["mask"]) == encoded("PNG", (200, 100))
    assert sent["strength"] == 0.5
    assert not {"width", "height"} & sent.keys()


def test_an_edit_with_a_size_has_it() -> None:
    sent = planned(edit((200, 100), size="512x256")).body
    assert (sent.width, sent.height) == (512, 256)


def test_a_deadline_counts_from_the_requests_arrival() -> None:
    body = planned(asked(deadline_seconds=10)).body
    assert json.loads(work.encode(body, seconds_passed=4.0))["deadline_seconds"] == 6.0
    assert 0 < json.loads(work.encode(body, seconds_passed=40.0))["deadline_seconds"] < 1
    assert body.deadline_seconds == 10


def test_pictures_that_are_too_large_in_base64(monkeypatch: pytest.MonkeyPatch) -> None:
    body = planned(edit((64, 64))).body
    monkeypatch.setattr(work, "MAX_BODY_BYTES", len(work.encode(body, 0.0)) - 1)
    with pytest.raises(ApiError) as caught:
        work.encode(body, 0.0)
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


MODES: dict[str, tuple[work.Request, str, str | None]] = {
    "drawing": (asked(), "text-to-image", None),
    "editing": (edit((64, 64)), "image-to-image", "image"),
    "inpainting": (edit((64, 64), mask=True), "inpainting", "mask"),
}


@pytest.mark.parametrize(("request_", "mode", "param"), MODES.values(), ids=MODES.keys())
def test_only_a_models_capabilities_are_served(request_: work.Request, mode: str, param: str | None) -> None:
    others = tuple({"text-to-image", "image-to-image", "inpainting"} - {mode})
    assert planned(request_, capabilities=(mode,)).body.model == "shapes-1"
    with pytest.raises(ApiError) as caught:
        planned(request_, capabilities=others)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_mode", param)
    assert mode in caught.value.message
    assert all(other in caught.value.message for other in others)


@pytest.mark.parametrize(("has", "says"), [((), "It has none"), (("ink", "oil"), "It has: ink, oil")])
def test_an_adapter_that_the_model_does_not_have(has: tuple[str, ...], says: str) -> None:
    with pytest.raises(ApiError) as caught:
        planned(asked(adapters=[{"name": "pixel"}]), adapters=has)
    assert (caught.value.code, caught.value.param) == ("adapter_not_found", "adapters")
    assert says in caught.value.message


# Megapixel-steps at 512x512, where a step of one picture is 0.262144.
COSTS: dict[str, tuple[work.Request, float]] = {
    "the contract's example: 20 steps, guided": (asked(), 0.262144 * 20 * 2),
    "unguided work is half": (asked(guidance_scale=1), 0.262144 * 20),
    "two pictures are twice": (asked(n=2), 0.262144 * 20 * 2 * 2),
    "the contract's example of an edit: 16 of 20 steps": (edit((512, 512), strength=0.8), 0.262144 * 16 * 2),
    "an edit's strength is 0.8 unless it says": (edit((512, 512)), 0.262144 * 16 * 2),
    "a mask's strength is 1 unless it says": (edit((512, 512), mask=True), 0.262144 * 20 * 2),
    "a step is drawn at least": (edit((512, 512), strength=0.01), 0.262144 * 1 * 2),
    "part of a step is not drawn": (edit((512, 512), strength=0.79), 0.262144 * 15 * 2),
    "an edit's own size": (edit((256, 512)), 0.131072 * 16 * 2),
    "an edit's own size counts as what the model draws at most": (edit((2048, 1024)), 1.1 * 16 * 2),
    "an edit's given size": (edit((64, 64), size="512x512"), 0.262144 * 16 * 2),
}


@pytest.mark.parametrize(("request_", "want"), COSTS.values(), ids=COSTS.keys())
def test_cost(request_: work.Request, want: float) -> None:
    assert planned(request_).units == pytest.approx(want)


@given(st.integers(1, 500), st.floats(0, 1, exclude_min=True))
def test_an_edit_never_draws_more_steps_than_asked_nor_none(steps: int, strength: float) -> None:
    assert 1 <= work.drawn_steps(edit((64, 64), strength=strength), steps) <= steps
