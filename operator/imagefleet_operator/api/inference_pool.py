"""InferencePool: workers that share one shape, and the models that they serve."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from imagefleet_operator.api.budget import BUDGET_CHECKS, Budget
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
from imagefleet_operator.api.inference_pool_status import InferencePoolStatus
from imagefleet_operator.api.pool_model import ENTRY_CHECKS, MAX_MODELS, PoolModel
from imagefleet_operator.api.scaling import BOUNDS_CHECK, Scaling, WarmPool
from imagefleet_operator.api.spot import Spot, Tier

# Bounded, since the cost that the API server grants a rule is that of the largest value there could be.
Quantities = Mapping[str, Annotated[int | str, Field(json_schema_extra={"maxLength": 32})]]
_RESOURCE_MESSAGE = (
    "resource must be an extended resource that a device plugin offers: write for example nvidia.com/gpu or "
    "nvidia.com/mig-1g.10gb, and count: 0 for workers without accelerator"
)
RESOURCE_CHECK = pattern(
    "[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", _RESOURCE_MESSAGE
)
NATIVE_RESOURCE_CHECK = Check(
    cel="!self.matches('^([^/]*[.])?kubernetes[.]io/')",
    holds=lambda resource: not f".{resource.partition('/')[0]}".endswith(".kubernetes.io"),
    message=f"{_RESOURCE_MESSAGE} (kubernetes.io is Kubernetes' own)",
)
IMAGE_CHECK = pattern(
    "[A-Za-z0-9][A-Za-z0-9._:/@-]*",
    "image must be the name of a container image: write for example "
    "registry.example.com/imagefleet-worker:0.1.0",
)
HOOK_CHECK = pattern(
    "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
    "a check is named as its entry point in the worker's image is, in letters, digits and . _ -: write for "
    "example shapes",
)
_QUANTITIES: dict[str, JsonValue] = {
    "maxProperties": 16,
    **rules(
        rule(
            "self.all(name, type(self[name]) == int ? self[name] >= 0 : isQuantity(self[name]) && "
            "!quantity(self[name]).isLessThan(quantity('0')))",
            "an amount must be a quantity that is not negative: write for example cpu: 500m, memory: 16Gi",
        )
    ),
}


class Accelerator(ApiModel):
    """What each worker draws on."""

    resource: Annotated[str, Checked(RESOURCE_CHECK, NATIVE_RESOURCE_CHECK)] = Field(
        default="nvidia.com/gpu",
        description="The extended resource, as the node's device plugin names it, for example "
        "nvidia.com/gpu.",
        min_length=1,
        max_length=253,
    )
    count: Int32 = Field(
        default=1, description="How many for each worker. 0: workers that draw on the CPU.", ge=0, le=64
    )


class Resources(ApiModel):
    """Other compute resources of each worker."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) "
                "|| !isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) || "
                "!quantity(string(self.requests[name])).isGreaterThan(quantity(string(self.limits[name]))))",
                "a request is larger than its limit: lower resources.requests or raise resources.limits",
                path=".requests",
            )
        )
    )

    requests: Quantities = Field(
        default_factory=dict,
        description='What each worker reserves, for example {cpu: "4", memory: 32Gi}.',
        json_schema_extra=_QUANTITIES,
    )
    limits: Quantities = Field(
        default_factory=dict,
        description="The most that each worker may use, for example {memory: 64Gi}.",
        json_schema_extra=_QUANTITIES,
    )


class PodTemplateMetadata(ApiModel):
    """Labels and annotations of the worker pods."""

    labels: Mapping[str, str] = Field(
        default_factory=dict,
        description="Labels that each worker pod gets besides the operator's own.",
        json_schema_extra={
            "maxProperties": 32,
            **rules(
                rule(
                    "self.all(key, !key.startsWith('imagefleet.dev/') && "
                    "!key.startsWith('app.kubernetes.io/'))",
                    "labels that begin with imagefleet.dev/ or app.kubernetes.io/ are the operator's: leave "
                    "them out, or use a prefix of your own",
                )
            ),
        },
    )
    annotations: Mapping[str, str] = Field(
        default_factory=dict, description="Annotations that each worker pod gets besides the operator's own."
    )


# A container, volume or toleration is whatever the cluster's own version of Kubernetes takes: the API server
# checks it when the operator applies the Deployment, and the WorkersReady condition carries what it says.
_NAMED_ITEMS: dict[str, JsonValue] = {
    "type": "array",
    **list_map("name"),
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "description": "Tells it apart from the others of its list."}
        },
        "x-kubernetes-preserve-unknown-fields": True,
    },
}
_POD_SPEC_SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "x-kubernetes-preserve-unknown-fields": True,
    "properties": {
        "containers": {
            "description": "Containers by name: `worker` is the operator's, others run beside it.",
            **_NAMED_ITEMS,
        },
        "initContainers": {"description": "Containers that run before the worker, by name.", **_NAMED_ITEMS},
        "volumes": {"description": "Volumes by name, besides the operator's own.", **_NAMED_ITEMS},
        "terminationGracePeriodSeconds": {
            "description": "Not to be set: it follows from worker.maxRequestSeconds.",
            "type": "integer",
            "format": "int64",
        },
    },
    **rules(
        rule(
            "!has(self.terminationGracePeriodSeconds)",
            "the grace period follows from worker.maxRequestSeconds (30 seconds more): leave "
            "terminationGracePeriodSeconds out and set worker.maxRequestSeconds",
            reason="FieldValueForbidden",
        )
    ),
}


class PodTemplate(ApiModel):
    """What is merged over the operator's own pod template."""

    metadata: PodTemplateMetadata = Field(
        default_factory=PodTemplateMetadata, description="Labels and annotations of the worker pods."
    )
    spec: Annotated[dict[str, Any], WithJsonSchema(_POD_SPEC_SCHEMA)] = Field(
        default_factory=dict,
        description="A PodSpec, merged over the operator's: nodeSelector, tolerations, affinity, volumes, "
        "imagePullSecrets and so on. Containers, init containers and volumes merge by name; the worker's "
        "container is `worker`.",
    )


class Checks(ApiModel):
    """What looks at each picture that a worker draws: hooks that the worker's image brings, by name."""

    safety: Annotated[str, Checked(HOOK_CHECK)] | None = Field(
        default=None,
        description="The entry point of the group imagefleet.safety_checks that decides whether a picture may be "
        "shown. Absent: all may.",
        min_length=1,
        max_length=63,
    )
    quality: Annotated[str, Checked(HOOK_CHECK)] | None = Field(
        default=None,
        description="The entry point of the group imagefleet.quality_scores that scores how well a picture shows "
        "what was asked for, 0 to 1. Absent: no picture is scored.",
        min_length=1,
        max_length=63,
    )


class Worker(ApiModel):
    """What each worker is made of."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.resources) || ((!has(self.resources.limits) || !(self.accelerator.resource in "
                "self.resources.limits)) && (!has(self.resources.requests) || !(self.accelerator.resource "
                "in self.resources.requests)))",
                "the accelerator is asked for in worker.accelerator: set worker.accelerator.count and leave "
                "it out of worker.resources",
                path=".resources",
                reason="FieldValueForbidden",
            )
        )
    )

    image: Annotated[str, Checked(IMAGE_CHECK)] | None = Field(
        default=None,
        description="Container image of the worker. Absent: the operator's own choice, which moves with its "
        "version.",
        min_length=1,
        max_length=512,
    )
    accelerator: Accelerator = Field(
        default_factory=Accelerator,
        description="What each worker draws on. Absent: one nvidia.com/gpu.",
        json_schema_extra={"default": {}},
    )
    checks: Checks = Field(
        default_factory=Checks, description="What looks at each picture. Absent: nothing does."
    )
    resources: Resources = Field(
        default_factory=Resources,
        description="Other compute resources of each worker, such as cpu and memory.",
    )
    max_request_seconds: Int32 = Field(
        default=300,
        description="The longest request, by its estimate, that a worker takes. A worker that ends has 30 "
        "seconds more than this to finish what it took.",
        ge=1,
        le=3600,
    )
    spot: Spot | None = Field(
        default=None,
        description="Where spot nodes are, for workers that may be interrupted. Absent: no worker knows of any.",
    )
    pod_template: PodTemplate = Field(
        default_factory=PodTemplate,
        description="What is merged over the operator's own pod template, for all that has no field here.",
    )


FLOOR_CHECK = Check(
    cel="(has(self.worker.checks) && has(self.worker.checks.safety)) || "
    "!self.models.exists(entry, has(entry.slo) && has(entry.slo.safetyPassRate))",
    holds=lambda spec: (
        spec.worker.checks.safety is not None
        or all(entry.slo.safety_pass_rate is None for entry in spec.models)
    ),
    message="slo.safetyPassRate is never measured without a safety check: set worker.checks.safety to the check's "
    "name, for example shapes",
    path=".worker.checks",
)
REPLICAS_CHECK = Check(
    cel="!has(self.replicas) || !has(self.scaling) || self.scaling.mode == 'External'",
    holds=lambda spec: spec.replicas is None or spec.scaling is None or spec.scaling.mode == "External",
    message="spec.scaling decides the number of workers: leave spec.replicas out and set scaling.minReplicas and "
    "scaling.maxReplicas, or set scaling.mode: External for kubectl scale or another autoscaler to write it",
    path=".replicas",
    reason="FieldValueForbidden",
)
FORECAST_CHECK = Check(
    cel="!has(self.warmPool) || !self.warmPool.forecast || (has(self.scaling) && self.scaling.mode == 'Internal')",
    holds=lambda spec: (
        spec.warm_pool is None
        or not spec.warm_pool.forecast
        or (spec.scaling is not None and spec.scaling.mode == "Internal")
    ),
    message="warmPool.forecast needs a demand that is learned: set spec.scaling with mode: Internal instead of "
    "spec.replicas, or write a warmPool.schedule",
    path=".warmPool.forecast",
)
POOL_CHECKS = (FLOOR_CHECK, REPLICAS_CHECK, FORECAST_CHECK)


class InferencePoolSpec(ApiModel):
    """What a pool serves, on what, and how large it is."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.replicas) || has(self.scaling)",
                "set spec.replicas to the number of workers: for example replicas: 1 (kubectl scale changes "
                "it later), or spec.scaling for a number that follows the demand: for example scaling: "
                "{maxReplicas: 4}",
                path=".replicas",
                reason="FieldValueRequired",
            ),
            *(rule(c.cel, c.message, path=c.path, reason=c.reason) for c in POOL_CHECKS),
        )
    )

    models: tuple[Annotated[PoolModel, Checked(*ENTRY_CHECKS)], ...] = Field(
        description="The models that the pool serves, at least one. Every worker of the pool may hold each "
        "of them.",
        max_length=MAX_MODELS,
        json_schema_extra={
            **list_map("name"),
            **rules(
                rule(
                    "self.size() > 0",
                    "name at least one model: for example models: [{name: shapes, model: shapes-1}]",
                    reason="FieldValueRequired",
                )
            ),
        },
    )
    worker: Worker = Field(
        default_factory=Worker, description="What each worker is made of.", json_schema_extra={"default": {}}
    )
    tier: Tier = Field(
        default="interactive",
        description="interactive: requests are somebody's who waits. batch: they go behind interactive ones and wait "
        "longer at the gateway, unless they say `priority` themselves.",
    )
    pre_pull: bool = Field(
        default=False,
        description="true: each node where the pool's workers may run has their image before the first of them comes "
        "and, where workers share a node cache, the files of the pool's remote models.",
    )
    suspend: bool = Field(
        default=False,
        description="true: the pool draws nothing, and what is under way is ended. It stays so until this is "
        "false again, whether the operator runs or not.",
    )
    budget: Annotated[Budget, Checked(*BUDGET_CHECKS)] | None = Field(
        default=None,
        description="What the pool may spend in a day. Absent: no limit, and nothing is counted.",
    )
    replicas: Int32 | None = Field(
        default=None,
        description="Workers of the pool. 0 stops them all and keeps the pool. `kubectl scale` sets it. With scaling "
        "it is there in mode External alone; absent there: scaling.minReplicas.",
        ge=0,
    )
    scaling: Annotated[Scaling, Checked(BOUNDS_CHECK)] | None = Field(
        default=None,
        description="Have the number of workers follow the demand, instead of replicas.",
    )
    warm_pool: WarmPool | None = Field(
        default=None,
        description="Workers that wait without requests, so that one that is needed takes them at once. Absent: none.",
    )

    @model_validator(mode="after")
    def _fields_together(self) -> Self:
        for check in POOL_CHECKS:
            if not check.holds(self):
                raise ValueError(check.message)
        return self


@dataclass(frozen=True, slots=True)
class InferencePool:
    """Generic workers of one shape, and the models that they serve."""

    metadata: Metadata
    spec: InferencePoolSpec
    status: InferencePoolStatus

    SPEC: ClassVar[type[InferencePoolSpec]] = InferencePoolSpec
    STATUS: ClassVar[type[InferencePoolStatus]] = InferencePoolStatus
    KIND: ClassVar[str] = "InferencePool"
    PLURAL: ClassVar[str] = "inferencepools"
    RULES: ClassVar[dict[str, JsonValue]] = rules(
        name_length_rule("InferencePool"),
        rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name of an InferencePool holds lowercase letters, digits and '-' only, begins with a "
            "letter and ends with a letter or digit (it names a Service): write for example thumbnails",
        ),
    )

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> "InferencePool":
        """Read an InferencePool of the cluster. Raises InvalidResource."""
        metadata = Metadata.parse(obj)
        return cls(metadata, read_spec(InferencePoolSpec, obj), read_status(InferencePoolStatus, obj))
