"""The status of an ImageModel: what the operator found out about it."""

from pydantic import Field

from imagefleet_operator.api.common import ApiModel, Int32, Int64, Status, list_map

MAX_MEASURED_SIZES = 64


class SizePerformance(ApiModel):
    """What was measured of one size."""

    size: str = Field(description="WIDTHxHEIGHT in pixels.", max_length=11)
    max_batch: Int32 | None = Field(
        default=None,
        description="Pictures that are drawn at once: as many as fit and still gain throughput.",
        ge=1,
    )
    seconds_per_step: float | None = Field(
        default=None, description="Seconds for one denoising step of one picture.", ge=0
    )


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
    modes: tuple[str, ...] = Field(
        default=(),
        description="What the model can be used for there: text-to-image, image-to-image, inpainting.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    sizes: tuple[SizePerformance, ...] = Field(
        default=(),
        description="What was measured of each size.",
        max_length=MAX_MEASURED_SIZES,
        json_schema_extra=list_map("size"),
    )
    unsupported: str | None = Field(
        default=None,
        description="Why this accelerator cannot do what spec.pipeline asks, in the worker's words. Absent where it "
        "can, and where nobody tried.",
        max_length=512,
    )


class Copies(ApiModel):
    """How many workers hold the model."""

    available: Int32 = Field(default=0, description="Workers that hold it, ready to draw.", ge=0)
    total: Int32 = Field(default=0, description="Workers that hold it or should.", ge=0)
    failed: Int32 = Field(default=0, description="Workers on which it failed to load.", ge=0)
    fetching: Int32 = Field(default=0, description="Workers that fetch its files.", ge=0)
    bytes_fetched: Int64 | None = Field(
        default=None,
        description="What these have fetched by now, the sum in bytes; at most a percent behind.",
        ge=0,
    )
    bytes_total: Int64 | None = Field(
        default=None, description="What these have to fetch, the sum in bytes.", ge=0
    )


class AdapterStatus(ApiModel):
    """What verification found out about an adapter."""

    name: str = Field(description="The name of spec.adapters[].")
    digest: str = Field(description="The digest of its folder, as verification computed it.")
    bytes: Int64 | None = Field(default=None, description="Size of the file, in bytes.", ge=0)


class ImageModelStatus(Status):
    """What the operator found out about a model."""

    digest: str | None = Field(
        default=None, description="The digest of the files, as verification computed it."
    )
    bytes: Int64 | None = Field(default=None, description="Size of the files, in bytes.", ge=0)
    class_name: str | None = Field(
        default=None, description="The pipeline class that model_index.json names."
    )
    adapters: tuple[AdapterStatus, ...] = Field(
        default=(),
        description="The adapters that were verified.",
        json_schema_extra=list_map("name"),
    )
    performance: tuple[Performance, ...] = Field(
        default=(),
        description="What was measured, one entry for each kind of accelerator.",
        json_schema_extra=list_map("accelerator"),
    )
    copies: Copies | None = Field(default=None, description="How many workers, of all pools, hold the model.")
