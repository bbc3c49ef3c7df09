"""The values that plans are made of: specs as read, what workers report, and all that is observed of a pool or a model.

All of them are frozen. Their JSON-shaped fields (dicts and lists) are never changed after construction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from imagefleet_operator.plan.capacity_types import Load, PoolScaling, WarmSpec
from imagefleet_operator.plan.cluster_types import Child, DaemonSetState, DeploymentState, Pod, Role
from imagefleet_operator.plan.rollout_types import Experiment, NameFigures, RolloutSpec, Shadow, Slo
from imagefleet_operator.plan.spend_types import BudgetSpec, Counted
from imagefleet_operator.plan.spot_types import SpotSpec

S = TypeVar("S")
Json = dict[str, Any]
Name = tuple[str, str]
"""Namespace and name."""
UNSUPPORTED = "OptionUnsupported"
"""A worker's reason where the device or the pipeline cannot do what a model's ``spec.pipeline`` asks."""


@dataclass(frozen=True, slots=True)
class PoolModel:
    """One entry of an InferencePool's ``spec.models``."""

    name: str
    model: str
    min_resident: int = 1
    rollout: RolloutSpec = field(default_factory=RolloutSpec)
    slo: Slo = field(default_factory=Slo)
    experiments: tuple[Experiment, ...] = ()
    shadow: Shadow | None = None
    suspend: bool = False

    @property
    def references(self) -> tuple[str, ...]:
        """The models that its spec names, each once."""
        named = [self.model, *(model for e in self.experiments for model, _ in e.arms)]
        return tuple(dict.fromkeys([*named, self.shadow.model] if self.shadow else named))


def grace_seconds(max_request_seconds: int) -> int:
    """What a worker's pod has to end: the longest request that it may have begun, and 30 s.

    Worked example: 300 is 330.
    """
    return max_request_seconds + 30


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """An InferencePool's spec, defaults filled in."""

    models: tuple[PoolModel, ...]
    replicas: int
    """Workers that should take requests. With ``scaling``: before anything was decided."""
    image: str | None = None
    """None: the operator's default worker image."""
    accelerator_resource: str = "nvidia.com/gpu"
    accelerator_count: int = 1
    resources: Json = field(default_factory=dict)
    max_request_seconds: int = 300
    pod_template: Json = field(default_factory=dict)
    suspend: bool = False
    safety_check: str = ""
    """The worker's entry point that says which pictures may be shown; empty: none."""
    quality_score: str = ""
    """The worker's entry point that says how good a picture is; empty: none."""
    scaling: PoolScaling | None = None
    warm: WarmSpec | None = None
    spot: SpotSpec | None = None
    """None: no worker is on a spot node."""
    pre_pull: bool = False
    """Whether nodes are to have image and models before workers come."""
    budget: BudgetSpec | None = None
    shortened: str = ""
    """Why there are to be fewer replicas than the spec says; empty: as many."""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where files are, and how a worker reaches them."""

    uri: str
    folder: str | None = None
    """Where workers see the files, e.g. ``/pvc/weights/sdxl``; None where they fetch them."""
    claim: str | None = None
    """The PersistentVolumeClaim that holds them, None where no claim does."""
    digest: str | None = None
    secret: str | None = None
    """The Secret with the credentials to fetch them, None where it takes none."""

    @property
    def remote(self) -> bool:
        """Whether workers fetch the files."""
        return self.folder is None

    @property
    def credentials(self) -> str | None:
        """The folder in pods that the Secret is mounted at."""
        return None if self.secret is None else f"/secrets/{self.secret}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An ImageModel's spec. The JSON fields are handed to workers as they are."""

    source: SourceSpec
    adapters: Mapping[str, SourceSpec] = field(default_factory=dict)
    """By name, in the order of the spec."""
    pipeline: Json = field(default_factory=dict)
    """What is not the default: a worker whose image is older than an option is not told of it for nothing."""
    defaults: Json = field(default_factory=dict)
    limits: Json = field(default_factory=dict)
    sizes: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    memory_bytes: int | None = None
    """None: not given; measured or estimated from the files."""

    @property
    def sources(self) -> tuple[SourceSpec, ...]:
        """The model's own and its adapters'."""
        return (self.source, *self.adapters.values())


@dataclass(frozen=True, slots=True)
class Parent(Generic[S]):
    """One of our two resources, as last seen. ``spec`` is None where it could not be read; ``error`` says
    why."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    spec: S | None
    error: str
    status: Json
    command: str = ""
    """The annotation ``imagefleet.dev/rollout`` of a pool, empty where it has none."""
    authors: Mapping[str, str] = field(default_factory=dict)
    """Who set ``model`` of a pool's entries last: field managers by the entry's name, as far as known."""


@dataclass(frozen=True, slots=True)
class SizeReport:
    """What a worker measured of one size of a model."""

    size: str
    max_batch: int | None = None
    seconds_per_step: float | None = None


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model in a worker's report. Numbers that were not measured are None."""

    model: str
    state: str
    pinned: bool
    digest: str = ""
    reason: str = ""
    message: str = ""
    memory_bytes: int | None = None
    seconds_per_megapixel_step: float | None = None
    load_seconds: float | None = None
    stage: str = ""
    """Of ``Loading``: fetch, verify, fork, weights, options or warm."""
    fetched_bytes: int | None = None
    fetch_total_bytes: int | None = None
    in_host_memory: bool = False
    """Whether its files were read into the memory of the node, as asked."""
    modes: tuple[str, ...] = ()
    sizes: tuple[SizeReport, ...] = ()

    @property
    def measured(self) -> tuple[bool, ...]:
        """Which of its numbers are known."""
        numbers = (self.memory_bytes, self.seconds_per_megapixel_step, self.load_seconds)
        return *(number is not None for number in numbers), bool(self.sizes)

    @property
    def fetching(self) -> bool:
        """Whether its files are being fetched."""
        return self.state == "Loading" and self.stage == "fetch"

    @property
    def unsupported(self) -> str:
        """Why the device or the pipeline cannot do what the spec asks, in the worker's words; else empty."""
        said = self.message or "it does not support what spec.pipeline asks."
        return said if self.state == "Failed" and self.reason == UNSUPPORTED else ""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator of a worker. What NVML does not give is None."""

    accelerator: str
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's own account of itself (``GET /v1/worker``), as far as plans need it."""

    memory_total_bytes: int
    draining: bool
    models: tuple[ModelReport, ...]
    devices: tuple[Device, ...] = ()
    # These change with every step that it draws, which is no news: nothing but scaling asks for them, at its own pace.
    work_seconds: float | None = field(default=None, compare=False)
    """GPU-seconds of work that it has left; None: not said."""
    requests: int = field(default=0, compare=False)
    """That it has, queued and running."""

    @property
    def news(self) -> tuple[object, ...]:
        """What of it may change what is done, and whether other things were measured at all. The rest are readings,
        which move all the time."""
        models = (
            (m.model, m.state, m.pinned, m.digest, m.reason, m.message, m.stage, m.modes, *m.measured)
            for m in self.models
        )
        names = (device.accelerator for device in self.devices)
        return self.memory_total_bytes, self.draining, *names, *models

    @property
    def idle(self) -> bool:
        """Whether it says that it has nothing to do."""
        return self.work_seconds == 0 and not self.requests

    def of(self, model: str) -> ModelReport | None:
        """What it says of one model; None where it does not name it."""
        return next((m for m in self.models if m.model == model), None)


@dataclass(frozen=True, slots=True)
class Worker:
    """A pod of a pool together with what it says.

    ``report`` is the last one, None before the first. ``silent_since`` is the time of the first of its
    unanswered calls, None while it answers, and ``silence`` what came instead of that answer. ``policy_hash``
    is that of the policy we gave it last (None: not since we started).
    """

    pod: Pod
    report: Report | None = None
    silent_since: float | None = None
    policy_hash: str | None = None
    silence: str = ""
    interrupted: str = ""
    """The taint that says that its node is about to go; empty: it stays."""
    heard_at: float = field(default=0.0, compare=False)
    """When it said something last, in seconds since the epoch."""
    role: Role = Role.ACTIVE

    @property
    def asked(self) -> bool:
        """Whether it has answered, or failed to, since we started or it became ready."""
        return self.report is not None or self.silent_since is not None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a child could not be written: ``ChildNotOwned`` or ``ChildRejected``."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PoolObserved:
    """All that a pool's plan depends on."""

    pool: Parent[PoolSpec]
    models: Mapping[str, Parent[ModelSpec] | None]
    """Every model that the pool names; None where there is none of that name."""
    deployment: DeploymentState | None
    """Of all its Deployments together; None where it has none yet."""
    workers: tuple[Worker, ...]
    refusals: tuple[Refusal, ...] = ()
    figures: Mapping[str, NameFigures] = field(default_factory=dict)
    """What gateways counted lately, by entry; an entry that is absent: no opinion."""
    parts: Mapping[str, DeploymentState] = field(default_factory=dict)
    """Of each of its Deployments, by name."""
    pre_pull: DaemonSetState | None = None
    """None: there is none."""
    counts: Mapping[str, Counted] = field(default_factory=dict)
    """What gateways' processes have counted for the budget, by what they call themselves."""
    demand: Mapping[str, float] | None = None
    """GPU-seconds that callers asked for lately, by model; one that is absent was not asked for. None: no opinion."""
    load: Load = field(default_factory=Load)
    """What gateways say that came, began and waits."""
    replicas: int | None = None
    """Of the Deployments: workers that leave, or wait warm, included. None: as many as ``spec.replicas``."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """While fewer are to be: how many of each capacity (as in ``Pod.capacity``) may have work, and stay."""
    moved_models: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By model that was moved within the last minutes: the workers that were to hold it from then on."""
    counted: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    """On how many workers each model was found resident, as it is asked for again and again (``verdicts.resident``)."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One model on one worker: what is wanted there (None: not wanted) and what the worker reports."""

    wanted_pinned: bool | None
    report: ModelReport | None
    accelerator: str


@dataclass(frozen=True, slots=True)
class ModelObserved:
    """All that a model's plan depends on. ``job`` is the verification Job of the spec as it is now."""

    model: Parent[ModelSpec]
    job_name: str
    job: Child | None
    pods: tuple[Pod, ...]
    copies: tuple[Copy, ...] | None
    """None while not every worker that may hold it has been asked: no opinion."""
    refusals: tuple[Refusal, ...] = ()
