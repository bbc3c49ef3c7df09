"""The body of ``POST /v1/generate``, checked as far as no model is needed. Pictures in it are decoded once, whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from imagefleet_runtime.worker import checkpoint, images
from imagefleet_runtime.worker.checkpoint import Checkpoint, CheckpointError
from imagefleet_runtime.worker.images import BadPictureError, Picture
from imagefleet_runtime.worker.schema import CHECKPOINT_UNUSABLE, INVALID_IMAGE, Base

MAX_SIDE = 16384  # pixels; the model's own limit is far lower
MAX_WHOLE = 2**53 - 1  # the largest whole number that JSON carries safely through every language
MAX_IMAGES = 128  # of one request, where the model sets no limit
MAX_ADAPTER_SCALE = 10.0
MAX_DEADLINE_SECONDS = 7 * 86400.0


def _picture(read: Callable[[bytes], Picture]) -> PlainValidator:
    def check(value: Any) -> Picture | None:
        if value is None:
            return None
        try:
            if not isinstance(value, str):
                raise BadPictureError("must be a picture in base64")
            return read(images.decode_base64(value))
        except BadPictureError as error:
            raise PydanticCustomError(INVALID_IMAGE, "{problem}", {"problem": str(error)}) from None

    return PlainValidator(check)


def _checkpoint(value: Any) -> Checkpoint | None:
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise CheckpointError("must be a checkpoint in base64")
        return checkpoint.read(images.decode_base64(value))
    except (CheckpointError, BadPictureError) as error:
        text = str(error).replace("picture", "checkpoint")
        raise PydanticCustomError(CHECKPOINT_UNUSABLE, "{problem}", {"problem": text}) from None


class AdapterBody(Base):
    name: Annotated[str, Field(min_length=1, max_length=63)]
    scale: Annotated[float, Field(ge=-MAX_ADAPTER_SCALE, le=MAX_ADAPTER_SCALE, allow_inf_nan=False)] = 1.0


class GenerateBody(Base):
    """None: the caller did not say."""

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(max_length=32000)]
    negative_prompt: Annotated[str, Field(max_length=32000)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = None
    height: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_WHOLE)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_WHOLE)] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    response_format: Literal["b64_json", "url"] = "b64_json"
    pool_model: str | None = None
    quality: str | None = None
    image: Annotated[Picture | None, _picture(images.read_picture)] = None
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    mask: Annotated[Picture | None, _picture(images.read_mask)] = None
    control_image: Annotated[Picture | None, _picture(images.read_picture)] = None
    control_scale: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    adapters: list[AdapterBody] = Field(default_factory=list, max_length=16)
    priority: Literal["interactive", "batch"] = "interactive"
    deadline_seconds: Annotated[float, Field(gt=0, le=MAX_DEADLINE_SECONDS)] | None = None
    score: bool = False
    resume: Annotated[Checkpoint | None, PlainValidator(_checkpoint)] = None
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0
