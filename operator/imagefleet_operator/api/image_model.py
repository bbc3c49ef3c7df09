"""ImageModel: one immutable, verified version of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator

from imagefleet_operator.api.checks import Check, Checked, pattern
from imagefleet_operator.api.common import (
    ApiModel,
    Int32,
    Int64,
    Metadata,
    Status,
    list_map,
    name_length_rule,
    read_spec,
    read_status,
    rule,
    rules,
)
from imagefleet_operator.api.quantity import quantity_bytes

MODEL_NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_CLAIM = "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_FOLDER_NAME = "([^/.]|[.][^/.]|[.][.][^/])[^/]*"  # neither empty nor '.' nor '..'
URI_CHECKS = (
    pattern(
        "[A-Za-z0-9:/._@+=,~-]*",
        "uri may hold letters, digits and . _ - @ + = , ~ only: rename the folder (no spaces, no %-encoding)",
    ),
    pattern(
        "(file|pvc)://.*",
        "uri must begin with file:// or pvc://: write file:///models/NAME for a folder of the worker's "
        "image, or pvc://CLAIM/PATH for a folder of a PersistentVolumeClaim",
    ),
    pattern(
        "file:///[^/].*",
        "a file:// uri holds an absolute path, so three slashes: write file:///models/NAME",
        prefix="file://",
    ),
    pattern(
        f"pvc://{_CLAIM}/[^/].*",
        "a pvc:// uri holds the name of a PersistentVolumeClaim of this namespace and the folder in it: "
        "write pvc://CLAIM/PATH, the claim's name in lowercase letters, digits, '-' and '.'",
        prefix="pvc://",
    ),
    pattern(
        f"([a-z0-9]+://)?[^/]*(/{_FOLDER_NAME})*/?",
        "uri must not hold '.', '..' or empty parts: write the folder's own path",
    ),
)
DIGEST_CHECK = pattern(
    "sha256:[0-9a-f]{64}",
    "digest must be sha256: and 64 lowercase hex digits: copy what `imagefleet-worker verify --uri URI` "
    "prints, or leave digest out",
)
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
_SPDX_TERM = "[(]*[A-Za-z0-9][A-Za-z0-9.+:-]*[)]*"
SPDX_CHECK = pattern(
    f"{_SPDX_TERM}( (AND|OR|WITH) {_SPDX_TERM})*",
    "spdx must be an SPDX licence expression: write for example Apache-2.0, 'MIT OR Apache-2.0', or "
    "LicenseRef-NAME for terms that have no identifier",
)

_IMMUTABLE = (
    "cannot be changed: make a new ImageModel with its own name, and name that one in the pool's "
    "spec.models[].model"
)


class Source(ApiModel):
    """Where the files of a model are, and what they must be."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self == oldSelf", f"spec.source {_IMMUTABLE}", reason="FieldValueForbidden")
        )
    )

    uri: Annotated[str, Checked(*URI_CHECKS)] = Field(
        description="The folder with model_index.json and the weights. file:///PATH is a folder of the "
        "worker's image, or of a volume that the pool's podTemplate mounts. pvc://CLAIM/PATH is a folder of "
        "the PersistentVolumeClaim CLAIM of this namespace, which workers mount read-only. Required; cannot "
        "be changed.",
        min_length=1,
        max_length=1024,
    )
    digest: Annotated[str, Checked(DIGEST_CHECK)] | None = Field(
        default=None,
        description="The SHA-256 digest that the folder must have: sha256: and 64 hex digits, as "
        "`imagefleet-worker verify` prints it. Files with another digest never serve. Absent: whatever is "
        "there at verification, which status.digest then says. Cannot be changed.",
        max_length=71,
    )

    @property
    def claim(self) -> str | None:
        """The PersistentVolumeClaim that holds the folder; None for a file:// source."""
        scheme, _, rest = self.uri.partition("://")
        return rest.partition("/")[0] if scheme == "pvc" else None

    @property
    def folder(self) -> str:
        """The folder on a worker: file:///models/a is /models/a, pvc://weights/a is /pvc/weights/a."""
        path = (
            self.uri.removeprefix("file://")
            if self.claim is None
            else "/pvc/" + self.uri.removeprefix("pvc://")
        )
        return path.rstrip("/")


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
                f"!({SIZE_CHECK.cel.replace('self', 'self.defaults.size')}) || "
                "double(int(self.defaults.size.split('x')[0]) * int(self.defaults.size.split('x')[1])) <= "
                "self.limits.maxMegapixels * 1000000.0",
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
        )
    )

    source: Source = Field(
        description="Where the files of the model are, and what they must be. Cannot be changed."
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


class Performance(ApiModel):
    """What was measured on one kind of accelerator."""

    accelerator: str = Field(
        description="The accelerator's name as NVML gives it, cpu where there is none.", max_length=128
    )
    seconds_per_megapixel_step: float | None = Field(
        default=None, description="Seconds for one denoising step of one megapixel, without guidance.", ge=0
    )
    load_seconds: float | None = Field(
        default=None, description="Seconds from nothing to ready to draw.", ge=0
    )
    memory: int | str | None = Field(
        default=None,
        description="Memory of the accelerator that the loaded model and its largest request took.",
    )


class Copies(ApiModel):
    """How many workers hold the model."""

    available: Int32 = Field(default=0, description="Workers that hold it, ready to draw.", ge=0)
    total: Int32 = Field(default=0, description="Workers that hold it or should.", ge=0)
    failed: Int32 = Field(default=0, description="Workers on which it failed to load.", ge=0)


class ImageModelStatus(Status):
    """What the operator found out about a model."""

    digest: str | None = Field(
        default=None, description="The digest of the files, as verification computed it."
    )
    bytes: Int64 | None = Field(default=None, description="Size of the files, in bytes.", ge=0)
    class_name: str | None = Field(
        default=None, description="The pipeline class that model_index.json names."
    )
    performance: tuple[Performance, ...] = Field(
        default=(),
        description="What was measured, one entry for each kind of accelerator.",
        json_schema_extra=list_map("accelerator"),
    )
    copies: Copies | None = Field(default=None, description="How many workers, of all pools, hold the model.")


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
