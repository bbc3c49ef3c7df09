from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.messages import AdapterUse, Capabilities, Draw
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.policy import Limits, ModelPolicy
from imagefleet_runtime.worker.requests import check_supported, fitting_size, resolve, steps_drawn, units

from tests.unit.worker.http_fakes import ENTRY
from tests.unit.worker.pictures import base64_of, noise

PIPELINE = Capabilities(
    class_name="StableDiffusionPipeline",
    size_multiple=8,
    parameters=frozenset({"prompt", "num_inference_steps", "guidance_scale"}),
    negative_prompt=True,
    modes=("text-to-image", "image-to-image", "inpainting"),
    control_net=True,
    adapters=("pixel",),
)
PICTURE = base64_of(noise(320, 160))
MASK = base64_of(noise(320, 160))


def body(**fields: Any) -> GenerateBody:
    return GenerateBody.model_validate({"model": "shapes-1", "prompt": "x", **fields})


def drawing(entry: ModelPolicy = ENTRY, **fields: Any) -> Draw:
    return resolve(body(**fields), entry, random_seed=7)[0]


def unlimited() -> ModelPolicy:
    return ENTRY.model_copy(update={"limits": Limits()})


def refusal(entry: ModelPolicy = ENTRY, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        resolve(body(**fields), entry, 0)
    assert refused.value.status == 400
    return refused.value


def test_what_the_caller_leaves_out_is_the_models_default() -> None:
    [drawn] = resolve(body(), ENTRY, random_seed=7)
    assert (drawn.width, drawn.height, drawn.steps) == (512, 384, 20)
    assert (drawn.guidance_scale, drawn.seed, drawn.strength, drawn.previews) == (5.0, 7, None, 0)


def test_what_the_caller_gives_is_used() -> None:
    drawn = drawing(width=64, height=32, steps=3, guidance_scale=0.0, seed=0)
    assert (drawn.width, drawn.height, drawn.steps) == (64, 32, 3)
    assert (drawn.guidance_scale, drawn.seed) == (0.0, 0)


def test_picture_i_of_n_has_seed_plus_i() -> None:
    assert [drawn.seed for drawn in resolve(body(n=3, seed=40), ENTRY, 7)] == [40, 41, 42]


def test_a_random_seed_is_the_first_of_n() -> None:
    assert [drawn.seed for drawn in resolve(body(n=2), ENTRY, 7)] == [7, 8]


def test_guidance_doubles_the_units() -> None:
    guided, unguided = (resolve(body(guidance_scale=scale), ENTRY, 0) for scale in (5.0, 1.0))
    assert units(guided) == pytest.approx(2 * units(unguided)) == pytest.approx(2 * 0.512 * 0.384 * 20)


def test_each_picture_has_its_units() -> None:
    assert units(resolve(body(n=4), ENTRY, 0)) == pytest.approx(4 * units(resolve(body(), ENTRY, 0)))


@pytest.mark.parametrize(
    ("fields", "mode", "strength"),
    [
        ({}, "text-to-image", None),
        ({"image": PICTURE}, "image-to-image", 0.8),
        ({"image": PICTURE, "strength": 0.3}, "image-to-image", 0.3),
        ({"image": PICTURE, "mask": MASK}, "inpainting", 1.0),
        ({"image": PICTURE, "mask": MASK, "strength": 0.5}, "inpainting", 0.5),
    ],
)
def test_pictures_make_the_mode(fields: dict[str, Any], mode: str, strength: float | None) -> None:
    drawn = drawing(**fields)
    assert (drawn.mode, drawn.strength) == (mode, strength)


def test_only_the_steps_that_are_drawn_cost() -> None:
    whole = resolve(body(image=PICTURE, strength=1.0), ENTRY, 0)
    half = resolve(body(image=PICTURE, strength=0.5), ENTRY, 0)
    assert units(half) == pytest.approx(units(whole) / 2)


@pytest.mark.parametrize(
    ("steps", "strength", "want"), [(20, None, 20), (20, 0.8, 16), (3, 0.5, 1), (4, 1.0, 4)]
)
def test_steps_that_are_drawn(steps: int, strength: float | None, want: int) -> None:
    assert steps_drawn(steps, strength) == want


def test_a_strength_that_leaves_no_step_is_refused_with_one_that_does() -> None:
    error = refusal(image=PICTURE, steps=3, strength=0.3)
    assert (error.code, error.param) == ("invalid_value", "strength")
    least = float(error.message.rpartition("must be ")[2].split()[0])
    assert drawing(image=PICTURE, steps=3, strength=least).strength == least


@given(st.integers(1, 50))
def test_the_strength_that_a_refusal_names_leaves_a_step(steps: int) -> None:
    if steps == 1:
        return  # the default of inpainting; nothing less leaves a step
    error = refusal(image=PICTURE, steps=steps, strength=0.5 / steps)
    least = float(error.message.rpartition("must be ")[2].split()[0])
    assert steps_drawn(steps, least) == 1


def test_other_fields_go_on() -> None:
    drawn = drawing(
        control_image=PICTURE,
        control_scale=0.5,
        adapters=[{"name": "pixel", "scale": 0.8}],
        stream=True,
        partial_images=2,
    )
    assert drawn.control_image is not None
    assert (drawn.control_scale, drawn.previews) == (0.5, 2)
    assert drawn.adapters == (AdapterUse("pixel", 0.8),)


TOGETHER = {
    "a width alone": ({"width": 64}, "invalid_value", "size"),
    "a mask without an image": ({"mask": MASK}, "invalid_value", "mask"),
    "a strength without an image": ({"strength": 0.5}, "invalid_value", "strength"),
    "a scale without a control image": ({"control_scale": 0.0}, "invalid_value", "control_scale"),
    "an adapter twice": ({"adapters": [{"name": "pixel"}, {"name": "pixel"}]}, "invalid_value", "adapters"),
    "previews without a stream": ({"partial_images": 1}, "invalid_value", "partial_images"),
    "a stream of urls": (
        {"stream": True, "response_format": "url"},
        "unsupported_parameter",
        "response_format",
    ),
    "a lossy png": ({"output_compression": 50}, "unsupported_parameter", "output_compression"),
    "a mask of another size": (
        {"image": PICTURE, "mask": base64_of(noise(64, 64))},
        "invalid_image",
        "mask",
    ),
}


@pytest.mark.parametrize(("fields", "code", "param"), TOGETHER.values(), ids=TOGETHER.keys())
def test_fields_that_do_not_go_together_are_refused(fields: dict[str, Any], code: str, param: str) -> None:
    error = refusal(**fields)
    assert (error.code, error.param) == (code, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"steps": 51}, "num_inference_steps"),
        ({"n": 5}, "n"),
        ({"width": 1100, "height": 1001}, "size"),
    ],
)
def test_more_than_the_limits_is_refused_not_clamped(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert (error.code, error.param) == ("limit_exceeded", param)
    assert "allows" in error.message


@pytest.mark.parametrize("fields", [{"steps": 50}, {"n": 4}, {"width": 1100, "height": 1000}])
def test_the_limits_themselves_are_allowed(fields: dict[str, Any]) -> None:
    resolve(body(**fields), ENTRY, 0)


def test_a_model_without_limits_has_none() -> None:
    assert drawing(unlimited(), steps=5000, n=99).steps == 5000


@pytest.mark.parametrize(
    ("size", "multiple", "limit", "want"),
    [
        ((500, 375), 16, None, (496, 368)),  # the docstring's worked examples
        ((4000, 3000), 16, 1.0, (1152, 864)),
        ((512, 384), 16, None, (512, 384)),
        ((3, 3), 16, None, (16, 16)),
        ((504, 504), 16, 0.255, (496, 496)),  # rounding up would be over the limit
        ((10000, 1), 16, 0.1, (6240, 16)),
        ((1, 10000), 16, 0.1, (16, 6240)),
    ],
)
def test_a_pictures_own_size_is_brought_to_one_that_fits(
    size: tuple[int, int], multiple: int, limit: float | None, want: tuple[int, int]
) -> None:
    assert fitting_size(*size, multiple, limit) == want


@given(st.integers(64, 9000), st.integers(64, 9000), st.sampled_from([16, 32, 64]), st.floats(0.3, 4.0))
def test_a_fitting_size_keeps_limit_multiple_and_shape(
    width: int, height: int, multiple: int, limit: float
) -> None:
    fit = fitting_size(width, height, multiple, limit)
    assert all(side % multiple == 0 and side > 0 for side in fit)
    assert fit[0] * fit[1] <= limit * 1e6
    if max(width, height) / min(width, height) < 4:  # else the shorter side may be rounded up to one multiple
        assert fit[0] / fit[1] == pytest.approx(width / height, rel=2 * multiple / min(fit) + 0.02)


def test_without_a_size_a_picture_keeps_its_own() -> None:
    drawn = drawing(image=PICTURE)
    assert (drawn.width, drawn.height) == (320, 160)


def test_the_pipelines_multiple_counts_where_it_is_known() -> None:
    [drawn] = resolve(body(image=PICTURE), ENTRY, 0, size_multiple=24)
    assert (drawn.width, drawn.height) == (336, 144)  # multiples of 48, for 16 and 24


def test_a_size_that_is_given_goes_before_the_pictures() -> None:
    drawn = drawing(image=PICTURE, width=64, height=64)
    assert (drawn.width, drawn.height) == (64, 64)


def check(fields: dict[str, Any], entry: dict[str, Any] | None = None, **pipeline: Any) -> None:
    of = ENTRY.model_copy(update=entry or {})
    model = Model(of, capabilities=replace(PIPELINE, **pipeline))
    check_supported(body(**fields), resolve(body(**fields), of, 0), model)


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
        ({"control_image": PICTURE}, {"control_net": False}, "unsupported_parameter", "control_image"),
        (
            {"image": PICTURE, "strength": 0.5},
            {"parameters": frozenset({"prompt", "image"})},
            "unsupported_parameter",
            "strength",
        ),
        ({"image": PICTURE}, {"modes": ("text-to-image",)}, "unsupported_mode", "image"),
        (
            {"image": PICTURE, "mask": MASK},
            {"modes": ("text-to-image", "image-to-image")},
            "unsupported_mode",
            "mask",
        ),
        ({}, {"modes": ("image-to-image",)}, "unsupported_mode", None),
        ({"adapters": [{"name": "pixle"}]}, {}, "adapter_not_found", "adapters"),
    ],
)
def test_what_the_pipeline_cannot_honour_is_refused(
    fields: dict[str, Any], pipeline: dict[str, Any], code: str, param: str | None
) -> None:
    with pytest.raises(ApiError) as refused:
        check(fields, **pipeline)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)


@pytest.mark.parametrize(
    ("fields", "pipeline"),
    [
        ({}, {}),
        ({"negative_prompt": ""}, {"negative_prompt": False}),
        ({"negative_prompt": "x"}, {}),
        ({}, {"parameters": frozenset({"prompt"})}),  # the model's defaults are no wish of the caller's
        ({"image": PICTURE, "mask": MASK, "control_image": PICTURE}, {}),
        ({"image": PICTURE, "strength": 0.5}, {}),
        ({"image": PICTURE}, {"parameters": frozenset({"prompt", "image"})}),
        ({"adapters": [{"name": "pixel"}]}, {}),
    ],
)
def test_what_the_pipeline_can_honour_passes(fields: dict[str, Any], pipeline: dict[str, Any]) -> None:
    check(fields, **pipeline)


def test_capabilities_of_the_policy_restrict_the_modes() -> None:
    with pytest.raises(ApiError, match=r"it can: text-to-image$"):
        check({"image": PICTURE}, {"capabilities": ["text-to-image"]})


@pytest.mark.parametrize(("adapters", "why"), [(("pixel", "ink"), "it has: pixel, ink"), ((), "it has none")])
def test_an_unknown_adapter_is_refused_with_those_there_are(adapters: tuple[str, ...], why: str) -> None:
    with pytest.raises(ApiError, match=why):
        check({"adapters": [{"name": "oil"}]}, adapters=adapters)


def test_before_the_first_load_the_policy_alone_is_asked() -> None:
    pixel = {"name": "pixel", "path": "/pixel", "digest": "sha256:" + "0" * 64}
    given_ = {**ENTRY.model_dump(exclude_none=True), "adapters": [pixel], "capabilities": ["text-to-image"]}
    model = Model(ModelPolicy.model_validate(given_))

    def ask(**fields: Any) -> None:
        check_supported(body(**fields), resolve(body(**fields), model.entry, 0), model)

    ask(adapters=[{"name": "pixel"}], width=60, height=60)
    with pytest.raises(ApiError, match="no adapter 'oil'"):
        ask(adapters=[{"name": "oil"}])
    with pytest.raises(ApiError, match="cannot do image-to-image"):
        ask(image=PICTURE)


@given(st.integers(1, 4096), st.sampled_from([8, 16, 32]))
def test_the_sizes_that_a_refusal_names_work(width: int, multiple: int) -> None:
    def check_side(side: int) -> None:
        check({"width": side, "height": multiple}, {"limits": Limits()}, size_multiple=multiple)

    try:
        check_side(width)
    except ApiError as refused:
        for word in refused.message.partition("work: ")[2].split(" or "):
            check_side(int(word))
            assert abs(int(word) - width) < multiple
