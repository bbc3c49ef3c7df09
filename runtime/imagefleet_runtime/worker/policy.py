"""What callers send, checked: the operator's policy and the gateway's requests. Refusals name the field."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.source import AUTO_CLASS

MAX_SIDE = 16384  # pixels; the model's own limit is far lower
MAX_WHOLE = 2**53 - 1  # the largest whole number that JSON carries safely through every language
# Kind of bad value that pydantic reports for a field that the schema does not have.
UNKNOWN_FIELD = "extra_forbidden"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Base(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PipelinePolicy(_Base):
    className: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = AUTO_CLASS  # noqa: N815
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"


class Defaults(_Base):
    steps: Annotated[int, Field(ge=1)] = 20
    guidanceScale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0  # noqa: N815
    size: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")] = "512x512"

    @property
    def width_height(self) -> tuple[int, int]:
        width, height = self.size.split("x")
        return int(width), int(height)


class Limits(_Base):
    """None: no limit."""

    maxMegapixels: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # noqa: N815
    maxSteps: Annotated[int, Field(ge=1)] | None = None  # noqa: N815
    maxImages: Annotated[int, Field(ge=1)] | None = None  # noqa: N815


class ModelPolicy(_Base):
    """One model that this worker must (``pinned``) or may hold."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]  # stands in headers
    path: Annotated[str, Field(pattern=r"^/")]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    pinned: bool = False
    pipeline: PipelinePolicy = PipelinePolicy()
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    memoryBytes: Annotated[int, Field(ge=0)] | None = None  # noqa: N815
    secondsPerMegapixelStep: Seconds | None = None  # noqa: N815
    loadSeconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None  # noqa: N815

    @property
    def identity(self) -> tuple[str, str, PipelinePolicy]:
        """What a loaded engine was made from: where this differs, the engine is replaced."""
        return self.path, self.digest, self.pipeline


class Policy(_Base):
    models: list[ModelPolicy]

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: list[ModelPolicy]) -> list[ModelPolicy]:
        names = [entry.model for entry in models]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"these models are named twice: {', '.join(repeated)}")
        return models


class GenerateBody(_Base):
    """The body of ``POST /v1/generate``; None: the caller did not say."""

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(max_length=32000)]
    negative_prompt: Annotated[str, Field(max_length=32000)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_WHOLE)] = 1
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


Body = TypeVar("Body", bound=BaseModel)


def parse(schema: type[Body], text: bytes) -> Body:
    """``text`` (JSON) as ``schema``. Raises ApiError 400 that names the first bad field and what it should be."""
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> errors.ApiError:
    # Never the input: a prompt must not come back in an error, which callers log.
    first: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = re.sub(r"\.(\d+)", r"[\1]", ".".join(str(part) for part in first["loc"])) or None
    if first["type"] == UNKNOWN_FIELD:
        return errors.invalid("unknown_parameter", f"unknown parameter {param!r}", param)
    return errors.invalid("invalid_value", f"{param or 'the body'}: {first['msg']}", param)
