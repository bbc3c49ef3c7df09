"""From a request's body to what an engine is asked to draw: defaults filled in, limits checked. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.calibration import work_units
from imagefleet_runtime.worker.messages import AdapterUse, Capabilities, Draw
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.policy import Limits, ModelPolicy

# The gateway hands these errors to its caller as they are, so they name the public API's parameters.
SIZE = "size"
STEPS = "num_inference_steps"
DEFAULT_STRENGTH = 0.8  # of image-to-image; inpainting draws all of what the mask shows
# Pixels to which a picture's own size is rounded: what all common pipelines draw. The same before a model is loaded for
# the first time, when nobody knows its own, and after: or a seed would draw two pictures.
SIZE_STEP = 16


def resolve(
    body: GenerateBody, entry: ModelPolicy, random_seed: int, size_multiple: int | None = None
) -> tuple[Draw, ...]:
    """The drawings that ``body`` asks of the model ``entry``: picture i of n has seed + i. Their ``id`` is 0.

    ``size_multiple`` is the pipeline's, where it is known. Raises ApiError (limit_exceeded, invalid_value,
    invalid_image, unsupported_parameter).
    """
    _check_together(body)
    width, height = _size(body, entry, size_multiple)
    steps = body.steps or entry.defaults.steps
    seed = random_seed if body.seed is None else body.seed
    _check_limits(width, height, steps, body.n, entry.limits)
    return tuple(
        Draw(
            id=0,
            prompt=body.prompt,
            negative_prompt=body.negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance_scale=(
                entry.defaults.guidanceScale if body.guidance_scale is None else body.guidance_scale
            ),
            seed=seed + index,
            output_format=body.output_format,
            output_compression=body.output_compression,
            image=body.image.data if body.image else None,
            mask=body.mask.data if body.mask else None,
            strength=_strength(body, steps),
            control_image=body.control_image.data if body.control_image else None,
            control_scale=1.0 if body.control_scale is None else body.control_scale,
            adapters=tuple(AdapterUse(adapter.name, adapter.scale) for adapter in body.adapters),
            previews=body.partial_images,
        )
        for index in range(body.n)
    )


def _check_together(body: GenerateBody) -> None:
    """Fields that need another, or exclude it. Raises ApiError."""
    invalid, unsupported = "invalid_value", "unsupported_parameter"
    lossy = body.output_compression not in (None, 100)
    names = [adapter.name for adapter in body.adapters]
    checks = (
        (
            (body.width is None) != (body.height is None),
            invalid,
            SIZE,
            "give both width and height, or neither",
        ),
        (body.mask and not body.image, invalid, "mask", "mask needs an image to draw into"),
        (body.strength and not body.image, invalid, "strength", "strength needs an image to start from"),
        (
            body.control_scale is not None and not body.control_image,
            invalid,
            "control_scale",
            "control_scale needs a control_image",
        ),
        (len(set(names)) < len(names), invalid, "adapters", "an adapter is named twice"),
        (
            body.partial_images and not body.stream,
            invalid,
            "partial_images",
            "partial_images come in a stream: set stream to true",
        ),
        (
            body.stream and body.response_format == "url",
            unsupported,
            "response_format",
            "a stream carries b64_json: leave response_format out",
        ),
        (
            lossy and body.output_format == "png",
            unsupported,
            "output_compression",
            "png is lossless: output_compression is for jpeg and webp",
        ),
    )
    for wrong, code, param, message in checks:
        if wrong:
            raise errors.invalid(code, message, param)
    _check_mask(body)


def _check_mask(body: GenerateBody) -> None:
    image, mask = body.image, body.mask
    if image and mask and (image.width, image.height) != (mask.width, mask.height):
        raise errors.invalid(
            "invalid_image",
            f"the mask has {mask.width}x{mask.height} pixels and the image {image.width}x{image.height}: "
            "make them the same",
            "mask",
        )


def _strength(body: GenerateBody, steps: int) -> float | None:
    """None without an image. Raises ApiError where it leaves no step to draw."""
    if body.image is None:
        return None
    strength = body.strength or (1.0 if body.mask else DEFAULT_STRENGTH)
    if steps_drawn(steps, strength) < 1:
        least = math.ceil(1000 / steps) / 1000
        raise errors.invalid(
            "invalid_value",
            f"strength {strength:g} of {steps} steps leaves none to draw: strength must be {least:g} or more",
            "strength",
        )
    return strength


def steps_drawn(steps: int, strength: float | None) -> int:
    """Steps that are drawn: all, or the last ones from an image on. Example: 20 steps at 0.8 are 16."""
    return steps if strength is None else int(steps * strength)


def _size(body: GenerateBody, entry: ModelPolicy, size_multiple: int | None) -> tuple[int, int]:
    if body.width is not None and body.height is not None:
        return body.width, body.height
    if body.image is None:
        return entry.defaults.width_height
    multiple = math.lcm(SIZE_STEP, size_multiple or 1)
    return fitting_size(body.image.width, body.image.height, multiple, entry.limits.maxMegapixels)


def fitting_size(width: int, height: int, multiple: int, max_megapixels: float | None) -> tuple[int, int]:
    """The size for a picture of ``width`` x ``height``: sides are multiples, the shape is kept as far as they let it.

    Each side is rounded to the nearest multiple. Where that is over ``max_megapixels``, both are scaled by the square
    root of what is too much, and rounded down. Worked examples, multiple 16: 500x375 is 496x368 (31.25 and 23.4
    multiples); 4000x3000 with 1 megapixel: factor sqrt(1 / 12) = 0.2887, 1154.7 x 866.0, so 1152x864; 10000x1 with
    0.1 megapixels: a strip of 6250x16, so 6240x16.
    """
    nearest = (_rounded(width / multiple) * multiple, _rounded(height / multiple) * multiple)
    if max_megapixels is None or nearest[0] * nearest[1] <= max_megapixels * 1e6:
        return nearest
    most = max_megapixels * 1e6
    factor = math.sqrt(most / (width * height))
    shorter = max(int(min(width, height) * factor / multiple), 1) * multiple
    # A strip has one multiple as its shorter side, and then the longer one is bound by the limit.
    longer = max(int(min(max(width, height) * factor, most / shorter) / multiple), 1) * multiple
    return (longer, shorter) if width >= height else (shorter, longer)


def _rounded(multiples: float) -> int:
    return max(math.floor(multiples + 0.5), 1)


def _check_limits(width: int, height: int, steps: int, images: int, limits: Limits) -> None:
    checks = (
        (STEPS, "steps", steps, limits.maxSteps),
        ("n", "images", images, limits.maxImages),
        (SIZE, "megapixels", width * height / 1e6, limits.maxMegapixels),
    )
    for param, unit, value, limit in checks:
        if limit is not None and value > limit:
            raise errors.invalid(
                "limit_exceeded", f"{value:g} {unit}: this model allows {limit:g} at most", param
            )


def check_supported(body: GenerateBody, drawings: Sequence[Draw], model: Model) -> None:
    """Refuse what this model cannot honour, as far as it is known before its first load.

    Raises ApiError (unsupported_mode, adapter_not_found, size_not_supported, unsupported_parameter).
    """
    drawing, capabilities = drawings[0], model.capabilities
    _check_mode(drawing, model)
    _check_adapters(drawing, model)
    if capabilities is not None:
        _check_size(drawing, capabilities.size_multiple)
        _check_parameters(body, drawing, capabilities)


def _check_mode(drawing: Draw, model: Model) -> None:
    modes = model.entry.modes(model.capabilities.modes) if model.capabilities else model.entry.modes()
    if drawing.mode in modes:
        return
    param = {"image-to-image": "image", "inpainting": "mask"}.get(drawing.mode)
    raise errors.invalid(
        "unsupported_mode", f"{model.name} cannot do {drawing.mode}; it can: {', '.join(modes)}", param
    )


def _check_adapters(drawing: Draw, model: Model) -> None:
    known = model.capabilities.adapters if model.capabilities else [it.name for it in model.entry.adapters]
    for used in drawing.adapters:
        if used.name not in known:
            there_are = f"it has: {', '.join(known)}" if known else "it has none"
            raise errors.invalid(
                "adapter_not_found", f"{model.name} has no adapter {used.name!r}; {there_are}", "adapters"
            )


def _check_parameters(body: GenerateBody, drawing: Draw, capabilities: Capabilities) -> None:
    takes = capabilities.parameters
    guided = "guidance_scale" in takes
    # A pipeline that draws from a text and takes a picture all the same looks at it, and does not draw over it.
    looks = drawing.mode == "image-to-image" and "image" in takes and "strength" not in takes
    checks = (
        ("guidance_scale", body.guidance_scale is not None, guided),
        (STEPS, body.steps is not None, STEPS in takes),
        ("strength", body.strength is not None, not looks),
        ("control_image", drawing.control_image is not None, capabilities.control_net),
        ("negative_prompt", bool(body.negative_prompt), capabilities.negative_prompt),
    )
    for param, given, honoured in checks:
        if given and not honoured:
            raise errors.invalid(
                "unsupported_parameter",
                f"{capabilities.class_name} cannot honour {param}; leave it out",
                param,
            )
    if body.negative_prompt and guided and drawing.guidance_scale <= 1:
        raise errors.invalid(
            "unsupported_parameter",
            "negative_prompt has an effect only with guidance_scale over 1",
            "negative_prompt",
        )


def _check_size(drawing: Draw, multiple: int) -> None:
    for side, value in (("width", drawing.width), ("height", drawing.height)):
        if value % multiple:
            below, above = value - value % multiple, value - value % multiple + multiple
            near = f"{below} or {above}" if below else str(above)
            raise errors.invalid(
                "size_not_supported",
                f"{side} {value} is not a multiple of {multiple}; the nearest that work: {near}",
                SIZE,
            )


def units(drawings: Sequence[Draw]) -> float:
    """The request's size in megapixel-steps (see calibration): of the steps that are drawn."""
    return math.fsum(
        work_units(
            drawing.width,
            drawing.height,
            steps_drawn(drawing.steps, drawing.strength),
            1,
            drawing.guidance_scale,
        )
        for drawing in drawings
    )
