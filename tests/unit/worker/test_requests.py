from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.messages import Capabilities
from imagefleet_runtime.worker.policy import GenerateBody, ModelPolicy, Policy, parse
from imagefleet_runtime.worker.requests import check_supported, resolve, units

ENTRY = ModelPolicy.model_validate(
    {
        "model": "shapes-1",
        "path": "/models/shapes-1",
        "digest": "sha256:" + "0" * 64,
        "defaults": {"steps": 20, "guidanceScale": 5.0, "size": "512x384"},
        "limits": {"maxMegapixels": 1.1, "maxSteps": 50, "maxImages": 4},
    }
)
PIPELINE = Capabilities(
    class_name="StableDiffusionPipeline",
    size_multiple=8,
    parameters=frozenset({"prompt", "num_inference_steps", "guidance_scale"}),
    negative_prompt=True,
)


def body(**fields: Any) -> GenerateBody:
    return GenerateBody.model_validate({"model": "shapes-1", "prompt": "x", **fields})


def test_what_the_caller_leaves_out_is_the_models_default() -> None:
    drawing = resolve(body(), ENTRY, random_seed=7)
    assert (drawing.width, drawing.height, drawing.steps) == (512, 384, 20)
    assert (drawing.guidance_scale, drawing.seed, drawing.n) == (5.0, 7, 1)


def test_what_the_caller_gives_is_used() -> None:
    given_ = body(width=64, height=32, steps=3, guidance_scale=0.0, seed=0, n=2)
    drawing = resolve(given_, ENTRY, random_seed=7)
    assert (drawing.width, drawing.height, drawing.steps) == (64, 32, 3)
    assert (drawing.guidance_scale, drawing.seed, drawing.n) == (0.0, 0, 2)


def test_guidance_doubles_the_units() -> None:
    guided, unguided = (resolve(body(guidance_scale=scale), ENTRY, 0) for scale in (5.0, 1.0))
    assert units(guided) == pytest.approx(2 * units(unguided)) == pytest.approx(2 * 0.512 * 0.384 * 20)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"steps": 51}, "num_inference_steps"),
        ({"n": 5}, "n"),
        ({"width": 1100, "height": 1001}, "size"),
    ],
)
def test_more_than_the_limits_is_refused_not_clamped(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError, match="allows") as refused:
        resolve(body(**fields), ENTRY, 0)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "limit_exceeded", param)


@pytest.mark.parametrize("fields", [{"steps": 50}, {"n": 4}, {"width": 1100, "height": 1000}])
def test_the_limits_themselves_are_allowed(fields: dict[str, Any]) -> None:
    resolve(body(**fields), ENTRY, 0)


def test_a_model_without_limits_has_none() -> None:
    entry = ENTRY.model_copy(update={"limits": type(ENTRY.limits)()})
    assert resolve(body(steps=5000, n=99), entry, 0).steps == 5000


@pytest.mark.parametrize(
    ("fields", "pipeline", "code", "param"),
    [
        ({"width": 60, "height": 64}, {}, "size_not_supported", "size"),
        ({"width": 64, "height": 60}, {}, "size_not_supported", "size"),
        ({"width": 72, "height": 64}, {"size_multiple": 16}, "size_not_supported", "size"),
        ({"steps": 3}, {"parameters": frozenset({"prompt"})}, "unsupported_parameter", "num_inference_steps"),
        (
            {"guidance_scale": 3.0},
            {"parameters": frozenset({"prompt"})},
            "unsupported_parameter",
            "guidance_scale",
        ),
        ({"negative_prompt": "x"}, {"negative_prompt": False}, "unsupported_parameter", "negative_prompt"),
        ({"negative_prompt": "x", "guidance_scale": 1.0}, {}, "unsupported_parameter", "negative_prompt"),
    ],
)
def test_what_the_pipeline_cannot_honour_is_refused(
    fields: dict[str, Any], pipeline: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(ApiError) as refused:
        check_supported(body(**fields), resolve(body(**fields), ENTRY, 0), replace(PIPELINE, **pipeline))
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)


@pytest.mark.parametrize(
    ("fields", "pipeline"),
    [
        ({}, {}),
        ({"negative_prompt": ""}, {"negative_prompt": False}),
        ({"negative_prompt": "x"}, {}),
        ({}, {"parameters": frozenset({"prompt"})}),  # the model's defaults are no wish of the caller's
    ],
)
def test_what_the_pipeline_can_honour_passes(fields: dict[str, Any], pipeline: dict[str, Any]) -> None:
    check_supported(body(**fields), resolve(body(**fields), ENTRY, 0), replace(PIPELINE, **pipeline))


@given(st.integers(1, 4096), st.sampled_from([8, 16, 32]))
def test_the_sizes_that_a_refusal_names_work(width: int, multiple: int) -> None:
    entry = ENTRY.model_copy(update={"limits": type(ENTRY.limits)()})
    pipeline = replace(PIPELINE, size_multiple=multiple)

    def check(side: int) -> None:
        asked = body(width=side, height=multiple)
        check_supported(asked, resolve(asked, entry, 0), pipeline)

    try:
        check(width)
    except ApiError as refused:
        for word in refused.message.partition("work: ")[2].split(" or "):
            check(int(word))
            assert abs(int(word) - width) < multiple


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"", "invalid_value", None),
        (b"[]", "invalid_value", None),
        (b'{"prompt": "x"}', "invalid_value", "model"),
        (b'{"model": "m", "prompt": "x", "size": "1x1"}', "unknown_parameter", "size"),
        (b'{"model": "m", "prompt": "x", "n": true}', "invalid_value", "n"),
        (b'{"model": "m", "prompt": "x", "seed": 9007199254740992}', "invalid_value", "seed"),
        (b'{"model": "m", "prompt": "x", "guidance_scale": NaN}', "invalid_value", "guidance_scale"),
        (b'{"model": "m", "prompt": "x", "width": 1e99}', "invalid_value", "width"),
    ],
)
def test_a_bad_body_is_refused_by_the_name_of_its_field(text: bytes, code: str, param: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        parse(GenerateBody, text)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)


def test_a_refusal_does_not_repeat_the_prompt() -> None:
    with pytest.raises(ApiError) as refused:
        parse(GenerateBody, b'{"model": "m", "prompt": ["a secret castle"]}')
    assert "castle" not in refused.value.message


def test_a_policy_may_be_short() -> None:
    text = b'{"models": [{"model": "m", "path": "/m", "digest": "sha256:%s"}]}' % (b"0" * 64)
    [entry] = parse(Policy, text).models
    assert (entry.pinned, entry.pipeline.className, entry.pipeline.dtype) == (
        False,
        "AutoPipelineForText2Image",
        "auto",
    )
    assert entry.memoryBytes is None


def test_a_model_is_named_once_in_a_policy() -> None:
    entry = ENTRY.model_dump_json()
    with pytest.raises(ApiError, match="named twice: shapes-1"):
        parse(Policy, f'{{"models": [{entry}, {entry}]}}'.encode())
