"""ImageModel: one immutable, verified version of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator

from imagefleet_operator.api.checks import Check, Checked, pattern
from imagefleet_operator.api.common import (
    ApiModel,
    Int32,
    Metadata,
    list_map,
    name_length_rule,
    read_spec,
    read_status,
    rule,
    rules,
)
from imagefleet_operator.api.image_model_status import ImageModelStatus
from imagefleet_operator.api.quantity import quantity_bytes
from imagefleet_operator.api.source import AdapterSource, Source

MODEL_NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
CLASS_NAME_CHECK = pattern(
    "AutoPipelineForText2Image|[A-Za-z_][A-Za-z0-9_]*Pipeline",
    "className must be the name of a diffusers pipeline class: write for example StableDiffusionXLPipeline, "
    "or leave it out for AutoPipelineForText2Image",
)
SIZE_CHECK = pattern(
    "[1-9][0-9]{1,4}x[1-9][0-9]{1,4}", "size must be WIDTHxHEIGHT in pixels: write for example 512x512"
)
SIZE_STEP_CHECK = Check(
    cel=f"!({SIZE_CHECK.cel}) || self.split('x').all(side, int(side) % 8 == 0)",
    holds=lambda size: not SIZE_CHECK.holds(size) or all(int(side) % 8 == 0 for side in size.split("x")),
    message="width and height must be multiples of 8: write for example 512x768",
)
ADAPTER_NAME_CHECK = pattern(
    "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
    "an adapter's name may hold letters, digits and . _ - only, and begins and ends with a letter or digit: "
    "write for example pixel-art",
)
Capability = Literal["text-to-image", "image-to-image", "inpainting"]
MAX_ADAPTERS = 16
MAX_SIZES = 16
_SPDX_TERM = "[(]*[A-Za-z0-9][A-Za-z0-9.+:-]*[)]*"
SPDX_CHECK = pattern(
    f"{_SPDX_TERM}( (AND|OR|WITH) {_SPDX_TERM})*",
    "spdx must be an SPDX licence expression: write for example Apache-2.0, 'MIT OR Apache-2.0', or "
    "LicenseRef-NAME for terms that have no identifier",
)


def _within_limit(size: str) -> str:
    """CEL: whether a text is no size, or one of at most limits.maxMegapixels."""
    sides = f"int({size}.split('x')[0]) * int({size}.split('x')[1])"
    return f"!({SIZE_CHECK.cel.replace('self', size)}) || double({sides}) <= self.limits.maxMegapixels * 1000000.0"


_IMMUTABLE = (
    "cannot be changed: make a new ImageModel with its own name, and name that one in the pool's "
    "spec.models[].model"
)


class StepCache(ApiModel):
    """What of a step is taken from the step before instead of computed anew."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.threshold) || self.type == 'FirstBlock'",
                "threshold is FirstBlock's alone: leave it out, or set type: FirstBlock",
                path=".threshold",
                reason="FieldValueForbidden",
            )
        )
    )

    type: Literal["FirstBlock", "TaylorSeer", "PyramidAttention"] = Field(
        description="FirstBlock: all other blocks are skipped while the first one changes little. TaylorSeer: what "
        "blocks give is extrapolated. PyramidAttention: attention is repeated."
    )
    threshold: float | None = Field(
        default=None,
        description="Of FirstBlock: the largest relative change of the first block at which the other ones are "
        "skipped. Higher is faster and further from the exact picture. Absent: the worker's own choice.",
        gt=0,
        le=1,
    )


class Pipeline(ApiModel):
    """How diffusers loads the folder."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self == oldSelf", f"spec.pipeline {_IMMUTABLE}", reason="FieldValueForbidden")
        )
    )

    class_name: Annotated[str, Checked(CLASS_NAME_CHECK)] = Field(
        default="AutoPipelineForText2Image",
        description="The diffusers pipeline class that loads the folder. AutoPipelineForText2Image finds it "
        "from model_index.json; a class of your choice must be the one that model_index.json names. Cannot "
        "be changed.",
        min_length=1,
        max_length=128,
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto",
        description="The number format of the weights in memory: float32, float16 or bfloat16. auto is "
        "bfloat16 on an accelerator and float32 without one. Cannot be changed.",
    )
    quantization: Literal[
        "none", "int8-weight-only", "int8-dynamic", "int4-weight-only", "float8-weight-only", "float8-dynamic"
    ] = Field(
        default="none",
        description="The number format of the denoiser's weights, and with -dynamic of its activations too, by "
        "torchao. A worker whose accelerator cannot do it says OptionUnsupported. Cannot be changed.",
    )
    compile: Literal["none", "regional"] = Field(
        default="none",
        description="regional: the denoiser's repeated blocks are compiled by torch when the model is loaded. "
        "Cannot be changed.",
    )
    attention: Literal["auto", "native", "flash", "sage", "xformers"] = Field(
        default="auto",
        description="The attention backend of diffusers. auto is torch's own choice. Cannot be changed.",
    )
    step_cache: StepCache | None = Field(
        default=None,
        description="What of a step is taken from the step before. Absent: nothing, every step is computed in "
        "full. Cannot be changed.",
    )


class Adapter(ApiModel):
    """A LoRA adapter that a request may ask for by its name."""

    name: Annotated[str, Checked(ADAPTER_NAME_CHECK)] = Field(
        description="The name by which requests ask for it. Unique in the model.", min_length=1, max_length=63
    )
    source: AdapterSource = Field(description="Where its file is, and what it must be.")


class Defaults(ApiModel):
    """What a request that does not say otherwise gets."""

    steps: Int32 = Field(
        default=20, description="Denoising steps of a request that names none.", ge=1, le=1000
    )
    guidance_scale: float = Field(
        default=5.0,
        description="Guidance scale of a request that names none. Over 1, guidance is classifier-free and "
        "doubles the work.",
        ge=0,
        le=100,
    )
    size: Annotated[str, Checked(SIZE_CHECK, SIZE_STEP_CHECK)] = Field(
        default="512x512",
        description="Size of a request that names none, WIDTHxHEIGHT in pixels, each a multiple of 8. Set "
        "it to what the model was trained for.",
        max_length=11,
    )

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return int(self.size.split("x")[0])

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return int(self.size.split("x")[1])


class Limits(ApiModel):
    """The most that one request may ask for; more is refused, never trimmed."""

    max_megapixels: float = Field(
        default=1.1,
        description="The largest picture, in millions of pixels: 1024x1024 is 1.048576.",
        gt=0,
        le=64,
    )
    max_steps: Int32 = Field(default=50, description="The most denoising steps.", ge=1, le=1000)
    max_images: Int32 = Field(default=4, description="The most pictures of one request (n).", ge=1, le=10)


DEGRADED_CHECK = Check(
    cel="has(self.steps) || has(self.size)",
    holds=lambda degraded: degraded.steps is not None or degraded.size is not None,
    message="degraded says what a picture may be reduced to: set steps, for example 8, size, for example 256x256, "
    "or both",
)


class Degraded(ApiModel):
    """What a picture may be reduced to while a budget asks for it."""

    steps: Int32 | None = Field(
        default=None, description="The most denoising steps then. Absent: as many as ever.", ge=1, le=1000
    )
    size: Annotated[str, Checked(SIZE_CHECK, SIZE_STEP_CHECK)] | None = Field(
        default=None,
        description="No more pixels than of this size then, WIDTHxHEIGHT; a picture's shape stays as it was asked "
        "for. Absent: as many as ever.",
        max_length=11,
    )


class License(ApiModel):
    """Under what terms the model may be used."""

    spdx: Annotated[str, Checked(SPDX_CHECK)] = Field(
        description="SPDX licence expression, for example Apache-2.0 or LicenseRef-my-terms.",
        min_length=1,
        max_length=128,
    )


class ImageModelSpec(ApiModel):
    """What a model is and how it may be used."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                _within_limit("self.defaults.size"),
                "defaults.size is larger than limits.maxMegapixels allows: make defaults.size smaller or "
                "limits.maxMegapixels larger (1024x1024 needs 1.05)",
                path=".defaults.size",
            ),
            rule(
                "self.defaults.steps <= self.limits.maxSteps",
                "defaults.steps is over limits.maxSteps: lower defaults.steps (20 where absent) or raise "
                "limits.maxSteps",
                path=".defaults.steps",
            ),
            rule(
                f"!has(self.sizes) || self.sizes.all(size, {_within_limit('size')})",
                "a size is larger than limits.maxMegapixels allows: make it smaller, leave it out, or make "
                "limits.maxMegapixels larger (1024x1024 needs 1.05)",
                path=".sizes",
            ),
            rule(
                "(has(self.adapters) ? self.adapters : []) == (has(oldSelf.adapters) ? oldSelf.adapters : [])",
                f"spec.adapters {_IMMUTABLE}",
                path=".adapters",
                reason="FieldValueForbidden",
            ),
        )
    )

    source: Source = Field(
        description="Where the files of the model are, and what they must be. Cannot be changed.",
        json_schema_extra=rules(
            rule("self == oldSelf", f"spec.source {_IMMUTABLE}", reason="FieldValueForbidden")
        ),
    )
    pipeline: Pipeline = Field(
        default_factory=Pipeline,
        description="How diffusers loads the folder. Cannot be changed.",
        json_schema_extra={"default": {}},
    )
    defaults: Defaults = Field(
        default_factory=Defaults,
        description="What a request that does not say otherwise gets.",
        json_schema_extra={"default": {}},
    )
    limits: Limits = Field(
        default_factory=Limits,
        description="The most that one request may ask for; more is refused, never trimmed.",
        json_schema_extra={"default": {}},
    )
    degraded: Annotated[Degraded, Checked(DEGRADED_CHECK)] | None = Field(
        default=None,
        description="What pictures are reduced to while a pool's budget is nearly used up and its onExhausted is "
        "degrade. Absent: they never are.",
    )
    sizes: tuple[Annotated[str, Checked(SIZE_CHECK, SIZE_STEP_CHECK), Field(max_length=11)], ...] = Field(
        default_factory=tuple,
        description="Sizes that a worker warms and measures, besides defaults.size, before the model counts as "
        "resident: WIDTHxHEIGHT in pixels. Other sizes are drawn too, the first time more slowly. A size that is "
        "added is measured at the next load.",
        max_length=MAX_SIZES,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    capabilities: tuple[Capability, ...] = Field(
        default_factory=tuple,
        description="What the model may be used for. Absent: all that its pipeline can do.",
        max_length=3,
        json_schema_extra={
            "x-kubernetes-list-type": "set",
            **rules(
                rule(
                    "self.size() > 0",
                    "name at least one capability, or leave capabilities out: then the model may be used for all "
                    "that its pipeline can do",
                )
            ),
        },
    )
    adapters: tuple[Adapter, ...] = Field(
        default_factory=tuple,
        description="LoRA adapters that requests may ask for. Cannot be changed.",
        max_length=MAX_ADAPTERS,
        json_schema_extra=list_map("name"),
    )
    memory: int | str | None = Field(
        default=None,
        description="Memory of the accelerator that the loaded model and its largest request take, for "
        "example 7Gi. Absent: measured when a worker loads it, and reported in status.performance.",
        json_schema_extra=rules(
            rule(
                "type(self) == int ? self > 0 : isQuantity(self) && "
                "quantity(self).isGreaterThan(quantity('0'))",
                "memory must be a positive quantity: write for example 7Gi, or leave it out to have it "
                "measured",
            )
        ),
    )
    license: License | None = Field(default=None, description="Under what terms the model may be used.")

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes; None where it is to be measured."""
        return None if self.memory is None else quantity_bytes(self.memory)

    @field_validator("memory")
    @classmethod
    def _known_memory(cls, memory: int | str | None) -> int | str | None:
        if memory is not None:
            quantity_bytes(memory)
        return memory


@dataclass(frozen=True, slots=True)
class ImageModel:
    """One immutable, verified version of a model: weights, digest, pipeline and limits."""

    metadata: Metadata
    spec: ImageModelSpec
    status: ImageModelStatus

    SPEC: ClassVar[type[ImageModelSpec]] = ImageModelSpec
    STATUS: ClassVar[type[ImageModelStatus]] = ImageModelStatus
    KIND: ClassVar[str] = "ImageModel"
    PLURAL: ClassVar[str] = "imagemodels"
    RULES: ClassVar[dict[str, JsonValue]] = rules(
        name_length_rule("ImageModel"),
        rule(
            f"self.metadata.name.matches('^{MODEL_NAME}$')",
            "metadata.name of an ImageModel holds lowercase letters, digits and '-' only, no '.', and "
            "begins and ends with a letter or digit: write for example sdxl-1-0",
        ),
    )

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> "ImageModel":
        """Read an ImageModel of the cluster. Raises InvalidResource."""
        metadata = Metadata.parse(obj)
        return cls(metadata, read_spec(ImageModelSpec, obj), read_status(ImageModelStatus, obj))
