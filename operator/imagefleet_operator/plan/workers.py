"""What a pool's children are to be, and what verifies a model: the values that the templates are filled
with."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from imagefleet_operator.plan import spot
from imagefleet_operator.plan.budget import asked, plan_budget
from imagefleet_operator.plan.spot_types import ON_DEMAND, SPOT, SpotSpec
from imagefleet_operator.plan.surge import max_unavailable
from imagefleet_operator.plan.types import Json, ModelSpec, Parent, PoolObserved, SourceSpec, grace_seconds

AUTOMATIC_CLASS = "AutoPipelineForText2Image"
"""Takes any class that the folder names, so there is nothing to check."""
SOURCE_LIMIT_BYTES = 200 * 2**30


@dataclass(frozen=True, slots=True)
class NodeCache:
    """Where pods keep the files of remote sources."""

    volume: Json = field(default_factory=lambda: {"emptyDir": {}})
    """The volume's source, as a pod's spec has it."""
    limit_bytes: int = 0
    """The most that it may hold; 0: nine tenths of the volume."""
    group: bool = False
    """Whether the volume has to be made writable for the pods' group, as a claim's has."""

    @property
    def shared(self) -> bool:
        """Whether a pod finds there what another one has fetched."""
        return "emptyDir" not in self.volume


@dataclass(frozen=True, slots=True)
class WorkerDefaults:
    """What the operator's settings say of every worker and verification."""

    image: str
    cache: NodeCache = field(default_factory=NodeCache)
    source_limit_bytes: int = SOURCE_LIMIT_BYTES
    """The most bytes of one remote source."""
    env: tuple[Json, ...] = ()
    """Further environment variables, as a container's spec has them."""
    verify_account: str = ""
    """The ServiceAccount of verification Jobs; empty: the namespace's default one."""


@dataclass(frozen=True, slots=True)
class OnDemandSpec:
    """What a second Deployment is to be that has the workers on demand."""

    name: str
    replicas: int
    max_unavailable: int


@dataclass(frozen=True, slots=True)
class WorkersSpec:
    """Everything that decides what a pool's Deployments, Service, PodDisruptionBudget and ServiceAccount look
    like."""

    namespace: str
    pool: str
    uid: str
    image: str
    replicas: int
    accelerator_resource: str
    accelerator_count: int
    resources: Json
    max_request_seconds: int
    claims: tuple[str, ...]
    pod_template: Json
    secrets: tuple[str, ...] = ()
    cache: NodeCache = field(default_factory=NodeCache)
    source_limit_bytes: int = SOURCE_LIMIT_BYTES
    env: tuple[Json, ...] = ()
    safety_check: str = ""
    quality_score: str = ""
    max_unavailable: int = 0
    """How many workers may be away while others are replaced; 0: a new one starts before an old one ends."""
    spot: SpotSpec | None = None
    """Where set, ``replicas`` and ``max_unavailable`` are those of the workers on spot nodes."""
    on_demand: OnDemandSpec | None = None

    @property
    def grace_seconds(self) -> int:
        """What a pod has to end."""
        return grace_seconds(self.max_request_seconds)

    @property
    def name(self) -> str:
        """The name of every child but the one for workers on demand."""
        return spot.workers_name(self.pool)


@dataclass(frozen=True, slots=True)
class VerifySpec:
    """Everything that decides what a model's verification Job looks like."""

    namespace: str
    model: str
    uid: str
    image: str
    arguments: tuple[str, ...]
    claims: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    cache: NodeCache | None = None
    """None where nothing is to be fetched."""
    source_limit_bytes: int = SOURCE_LIMIT_BYTES
    env: tuple[Json, ...] = ()
    account: str = ""


def workers_spec(observed: PoolObserved, defaults: WorkerDefaults, now: float) -> WorkersSpec | None:
    """What a pool's children are to be; None where its spec cannot be read. ``now`` is in seconds since the epoch.

    Claims and Secrets follow the models that the pool names: a model with a claim or a Secret that no other one has
    restarts the workers, one after the other. The node cache is there in any case, so that the first remote model
    restarts none.
    """
    pool = observed.pool
    if pool.spec is None:
        return None
    models = (m.spec for m in observed.models.values() if m is not None and m.spec is not None)
    sources = [source for spec in models for source in spec.sources]
    budget = plan_budget(observed, now)
    split = spot.split(observed, budget.replicas if budget else asked(observed), now)
    if budget is None or not budget.binding:
        split = spot.keeping(observed, split)
    return WorkersSpec(
        namespace=pool.namespace,
        pool=pool.name,
        uid=pool.uid,
        image=pool.spec.image or defaults.image,
        replicas=split.spot,
        accelerator_resource=pool.spec.accelerator_resource,
        accelerator_count=pool.spec.accelerator_count,
        resources=pool.spec.resources,
        max_request_seconds=pool.spec.max_request_seconds,
        claims=distinct(source.claim for source in sources),
        pod_template=pool.spec.pod_template,
        secrets=distinct(source.secret for source in sources),
        cache=defaults.cache,
        source_limit_bytes=defaults.source_limit_bytes,
        env=defaults.env,
        safety_check=pool.spec.safety_check,
        quality_score=pool.spec.quality_score,
        max_unavailable=max_unavailable(spot.alone(observed, SPOT), now),
        spot=pool.spec.spot,
        on_demand=OnDemandSpec(
            name=spot.on_demand_name(pool.name),
            replicas=split.on_demand,
            max_unavailable=max_unavailable(spot.alone(observed, ON_DEMAND), now),
        )
        if pool.spec.spot
        else None,
    )


def verify_spec(model: Parent[ModelSpec], defaults: WorkerDefaults) -> VerifySpec | None:
    """What a model's verification Job is to be; None where its spec cannot be read."""
    if model.spec is None:
        return None
    sources = model.spec.sources
    return VerifySpec(
        namespace=model.namespace,
        model=model.name,
        uid=model.uid,
        image=defaults.image,
        arguments=verify_arguments(model.spec),
        claims=distinct(source.claim for source in sources),
        secrets=distinct(source.secret for source in sources),
        cache=defaults.cache if any(source.remote for source in sources) else None,
        source_limit_bytes=defaults.source_limit_bytes,
        env=defaults.env,
        account=defaults.verify_account,
    )


def verify_arguments(spec: ModelSpec) -> tuple[str, ...]:
    """Of ``imagefleet-worker``: check a model, and fetch it where it is remote."""
    arguments = ["verify", "--uri", spec.source.uri]
    if spec.source.digest:
        arguments += ["--digest", spec.source.digest]
    class_name = spec.pipeline.get("className", AUTOMATIC_CLASS)
    if class_name != AUTOMATIC_CLASS:
        arguments += ["--class-name", class_name]
    if spec.source.credentials:
        arguments += ["--credentials", spec.source.credentials]
    for name, source in spec.adapters.items():
        arguments += _adapter_arguments(name, source)
    return tuple(arguments)


def _adapter_arguments(name: str, source: SourceSpec) -> list[str]:
    """Worked example: ``--adapter pixel=s3://loras/pixel#sha256:ab --adapter-credentials pixel=/secrets/bucket``."""
    digest = f"#{source.digest}" if source.digest else ""
    arguments = ["--adapter", f"{name}={source.uri}{digest}"]
    if source.credentials:
        arguments += ["--adapter-credentials", f"{name}={source.credentials}"]
    return arguments


def distinct(names: Iterable[str | None]) -> tuple[str, ...]:
    """Each name once, sorted; None is no name."""
    return tuple(sorted({name for name in names if name}))
