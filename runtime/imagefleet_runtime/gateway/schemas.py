"""The parts of the cluster's objects that the gateway decodes, as they are served. What it does not use is skipped."""

from typing import Any

import msgspec


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    status: str
    message: str = ""


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    container_port: int
    name: str = ""


class _Container(msgspec.Struct, frozen=True, rename="camel"):
    ports: list[_Port] | None = None


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    containers: list[_Container] = []


class _PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    conditions: list[Condition] | None = None


class Pod(msgspec.Struct, frozen=True, rename="camel"):
    metadata: Meta
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _Latency(msgspec.Struct, frozen=True):
    p95: Any = None


class Slo(msgspec.Struct, frozen=True, rename="camel"):
    latency_seconds: _Latency | None = None


class _Fallback(msgspec.Struct, frozen=True):
    model: str = ""
    cached: bool = False


class _Stickiness(msgspec.Struct, frozen=True, rename="camel"):
    header: str = ""
    user_field: bool = False


class PoolModelSpec(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    model: str = ""
    slo: Slo | None = None
    suspend: bool = False
    fallback: _Fallback | None = None
    stickiness: _Stickiness | None = None


class _Scaling(msgspec.Struct, frozen=True, rename="camel"):
    wait_seconds: Any = None


class _Tenant(msgspec.Struct, frozen=True):
    name: str


class _BudgetSpec(msgspec.Struct, frozen=True, rename="camel"):
    tenant_header: str | None = None
    tenants: list[_Tenant] | None = None


class _PoolSpec(msgspec.Struct, frozen=True, rename="camel"):
    models: list[PoolModelSpec] = []
    suspend: bool = False
    tier: str = "interactive"
    scaling: _Scaling | None = None
    budget: _BudgetSpec | None = None


class Traffic(msgspec.Struct, frozen=True, rename="camel"):
    model: str
    percent: float


class PoolModelStatus(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    canary: str | None = None
    traffic: list[Traffic] | None = None
    mirror: list[Traffic] | None = None
    window: str | None = None


class _Suspension(msgspec.Struct, frozen=True):
    name: str = ""
    model: str = ""
    until: str | None = None


class _ScalingStatus(msgspec.Struct, frozen=True, rename="camel"):
    expected_at: str | None = None
    start_seconds: Any = None


class _TenantState(msgspec.Struct, frozen=True):
    name: str
    state: str = "Within"


class Budget(msgspec.Struct, frozen=True, rename="camel"):
    state: str = "Within"
    limit_gpu_hours: float | None = None
    tenants: list[_TenantState] | None = None


class _Spend(msgspec.Struct, frozen=True, rename="camel"):
    resets_at: str = ""


class PoolStatus(msgspec.Struct, frozen=True, rename="camel"):
    models: list[PoolModelStatus] | None = None
    suspensions: list[_Suspension] | None = None
    scaling: _ScalingStatus | None = None
    budget: Budget | None = None
    spend: _Spend | None = None


class Pool(msgspec.Struct, frozen=True, rename="camel"):
    metadata: Meta
    spec: _PoolSpec = _PoolSpec()
    status: PoolStatus | None = None


class _Defaults(msgspec.Struct, frozen=True, rename="camel"):
    """The API server fills in what is absent; these are the same values."""

    steps: int = 20
    guidance_scale: float = 5.0
    size: str = "512x512"


class _Limits(msgspec.Struct, frozen=True, rename="camel"):
    max_megapixels: float = 1.1
    max_steps: int = 50
    max_images: int = 4


class Degraded(msgspec.Struct, frozen=True):
    steps: int | None = None
    size: str | None = None


class _License(msgspec.Struct, frozen=True, rename="camel"):
    spdx: str | None = None


class _Adapter(msgspec.Struct, frozen=True, rename="camel"):
    name: str


class _ModelSpec(msgspec.Struct, frozen=True, rename="camel"):
    defaults: _Defaults = _Defaults()
    limits: _Limits = _Limits()
    capabilities: list[str] | None = None
    adapters: list[_Adapter] | None = None
    license: _License | None = None
    degraded: Degraded | None = None


class Size(msgspec.Struct, frozen=True, rename="camel"):
    size: str = ""
    max_batch: Any = None


class _Performance(msgspec.Struct, frozen=True, rename="camel"):
    seconds_per_megapixel_step: Any = None
    load_seconds: Any = None
    sizes: list[Size] | None = None


class ModelStatus(msgspec.Struct, frozen=True, rename="camel"):
    conditions: list[Condition] | None = None
    performance: list[_Performance] | None = None


class Model(msgspec.Struct, frozen=True, rename="camel"):
    metadata: Meta
    spec: _ModelSpec = _ModelSpec()
    status: ModelStatus | None = None
