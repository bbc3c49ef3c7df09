"""The parameters of both image endpoints: their types and bounds, and the words in which they are refused.

Pure: no clock, no randomness, no I/O.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .errors import ApiError, invalid
from .pictures import MAX_SIDE_PIXELS

# Whole numbers up to this survive every JSON reader, JavaScript's too.
MAX_WHOLE = 2**53 - 1
MAX_PROMPT_CHARACTERS = 32_000
MAX_PARTIAL_IMAGES = 3
MAX_DEADLINE_SECONDS = 7 * 86_400
MAX_ADAPTERS = 16
MAX_ADAPTER_SCALE = 10
MAX_CONTROL_SCALE = 2

Count = Annotated[int, Meta(ge=1, le=MAX_WHOLE)]
Text = Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]
Prompt = Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


class Adapter(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A LoRA adapter of the model, for one request. Sent to the worker as it is."""

    name: str
    scale: Annotated[float, Meta(ge=-MAX_ADAPTER_SCALE, le=MAX_ADAPTER_SCALE)] | None = None


class Parameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both endpoints take. A null means the same as an absent field."""

    prompt: Prompt
    model: str | None = None
    n: Count | None = None
    size: str | None = None
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=MAX_PARTIAL_IMAGES)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    seed: Annotated[int, Meta(ge=0, le=MAX_WHOLE)] | None = None
    negative_prompt: Text | None = None
    num_inference_steps: Count | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=100)] | None = None
    adapters: Annotated[list[Adapter], Meta(max_length=MAX_ADAPTERS)] | None = None
    priority: Literal["interactive", "batch"] | None = None
    deadline_seconds: Annotated[float, Meta(gt=0, le=MAX_DEADLINE_SECONDS)] | None = None
    # Accepted where they ask for what is done anyway; see _NO_OPS.
    background: str | None = None
    moderation: str | None = None


DESCRIPTIONS = {
    "prompt": f"a string of 1 to {MAX_PROMPT_CHARACTERS} characters",
    "model": "a string, one of the ids that GET /v1/models lists",
    "n": f"a whole number from 1 to {MAX_WHOLE}",
    "size": "a string: auto, or WIDTHxHEIGHT in pixels such as 512x512",
    "quality": "one of auto, low, medium, high, standard, hd",
    "response_format": "b64_json or url",
    "output_format": "png, jpeg or webp",
    "output_compression": "a whole number from 0 to 100",
    "stream": "true or false",
    "partial_images": f"a whole number from 0 to {MAX_PARTIAL_IMAGES}",
    "user": "a string",
    "safety_identifier": "a string",
    "seed": f"a whole number from 0 to {MAX_WHOLE}",
    "negative_prompt": f"a string of at most {MAX_PROMPT_CHARACTERS} characters",
    "num_inference_steps": f"a whole number from 1 to {MAX_WHOLE}",
    "guidance_scale": "a number from 0 to 100",
    "adapters": f'a list of at most {MAX_ADAPTERS}, such as [{{"name": "pixel", "scale": 0.8}}], '
    f"each scale from -{MAX_ADAPTER_SCALE} to {MAX_ADAPTER_SCALE}",
    "priority": "interactive or batch",
    "deadline_seconds": f"a number over 0, at most {MAX_DEADLINE_SECONDS}",
    "background": "auto or opaque",
    "moderation": "auto or low",
    # Of generations alone.
    "style": "null",
    "control_image": "a string: a PNG, JPEG or WebP in base64 or as a data: URL",
    "control_scale": f"a number from 0 to {MAX_CONTROL_SCALE}",
    # Of edits alone.
    "image": "the bytes of a PNG, JPEG or WebP",
    "images": 'a list such as [{"image_url": "data:image/png;base64,..."}]',
    "mask": 'a picture: in a form its bytes, in JSON {"image_url": "data:image/png;base64,..."}',
    "strength": "a number over 0, at most 1",
    "input_fidelity": "low",
}

# What a caller may ask and gets without anything being done; any other value is refused by name.
_NO_OPS: dict[str, tuple[str, ...]] = {
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "style": (),
    "input_fidelity": ("low",),
}

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
# msgspec's sentences. Names and values in them are the caller's words, so only whole sentences are looked for.
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_AT_FIELD = re.compile(r".* - at `\$\.(\w+)`", re.DOTALL)
_INSIDE_FIELD = re.compile(r".* - at `\$\.(adapters|images|mask)(?:\[\d+\])?(?:\.\w+)?`", re.DOTALL)
_NAME_SHOWN = 100


def explain(problem: str, known: tuple[str, ...]) -> ApiError:
    """Turn msgspec's sentence into the API's code, parameter and message. `known`: what the endpoint takes."""
    if match := _INSIDE_FIELD.fullmatch(problem):
        return _wrong(match[1], problem)
    if match := _UNKNOWN_FIELD.fullmatch(problem):
        return unknown(match[1], known)
    if problem.startswith("Object missing required field"):
        return missing("prompt")
    if match := _AT_FIELD.fullmatch(problem):
        return _wrong(match[1], problem)
    return invalid("invalid_type", None, "The body must be a JSON object.")


def _wrong(name: str, problem: str) -> ApiError:
    code = "invalid_type" if ", got `" in problem else "invalid_value"
    return invalid(code, name, f"Invalid value for '{name}': it must be {DESCRIPTIONS[name]}.")


def unknown(name: str, known: tuple[str, ...]) -> ApiError:
    shown = name[:_NAME_SHOWN]
    return invalid("unknown_parameter", shown, f"Unknown parameter: '{shown}'. Known: {', '.join(known)}.")


def missing(name: str) -> ApiError:
    return invalid("missing_required_parameter", name, f"Missing parameter: '{name}', {DESCRIPTIONS[name]}.")


def check(parameters: Parameters) -> None:
    """What the types alone do not say. Raises ApiError (400)."""
    if parameters.size is not None:
        parse_size(parameters.size)
    _check_no_ops(parameters)
    _check_pairs(parameters)
    _check_stream(parameters)


def _check_no_ops(parameters: Parameters) -> None:
    for name, accepted in _NO_OPS.items():
        value: Any = getattr(parameters, name, None)
        if value is not None and value not in accepted:
            raise invalid(
                "unsupported_parameter", name, f"'{name}' is supported only as {DESCRIPTIONS[name]}."
            )


def _check_pairs(parameters: Parameters) -> None:
    if parameters.num_inference_steps is not None and parameters.quality not in (None, "auto"):
        raise invalid(
            "invalid_value",
            "num_inference_steps",
            "'num_inference_steps' and 'quality' both set the number of steps: give one of them.",
        )
    lossless = parameters.output_format in (None, "png")
    if lossless and parameters.output_compression is not None and parameters.output_compression < 100:
        raise invalid(
            "invalid_value",
            "output_compression",
            "'output_compression' below 100 needs 'output_format' jpeg or webp: PNG is always lossless.",
        )


def _check_stream(parameters: Parameters) -> None:
    if not parameters.stream and parameters.partial_images:
        raise invalid("invalid_value", "partial_images", "'partial_images' needs 'stream': true.")
    if parameters.stream and parameters.response_format == "url":
        raise invalid("invalid_value", "response_format", "'response_format' is b64_json for a stream.")


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
            f"Invalid value for 'size': it must be {DESCRIPTIONS['size']}, each side at most {MAX_SIDE_PIXELS}.",
        )
    return int(match[1]), int(match[2])
