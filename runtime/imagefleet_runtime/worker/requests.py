"""From a request's body to what an engine is asked to draw: defaults filled in, limits checked. Pure."""

from __future__ import annotations

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.calibration import work_units
from imagefleet_runtime.worker.messages import Capabilities, Generate
from imagefleet_runtime.worker.policy import GenerateBody, Limits, ModelPolicy

# The gateway hands these errors to its caller as they are, so they name the public API's parameters.
SIZE = "size"
STEPS = "num_inference_steps"


def resolve(body: GenerateBody, entry: ModelPolicy, random_seed: int) -> Generate:
    """The drawing that ``body`` asks of the model ``entry``. Raises ApiError (limit_exceeded, invalid_value)."""
    width, height = entry.defaults.width_height
    if (body.width is None) != (body.height is None):
        raise errors.invalid("invalid_value", "give both width and height, or neither", SIZE)
    drawing = Generate(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        n=body.n,
        width=body.width or width,
        height=body.height or height,
        steps=body.steps or entry.defaults.steps,
        guidance_scale=entry.defaults.guidanceScale if body.guidance_scale is None else body.guidance_scale,
        seed=random_seed if body.seed is None else body.seed,
        output_format=body.output_format,
        output_compression=body.output_compression,
    )
    _check_limits(drawing, entry.limits)
    if drawing.output_format == "png" and body.output_compression not in (None, 100):
        raise errors.invalid(
            "unsupported_parameter",
            "png is lossless: output_compression is for jpeg and webp",
            "output_compression",
        )
    return drawing


def _check_limits(drawing: Generate, limits: Limits) -> None:
    megapixels = drawing.width * drawing.height / 1e6
    checks = (
        (STEPS, "steps", drawing.steps, limits.maxSteps),
        ("n", "images", drawing.n, limits.maxImages),
        (SIZE, "megapixels", megapixels, limits.maxMegapixels),
    )
    for param, unit, value, limit in checks:
        if limit is not None and value > limit:
            raise errors.invalid(
                "limit_exceeded", f"{value:g} {unit}: this model allows {limit:g} at most", param
            )


def check_supported(body: GenerateBody, drawing: Generate, capabilities: Capabilities) -> None:
    """Refuse what this pipeline cannot honour. Raises ApiError (size_not_supported, unsupported_parameter)."""
    _check_size(drawing, capabilities.size_multiple)
    if body.guidance_scale is not None and "guidance_scale" not in capabilities.parameters:
        raise _unsupported("guidance_scale", capabilities.class_name)
    if body.steps is not None and STEPS not in capabilities.parameters:
        raise _unsupported(STEPS, capabilities.class_name)
    if not body.negative_prompt:
        return
    if not capabilities.negative_prompt:
        raise _unsupported("negative_prompt", capabilities.class_name)
    if "guidance_scale" in capabilities.parameters and drawing.guidance_scale <= 1:
        raise errors.invalid(
            "unsupported_parameter",
            "negative_prompt has an effect only with guidance_scale over 1",
            "negative_prompt",
        )


def _unsupported(param: str, class_name: str) -> errors.ApiError:
    return errors.invalid("unsupported_parameter", f"{class_name} cannot honour {param}; leave it out", param)


def _check_size(drawing: Generate, multiple: int) -> None:
    for side, value in (("width", drawing.width), ("height", drawing.height)):
        if value % multiple:
            below, above = value - value % multiple, value - value % multiple + multiple
            near = f"{below} or {above}" if below else str(above)
            raise errors.invalid(
                "size_not_supported",
                f"{side} {value} is not a multiple of {multiple}; the nearest that work: {near}",
                SIZE,
            )


def units(drawing: Generate) -> float:
    """The request's size in megapixel-steps (see calibration)."""
    return work_units(drawing.width, drawing.height, drawing.steps, drawing.n, drawing.guidance_scale)
