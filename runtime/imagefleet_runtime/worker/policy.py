"""The operator's policy, checked: which models this worker must and may hold. Refusals name the field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from imagefleet_runtime.worker import messages
from imagefleet_runtime.worker.schema import Base
from imagefleet_runtime.worker.source import AUTO_CLASS

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")]
Folder = Annotated[str, Field(pattern=r"^/")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
MODES: tuple[messages.Mode, ...] = ("text-to-image", "image-to-image", "inpainting")


def width_height(size: str) -> tuple[int, int]:
    """Pixels of a size. Example: ``512x768`` is (512, 768)."""
    width, height = size.split("x")
    return int(width), int(height)


class StepCachePolicy(Base):
    type: Literal["FirstBlock", "TaylorSeer", "PyramidAttention"]
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _threshold_is_of_first_block(self) -> StepCachePolicy:
        if self.threshold is not None and self.type != "FirstBlock":
            raise ValueError(f"threshold is for FirstBlock; {self.type} has none")
        return self


class PipelinePolicy(Base):
    className: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = AUTO_CLASS  # noqa: N815
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    quantization: Literal[
        "none", "int8-weight-only", "int8-dynamic", "int4-weight-only", "float8-weight-only", "float8-dynamic"
    ] = "none"
    compile: Literal["none", "regional"] = "none"
    attention: Literal["auto", "native", "flash", "sage", "xformers"] = "auto"
    stepCache: StepCachePolicy | None = None  # noqa: N815

    def options(self) -> messages.Options:
        cache = self.stepCache
        return messages.Options(
            class_name=self.className,
            dtype=self.dtype,
            quantization=self.quantization,
            compile=self.compile,
            attention=self.attention,
            step_cache=None if cache is None else messages.StepCache(cache.type, cache.threshold),
        )


class Defaults(Base):
    steps: Annotated[int, Field(ge=1)] = 20
    guidanceScale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0  # noqa: N815
    size: Size = "512x512"

    @property
    def width_height(self) -> tuple[int, int]:
        return width_height(self.size)


class Limits(Base):
    """None: no limit."""

    maxMegapixels: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # noqa: N815
    maxSteps: Annotated[int, Field(ge=1)] | None = None  # noqa: N815
    maxImages: Annotated[int, Field(ge=1)] | None = None  # noqa: N815


class _Sourced(Base):
    """Files in a folder (``path``), or to be fetched from ``uri`` with the keys in the folder ``credentials``."""

    path: Folder | None = None
    uri: Annotated[str, Field(pattern=r"^(hf|s3|gs|oci)://\S+$")] | None = None
    credentials: Folder | None = None

    @model_validator(mode="after")
    def _one_source(self) -> _Sourced:
        if (self.path is None) == (self.uri is None):
            raise ValueError("give one of path and uri")
        if self.credentials is not None and self.uri is None:
            raise ValueError("credentials are for a uri")
        return self


class AdapterPolicy(_Sourced):
    """A LoRA that requests to the model may use."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    digest: Digest


class ModelPolicy(_Sourced):
    """One model that this worker must (``pinned``) or may hold."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]  # stands in headers
    digest: Digest
    pinned: bool = False
    preload: bool = False
    suspended: bool = False
    pipeline: PipelinePolicy = PipelinePolicy()
    sizes: list[Size] = Field(default_factory=list)
    capabilities: Annotated[list[messages.Mode], Field(min_length=1)] | None = None
    adapters: list[AdapterPolicy] = Field(default_factory=list)
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    memoryBytes: Annotated[int, Field(ge=0)] | None = None  # noqa: N815
    secondsPerMegapixelStep: Seconds | None = None  # noqa: N815
    loadSeconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None  # noqa: N815

    @field_validator("adapters")
    @classmethod
    def _adapters_differ(cls, adapters: list[AdapterPolicy]) -> list[AdapterPolicy]:
        _check_names("adapters", (adapter.name for adapter in adapters))
        return adapters

    @property
    def identity(self) -> object:
        """What a loaded engine is made from: where this differs, the engine is replaced.

        Not the sizes, which it only measures: a size that is added is measured at the next load, and until then drawn
        without having been.
        """
        return _files(self), self.pipeline, {adapter.name: _files(adapter) for adapter in self.adapters}

    @property
    def warm_sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of what is drawn before the model serves: the default first, none twice."""
        named = [width_height(size) for size in self.sizes]
        return tuple(dict.fromkeys([self.defaults.width_height, *named]))

    def modes(self, of_pipeline: Iterable[messages.Mode] = MODES) -> tuple[messages.Mode, ...]:
        """Those modes of a pipeline that ``capabilities`` leaves it."""
        return tuple(mode for mode in of_pipeline if self.capabilities is None or mode in self.capabilities)


def _files(sourced: ModelPolicy | AdapterPolicy) -> tuple[str | None, str | None, str]:
    return sourced.path, sourced.uri, sourced.digest


class Policy(Base):
    models: list[ModelPolicy]

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: list[ModelPolicy]) -> list[ModelPolicy]:
        _check_names("models", (entry.model for entry in models))
        return models


def _check_names(what: str, given: Iterable[str]) -> None:
    """Raises ValueError where a name is there twice."""
    names = list(given)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"these {what} are named twice: {', '.join(repeated)}")
