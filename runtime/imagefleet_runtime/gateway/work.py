"""What a worker is told for a request, and what that costs there.

Pure: no clock, no randomness, no I/O.
"""

import math
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from .bodies import MAX_BODY_BYTES, body_too_large
from .errors import invalid
from .parameters import Adapter, Parameters, parse_size
from .pictures import Buffer, Picture
from .quota import Reduced
from .resources import ModelView

TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING = "text-to-image", "image-to-image", "inpainting"
# How much of a picture is drawn anew where the caller does not say; the worker's defaults too.
DEFAULT_STRENGTH = {IMAGE_TO_IMAGE: 0.8, INPAINTING: 1.0}
# By when a request of class batch is wanted where the caller does not say (seconds); the worker's default too.
BATCH_DEADLINE_SECONDS = 3600.0
_SOONEST_DEADLINE_SECONDS = 0.001
_MODE_PARAMETERS = {TEXT_TO_IMAGE: None, IMAGE_TO_IMAGE: "image", INPAINTING: "mask"}
_NAME_SHOWN = 100
# What the field of a checkpoint takes in JSON beside its value.
_RESUME_BYTES = 16


class Request(msgspec.Struct, kw_only=True):
    """What a caller asks for, by whichever endpoint and encoding."""

    parameters: Parameters
    image: Picture | None = None
    mask: Picture | None = None
    strength: float | None = None
    control_image: Picture | None = None
    control_scale: float | None = None

    @property
    def mode(self) -> str:
        if self.image is None:
            return TEXT_TO_IMAGE
        return IMAGE_TO_IMAGE if self.mask is None else INPAINTING


class WorkerRequest(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The body of a worker's `POST /v1/generate`; what is unset has the worker's default.

    Pictures are bytes here and base64 in the JSON that is sent.
    """

    model: str
    prompt: str
    negative_prompt: str | UnsetType = UNSET
    n: int = 1
    width: int | UnsetType = UNSET
    height: int | UnsetType = UNSET
    steps: int | UnsetType = UNSET
    guidance_scale: float | UnsetType = UNSET
    seed: int
    output_format: str = "png"
    output_compression: int | UnsetType = UNSET
    response_format: str = "b64_json"
    pool_model: str
    quality: str
    image: Buffer | UnsetType = UNSET
    mask: Buffer | UnsetType = UNSET
    strength: float | UnsetType = UNSET
    control_image: Buffer | UnsetType = UNSET
    control_scale: float | UnsetType = UNSET
    adapters: list[Adapter] | UnsetType = UNSET
    priority: str = "interactive"
    deadline_seconds: float | UnsetType = UNSET
    stream: bool = False
    partial_images: int = 0
    score: bool = False
    resume: msgspec.Raw | UnsetType = UNSET


class Plan(msgspec.Struct, frozen=True):
    """A request to one ImageModel."""

    view: ModelView
    body: WorkerRequest
    units: float
    """Megapixel-steps: see work_units."""
    degraded: bool = False
    """It asks for less than the caller did."""


_encoder = msgspec.json.Encoder()
_QUALITIES_WITH_STEPS = ("low", "high", "hd")
# The reply names one of OpenAI's three qualities.
_QUALITY_NAMES = {None: "medium", "auto": "medium", "standard": "medium", "hd": "high"}


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


def priority(request: Request, batch: bool) -> str:
    """Of a request, `interactive` or `batch`: its own, else that of the pools' tier."""
    return request.parameters.priority or ("batch" if batch else "interactive")


def plan(
    request: Request,
    view: ModelView,
    name: str,
    seed: int,
    batch: bool = False,
    reduced: Reduced | None = None,
) -> Plan:
    """What a worker of ImageModel `view` is asked for a request to the pool's model `name`, of tier batch or not.

    `reduced`: no more than that is drawn, whatever was asked for; None: all that was.

    Raises ApiError (400) where the model never serves such a request: `limit_exceeded`, `unsupported_mode`,
    `adapter_not_found`.
    """
    asked = request.parameters
    _check_mode(request.mode, view)
    _check_adapters(asked.adapters or (), view)
    steps = asked.num_inference_steps
    if steps is None and asked.quality in _QUALITIES_WITH_STEPS:
        steps = quality_steps(asked.quality, view.steps, view.max_steps)
    count = asked.n or 1
    size = _size(request, view)
    megapixels = _megapixels(request, size, view)
    _check_limit(view, "size", "maxMegapixels", view.max_megapixels, megapixels)
    _check_limit(view, "num_inference_steps", "maxSteps", view.max_steps, steps or view.steps)
    _check_limit(view, "n", "maxImages", view.max_images, count)
    whole = steps or view.steps, megapixels
    if reduced is not None:
        steps, size = _reduce(reduced, request, view, steps, size)
        megapixels = _megapixels(request, size, view)
    body = WorkerRequest(
        model=view.name,
        prompt=asked.prompt,
        negative_prompt=UNSET if asked.negative_prompt is None else asked.negative_prompt,
        n=count,
        width=UNSET if size is None else size[0],
        height=UNSET if size is None else size[1],
        # Sent only where the caller decides: there are pipelines that take no steps or guidance at all.
        steps=UNSET if steps is None else steps,
        guidance_scale=UNSET if asked.guidance_scale is None else asked.guidance_scale,
        seed=seed,
        output_format=asked.output_format or "png",
        output_compression=UNSET if asked.output_compression is None else asked.output_compression,
        response_format=asked.response_format or "b64_json",
        pool_model=name,
        quality=_QUALITY_NAMES.get(asked.quality) or asked.quality or "medium",
        adapters=asked.adapters or UNSET,
        priority=priority(request, batch),
        deadline_seconds=asked.deadline_seconds or UNSET,
        stream=asked.stream or False,
        partial_images=asked.partial_images or 0,
    )
    if request.image is not None or request.control_image is not None:
        _add_pictures(body, request)
    guidance = view.guidance_scale if asked.guidance_scale is None else asked.guidance_scale
    drawn = drawn_steps(request, steps or view.steps)
    less = (steps or view.steps, megapixels) != whole
    return Plan(view, body, work_units(megapixels, drawn, count, guidance), less)


def _reduce(
    reduced: Reduced, request: Request, view: ModelView, steps: int | None, size: tuple[int, int] | None
) -> tuple[int | None, tuple[int, int] | None]:
    """Steps and size, where they are more than may be drawn now; what is less stays as it is."""
    if reduced.steps is not None and (steps or view.steps) > reduced.steps:
        steps = reduced.steps
    asked = size
    if asked is None and request.image is not None:
        asked = request.image.width, request.image.height
    if asked is not None and reduced.fit(asked) != asked:
        size = reduced.fit(asked)
    return steps, size


def patience(body: WorkerRequest, wait_seconds: float) -> float:
    """Seconds after its arrival by which a request should begin: its deadline where the caller gave one.

    Else an hour for class batch, and `wait_seconds`, the pool's, for all others.
    """
    if body.deadline_seconds is not UNSET:
        return body.deadline_seconds
    return BATCH_DEADLINE_SECONDS if body.priority == "batch" else wait_seconds


def begin_within(body: WorkerRequest, wait_seconds: float, work_seconds: float) -> float:
    """Seconds after its arrival by which a request must begin to be in time: by its deadline it should be done.

    Example: wanted within 10 s, it takes 4 s: 6 s; without a deadline: `wait_seconds`, the pool's.
    """
    within = patience(body, wait_seconds)
    return within if body.deadline_seconds is UNSET else max(0.0, within - work_seconds)


def allowed_wait(body: WorkerRequest, wait_seconds: float) -> float:
    """Seconds after which a request that has not begun is late in the eyes of the operator.

    A deadline that is shorter than the pool's wait is the caller's wish, no reason for more workers.
    Example: of a pool with a wait of 30 s, a deadline of 5 s allows 30 s, one of 60 s allows 60 s.
    """
    return max(wait_seconds, patience(body, wait_seconds))


def _add_pictures(body: WorkerRequest, request: Request) -> None:
    for name in ("image", "mask", "control_image"):
        picture: Picture | None = getattr(request, name)
        if picture is not None:
            setattr(body, name, picture.data)
    for name in ("strength", "control_scale"):
        scale: float | None = getattr(request, name)
        if scale is not None:
            setattr(body, name, scale)


def _size(request: Request, view: ModelView) -> tuple[int, int] | None:
    """The size that the worker is told; None: that of the picture to edit, as near as the model can draw."""
    size = parse_size(request.parameters.size) if request.parameters.size else None
    return size or (view.size if request.image is None else None)


def _megapixels(request: Request, size: tuple[int, int] | None, view: ModelView) -> float:
    if size is not None:
        return size[0] * size[1] / 1e6
    assert request.image is not None
    # The worker draws a picture that is larger at most as large as the model may.
    return min(request.image.width * request.image.height / 1e6, view.max_megapixels)


def _check_limit(view: ModelView, param: str, limit: str, most: float, value: float) -> None:
    if value > most:
        raise invalid(
            "limit_exceeded",
            param,
            f"'{param}': {value:.4g} is over {limit} of model '{view.name}', which is {most:g}.",
        )


def _check_mode(mode: str, view: ModelView) -> None:
    if view.capabilities is not None and mode not in view.capabilities:
        raise invalid(
            "unsupported_mode",
            _MODE_PARAMETERS[mode],
            f"Model '{view.name}' does not do {mode}. It does: {', '.join(view.capabilities)}.",
        )


def _check_adapters(adapters: Sequence[Adapter], view: ModelView) -> None:
    for adapter in adapters:
        if adapter.name not in view.adapters:
            has = f"It has: {', '.join(view.adapters)}" if view.adapters else "It has none"
            raise invalid(
                "adapter_not_found",
                "adapters",
                f"Model '{view.name}' has no adapter '{adapter.name[:_NAME_SHOWN]}'. {has}.",
            )


def encode(
    body: WorkerRequest, seconds_passed: float, score: bool = False, resume: msgspec.Raw | None = None
) -> bytes:
    """The JSON that is sent. A deadline counts from the request's arrival here, `seconds_passed` ago.

    `score`: the pictures are compared with another ImageModel's. `resume`: where another worker left off, which
    workers take beside a request of any size.

    Raises ApiError (413 `body_too_large`): base64 makes pictures a third larger than they came.
    """
    deadline = body.deadline_seconds
    if deadline is not UNSET:
        left = max(_SOONEST_DEADLINE_SECONDS, deadline - seconds_passed)
        body = msgspec.structs.replace(body, deadline_seconds=left)
    if score:
        body = msgspec.structs.replace(body, score=True)
    beside = 0
    if resume is not None:
        body, beside = msgspec.structs.replace(body, resume=resume), len(memoryview(resume)) + _RESUME_BYTES
    encoded = _encoder.encode(body)
    if len(encoded) > MAX_BODY_BYTES + beside:
        raise body_too_large()
    return encoded


def drawn_steps(request: Request, steps: int) -> int:
    """Denoising steps that are drawn of `steps`: an edit begins part of the way, by its strength.

    Examples: 20 steps at strength 0.8 are 16; 4 at 0.2 are 1, since less is not drawn.
    """
    if request.image is None:
        return steps
    strength = DEFAULT_STRENGTH[request.mode] if request.strength is None else request.strength
    return max(1, int(steps * strength))


def work_units(megapixels: float, steps: int, count: int, guidance: float) -> float:
    """Megapixel-steps of a request: megapixels x steps drawn x images x (2 with classifier-free guidance,
    else 1).

    Guidance is classifier-free where the scale is over 1. Times seconds per megapixel-step this is the cost
    in GPU-seconds (docs/contract.md, Cost). Worked example: one 512x512 picture, 20 steps, guided:
    0.262144 x 20 x 1 x 2 = 10.48576; at 0.011 s that is 0.115 s.
    """
    return megapixels * steps * count * (2 if guidance > 1 else 1)
