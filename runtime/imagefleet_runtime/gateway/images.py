"""`POST /v1/images/generations`: what a caller may ask, and what a worker is then told.

Pure: no clock, no randomness, no I/O.
"""

import math
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .errors import ApiError, invalid
from .resources import ModelView

# Whole numbers up to this survive every JSON reader, JavaScript's too.
MAX_WHOLE = 2**53 - 1
MAX_PROMPT_CHARACTERS = 32_000
MAX_SIDE_PIXELS = 16_384

Count = Annotated[int, Meta(ge=1, le=MAX_WHOLE)]
Text = Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]
Prompt = Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


class ImagesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The request's body. A null means the same as an absent field."""

    prompt: Prompt
    model: str | None = None
    n: Count | None = None
    size: str | None = None
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    user: str | None = None
    seed: Annotated[int, Meta(ge=0, le=MAX_WHOLE)] | None = None
    negative_prompt: Text | None = None
    num_inference_steps: Count | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=100)] | None = None
    # Accepted where they ask for what is done anyway; see _check_no_ops.
    background: str | None = None
    moderation: str | None = None
    style: str | None = None
    stream: bool | None = None
    partial_images: int | None = None


class WorkerRequest(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The body of a worker's `POST /v1/generate`; what is unset has the worker's default."""

    model: str
    prompt: str
    negative_prompt: str | UnsetType = UNSET
    n: int = 1
    width: int
    height: int
    steps: int | UnsetType = UNSET
    guidance_scale: float | UnsetType = UNSET
    seed: int
    output_format: str = "png"
    output_compression: int | UnsetType = UNSET
    response_format: str = "b64_json"
    pool_model: str
    quality: str


_FIELDS = {
    "prompt": f"a string of 1 to {MAX_PROMPT_CHARACTERS} characters",
    "model": "a string, one of the ids that GET /v1/models lists",
    "n": f"a whole number from 1 to {MAX_WHOLE}",
    "size": "a string: auto, or WIDTHxHEIGHT in pixels such as 512x512",
    "quality": "one of auto, low, medium, high, standard, hd",
    "response_format": "b64_json or url",
    "output_format": "png, jpeg or webp",
    "output_compression": "a whole number from 0 to 100",
    "user": "a string",
    "seed": f"a whole number from 0 to {MAX_WHOLE}",
    "negative_prompt": f"a string of at most {MAX_PROMPT_CHARACTERS} characters",
    "num_inference_steps": f"a whole number from 1 to {MAX_WHOLE}",
    "guidance_scale": "a number from 0 to 100",
    "background": "auto or opaque",
    "moderation": "auto or low",
    "style": "null",
    "stream": "false",
    "partial_images": "0",
}

# What a caller may ask and gets without anything being done; any other value is refused by name.
_NO_OPS: dict[str, tuple[Any, ...]] = {
    "background": (None, "auto", "opaque"),
    "moderation": (None, "auto", "low"),
    "style": (None,),
    "stream": (None, False),
    "partial_images": (None, 0),
}

_decoder = msgspec.json.Decoder(ImagesRequest)
_encoder = msgspec.json.Encoder()
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
# msgspec's sentences. Names and values in them are the caller's words, so only whole sentences are looked for.
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_AT_FIELD = re.compile(r".* - at `\$\.(\w+)`", re.DOTALL)
_NAME_SHOWN = 100


def decode(body: bytes) -> ImagesRequest:
    """Read and check a request's body, as far as no model is needed.

    Raises ApiError (400) with `param` and one of `invalid_json`, `invalid_type`, `invalid_value`,
    `unknown_parameter`, `missing_required_parameter`, `unsupported_parameter`.
    """
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid("invalid_json", None, f"The body is not valid JSON: {error}.") from None
    if request.size is not None:
        parse_size(request.size)
    _check_no_ops(request)
    _check_pairs(request)
    return request


def _explain(problem: str) -> ApiError:
    """Turn msgspec's sentence into the API's code, parameter and message."""
    if match := _UNKNOWN_FIELD.fullmatch(problem):
        name = match[1][:_NAME_SHOWN]
        return invalid(
            "unknown_parameter", name, f"Unknown parameter: '{name}'. Known: {', '.join(_FIELDS)}."
        )
    if problem.startswith("Object missing required field"):
        return invalid(
            "missing_required_parameter", "prompt", f"Missing parameter: 'prompt', {_FIELDS['prompt']}."
        )
    if match := _AT_FIELD.fullmatch(problem):
        name = match[1]
        code = "invalid_type" if ", got `" in problem else "invalid_value"
        return invalid(code, name, f"Invalid value for '{name}': it must be {_FIELDS[name]}.")
    return invalid("invalid_type", None, "The body must be a JSON object.")


def _check_no_ops(request: ImagesRequest) -> None:
    for name, accepted in _NO_OPS.items():
        value = getattr(request, name)
        if value is not None and value not in accepted:
            raise invalid("unsupported_parameter", name, f"'{name}' is supported only as {_FIELDS[name]}.")


def _check_pairs(request: ImagesRequest) -> None:
    if request.num_inference_steps is not None and request.quality not in (None, "auto"):
        raise invalid(
            "invalid_value",
            "num_inference_steps",
            "'num_inference_steps' and 'quality' both set the number of steps: give one of them.",
        )
    lossless = request.output_format in (None, "png")
    if lossless and request.output_compression is not None and request.output_compression < 100:
        raise invalid(
            "invalid_value",
            "output_compression",
            "'output_compression' below 100 needs 'output_format' jpeg or webp: PNG is always lossless.",
        )


def parse_size(size: str) -> tuple[int, int] | None:
    """Width and height in pixels; None for `auto`. Raises ApiError (400 `invalid_value`).

    Examples: `512x768` is (512, 768); `auto` is None.
    """
    if size == "auto":
        return None
    match = _SIZE.fullmatch(size)
    if match is None or max(int(match[1]), int(match[2])) > MAX_SIDE_PIXELS:
        raise invalid(
            "invalid_value",
            "size",
            f"Invalid value for 'size': it must be {_FIELDS['size']}, each side at most {MAX_SIDE_PIXELS}.",
        )
    return int(match[1]), int(match[2])


def quality_steps(quality: str | None, default: int, most: int) -> int:
    """Steps for a quality: `low` is half of the model's default, `high` and `hd` one and a half times it.

    Halves are rounded up. `high` never exceeds the model's `maxSteps`. Examples, default 25, at most 30:
    auto 25, low 13, high 30 (not 38).
    """
    if quality == "low":
        return math.ceil(default / 2)
    if quality in ("high", "hd"):
        return min(math.ceil(default * 1.5), most)
    return default


_QUALITIES_WITH_STEPS = ("low", "high", "hd")

# The reply names one of OpenAI's three qualities.
_QUALITY_NAMES = {None: "medium", "auto": "medium", "standard": "medium", "hd": "high"}


def worker_request(request: ImagesRequest, view: ModelView, name: str, seed: int) -> WorkerRequest:
    """What a worker of ImageModel `view` is asked for a request to the pool's model `name`.

    Raises ApiError (400 `limit_exceeded`) where the request is over one of the model's limits.
    """
    width, height = (parse_size(request.size) if request.size else None) or view.size
    steps = request.num_inference_steps
    if steps is None and request.quality in _QUALITIES_WITH_STEPS:
        steps = quality_steps(request.quality, view.steps, view.max_steps)
    count = request.n or 1
    _check_limits(view, width * height / 1e6, steps or view.steps, count)
    return WorkerRequest(
        model=view.name,
        prompt=request.prompt,
        negative_prompt=UNSET if request.negative_prompt is None else request.negative_prompt,
        n=count,
        width=width,
        height=height,
        # Sent only where the caller decides: there are pipelines that take no steps or guidance at all.
        steps=UNSET if steps is None else steps,
        guidance_scale=UNSET if request.guidance_scale is None else request.guidance_scale,
        seed=seed,
        output_format=request.output_format or "png",
        output_compression=UNSET if request.output_compression is None else request.output_compression,
        response_format=request.response_format or "b64_json",
        pool_model=name,
        quality=_QUALITY_NAMES.get(request.quality) or request.quality or "medium",
    )


def _check_limits(view: ModelView, megapixels: float, steps: int, count: int) -> None:
    for param, limit, most, value in (
        ("size", "maxMegapixels", view.max_megapixels, megapixels),
        ("num_inference_steps", "maxSteps", view.max_steps, steps),
        ("n", "maxImages", view.max_images, count),
    ):
        if value > most:
            raise invalid(
                "limit_exceeded",
                param,
                f"'{param}': {value:.4g} is over {limit} of model '{view.name}', which is {most:g}.",
            )


def encode(request: WorkerRequest) -> bytes:
    return _encoder.encode(request)


def work_units(request: WorkerRequest, view: ModelView) -> float:
    """Megapixel-steps of a request to a model: megapixels x steps x images x (2 with classifier-free
    guidance, else 1).

    Guidance is classifier-free where the scale is over 1. Times seconds per megapixel-step this is the cost
    in GPU-seconds (docs/contract.md, Cost). Worked example: one 512x512 picture, 20 steps, guided:
    0.262144 x 20 x 1 x 2 = 10.48576; at 0.011 s that is 0.115 s.
    """
    steps = view.steps if request.steps is UNSET else request.steps
    guidance = view.guidance_scale if request.guidance_scale is UNSET else request.guidance_scale
    guided = 2 if guidance > 1 else 1
    return request.width * request.height / 1e6 * steps * request.n * guided
