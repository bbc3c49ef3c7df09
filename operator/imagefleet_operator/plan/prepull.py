"""What nodes fetch before workers come: the workers' image, and the files of remote models where workers share a cache.

A DaemonSet ``P-prepull`` does it, wherever the pool's workers may run.
"""

from dataclasses import dataclass, replace

from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.spot import workers_name
from imagefleet_operator.plan.types import Json, ModelSpec, Parent, PoolObserved, PoolSpec
from imagefleet_operator.plan.verdicts import is_usable
from imagefleet_operator.plan.workers import NodeCache, WorkerDefaults, distinct, verify_arguments

PLACE_FIELDS = ("nodeSelector", "affinity", "tolerations", "imagePullSecrets")
"""Of a pool's pod template, what decides where pods run and whether they can."""


@dataclass(frozen=True, slots=True)
class PrePullSpec:
    """Everything that decides what a pool's DaemonSet looks like."""

    namespace: str
    pool: str
    uid: str
    image: str
    place: Json
    """Fields of a pod's spec."""
    fetches: tuple[tuple[str, ...], ...]
    """Per remote model the arguments of ``imagefleet-worker``."""
    cache: NodeCache
    source_limit_bytes: int
    secrets: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    env: tuple[Json, ...] = ()

    @property
    def name(self) -> str:
        """Of the DaemonSet."""
        return name(self.pool)

    @property
    def account(self) -> str:
        """The workers' own: where sources have no Secret, it is what reads them."""
        return workers_name(self.pool)


def name(pool: str) -> str:
    """Of a pool's DaemonSet."""
    return f"{pool}-prepull"


def prepull_spec(observed: PoolObserved, defaults: WorkerDefaults) -> PrePullSpec | None:
    """What a pool's DaemonSet is to be; None where it is to have none.

    Models are fetched once they are verified, by the digest that was found: what is fetched is what workers load.
    """
    pool = observed.pool
    if pool.spec is None or not pool.spec.pre_pull:
        return None
    models = _remote(observed) if defaults.cache.shared else []
    specs = [spec for _, spec in models]
    return PrePullSpec(
        namespace=pool.namespace,
        pool=pool.name,
        uid=pool.uid,
        image=pool.spec.image or defaults.image,
        place=_place(pool.spec),
        fetches=tuple(_fetch(model, spec) for model, spec in models),
        cache=defaults.cache,
        source_limit_bytes=defaults.source_limit_bytes,
        secrets=distinct(source.secret for spec in specs for source in spec.sources),
        claims=distinct(source.claim for spec in specs for source in spec.sources),
        env=defaults.env,
    )


def _remote(observed: PoolObserved) -> list[tuple[Parent[ModelSpec], ModelSpec]]:
    """The models that are verified and have files to fetch."""
    found = ((model, model.spec) for model in observed.models.values() if model is not None and model.spec)
    usable = [(model, spec) for model, spec in found if is_usable(model.name, observed)]
    return [(model, spec) for model, spec in usable if any(source.remote for source in spec.sources)]


def _fetch(model: Parent[ModelSpec], spec: ModelSpec) -> tuple[str, ...]:
    found = {adapter["name"]: adapter["digest"] for adapter in model.status.get("adapters") or ()}
    pinned = replace(
        spec,
        source=replace(spec.source, digest=model.status["digest"]),
        adapters={name: replace(s, digest=found[name]) for name, s in spec.adapters.items()},
    )
    return (*verify_arguments(pinned), "--required")


def _place(spec: PoolSpec) -> Json:
    """Where workers of any capacity may run. Spot nodes are told by labels only to keep workers on demand off them."""
    asked = spec.pod_template.get("spec") or {}
    place = {key: asked[key] for key in PLACE_FIELDS if key in asked}
    accelerator = {"key": spec.accelerator_resource, "operator": "Exists", "effect": "NoSchedule"}
    own = asked.get("tolerations") or ([accelerator] if spec.accelerator_count else [])
    further = [each for each in (spec.spot.tolerations if spec.spot else ()) if each not in own]
    return {**place, "tolerations": [*own, *further]}


def obsolete(observed: PoolObserved) -> bool:
    """Whether there is a DaemonSet that the pool does not ask for any more."""
    spec = observed.pool.spec
    return spec is not None and not spec.pre_pull and observed.pre_pull is not None


def pre_pulled(observed: PoolObserved) -> Verdict | None:
    """The ``PrePulled`` condition; None for a pool without."""
    spec, state = observed.pool.spec, observed.pre_pull
    if spec is None or not spec.pre_pull:
        return None
    if state is None:
        return Verdict(False, "PrePulling", "Nodes are about to be prepared.")
    done = state.current and min(state.updated, state.ready) >= state.nodes
    count = f"{min(state.updated, state.ready)} of {state.nodes} nodes have the workers' image"
    remote = len(_remote(observed))
    if state.fetches:
        told = f"{count} and {state.fetches} models."
    elif remote:
        told = f"{count}. Each worker fetches models for itself: modelCache.type is emptyDir, which no two share."
    else:
        told = f"{count}."
    return Verdict(done, "PrePulled" if done else "PrePulling", told)


def pre_pull_status(observed: PoolObserved) -> Json:
    """``status.prePull``; empty for a pool without."""
    spec, state = observed.pool.spec, observed.pre_pull
    if spec is None or not spec.pre_pull or state is None:
        return {}
    return {"prePull": {"nodes": state.nodes, "ready": min(state.updated, state.ready)}}
