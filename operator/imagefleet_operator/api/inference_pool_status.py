"""The status of an InferencePool: how its workers and each of its models stand."""

from pydantic import Field, JsonValue

from imagefleet_operator.api.budget import PoolBudgetStatus, Spend
from imagefleet_operator.api.common import ApiModel, Int32, Int64, Status, Time, list_map
from imagefleet_operator.api.rollout_status import (
    BudgetStatus,
    CommandStatus,
    ExperimentStatus,
    HistoryEntry,
    RolloutStatus,
    RolloutSummary,
    Suspension,
)
from imagefleet_operator.api.scaling_status import ScalingStatus, WarmStatus

_ATOMIC: dict[str, JsonValue] = {"x-kubernetes-list-type": "atomic"}


class Traffic(ApiModel):
    """One share of the requests for a name."""

    model: str = Field(description="The ImageModel that answers.")
    percent: Int32 = Field(
        description="Its share of the requests. All shares of a name's traffic add up to 100.", ge=0, le=100
    )


class PoolModelStatus(ApiModel):
    """How one of the pool's models stands."""

    name: str = Field(description="The name of spec.models[].")
    stable: str | None = Field(default=None, description="The ImageModel that serves it.")
    canary: str | None = Field(
        default=None,
        description="The ImageModel that a rollout is moving to; absent where none is under way.",
    )
    traffic: tuple[Traffic, ...] = Field(
        default=(),
        description="Which ImageModel gets which share of the requests.",
        json_schema_extra=list_map("model"),
    )
    mirror: tuple[Traffic, ...] = Field(
        default=(),
        description="Which ImageModel draws copies of which share of the requests, for nobody.",
        json_schema_extra=list_map("model"),
    )
    window: Time | None = Field(
        default=None,
        description="Since when the figures of canary and stable are counted: a new one begins with each weight.",
    )
    resident: Int32 = Field(default=0, description="Workers that hold it, ready to draw.", ge=0)
    ready: bool = Field(
        default=False, description="Whether at least minResident workers hold it, or it loads on demand."
    )
    rollout: RolloutStatus | None = Field(
        default=None,
        description="The rollout under way, or the one that was aborted last; absent after one that was promoted.",
    )
    experiments: tuple[ExperimentStatus, ...] = Field(
        default=(), description="How its experiments stand.", json_schema_extra=list_map("name")
    )
    budget: BudgetStatus | None = Field(
        default=None,
        description="How fast its error budget is used up; absent without slo or where too little was counted.",
    )


class AcceleratorStatus(ApiModel):
    """The accelerators of all workers together. What was not measured is absent."""

    name: str | None = Field(default=None, description="The accelerator's name as NVML gives it.")
    count: Int32 = Field(default=0, description="Accelerators of all workers.", ge=0)
    utilization: float | None = Field(
        default=None, description="Mean share of the time in use, 0 to 1.", ge=0, le=1
    )
    memory_used_bytes: Int64 | None = Field(
        default=None, description="Memory in use, the sum in bytes.", ge=0
    )
    memory_total_bytes: Int64 | None = Field(
        default=None, description="Memory there is, the sum in bytes.", ge=0
    )
    temperature_celsius: float | None = Field(default=None, description="The hottest one's temperature.")
    power_watts: float | None = Field(default=None, description="Power drawn, the sum.", ge=0)


class PrePullStatus(ApiModel):
    """How far nodes are prepared for workers."""

    nodes: Int32 = Field(default=0, description="Nodes that are to be prepared.", ge=0)
    ready: Int32 = Field(default=0, description="Nodes that are.", ge=0)


class InferencePoolStatus(Status):
    """How a pool stands."""

    desired_replicas: Int32 | None = Field(
        default=None,
        description="Workers that should take requests: as spec.replicas or the demand says, as far as bounds and "
        "budget allow.",
        ge=0,
    )
    replicas: Int32 = Field(default=0, description="Worker pods there are.", ge=0)
    ready_replicas: Int32 = Field(default=0, description="Worker pods that are Ready.", ge=0)
    selector: str = Field(
        default="", description="Label selector of the worker pods, as the scale subresource gives it."
    )
    models: tuple[PoolModelStatus, ...] = Field(
        default=(), description="How each of the pool's models stands.", json_schema_extra=list_map("name")
    )
    rollout: RolloutSummary | None = Field(
        default=None,
        description="The entry that rolls out, or the first one where none does, for kubectl get.",
    )
    history: tuple[HistoryEntry, ...] = Field(
        default=(),
        description="The last 10 rollouts that ended, the latest at the end.",
        json_schema_extra=_ATOMIC,
    )
    suspensions: tuple[Suspension, ...] = Field(
        default=(),
        description="Models that are suspended, and the last 10 that were. Gateways obey those without `until`.",
        json_schema_extra=_ATOMIC,
    )
    command: CommandStatus | None = Field(
        default=None, description="What came of the annotation imagefleet.dev/rollout."
    )
    budget: PoolBudgetStatus | None = Field(
        default=None, description="How it stands in spec.budget; absent without one."
    )
    spend: Spend | None = Field(default=None, description="What was spent today; absent without spec.budget.")
    pre_pull: PrePullStatus | None = Field(
        default=None, description="How far nodes are prepared for workers; absent without spec.prePull."
    )
    accelerator: AcceleratorStatus | None = Field(
        default=None, description="The accelerators of all workers together; absent where there is none."
    )
    scaling: ScalingStatus | None = Field(
        default=None,
        description="How many workers there should be and why; absent for a pool without scaling and warmPool.",
    )
    warm: WarmStatus | None = Field(
        default=None, description="The warm workers; absent for a pool without warmPool."
    )
