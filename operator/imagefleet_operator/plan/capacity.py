"""How many workers a pool is to have, and what its status says of that."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from imagefleet_operator.plan.capacity_types import ModelLoad, PoolScaling
from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.conditions import Verdict, timestamp
from imagefleet_operator.plan.roles import Roles
from imagefleet_operator.plan.rounding import settled
from imagefleet_operator.plan.scaling import (
    LOAD_SECONDS,
    METRICS_ABSENT,
    METRICS_STALE,
    START_SECONDS,
    Decision,
    Inputs,
    ScalingSpec,
)
from imagefleet_operator.plan.types import Json, PoolModel, PoolObserved, PoolSpec, Worker

KEPT_DECISIONS = 5
SECONDS_DIGITS = 2
SECONDS_WITHIN = 0.25
"""A time that differs by less from the published one is the same: starts differ by themselves."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned of a pool's workers, in seconds; None: nothing yet."""

    start_seconds: float | None = None
    """From a pod's creation until it is ready."""
    load_seconds: float | None = None
    """From then until its first model is loaded."""

    @property
    def lead(self) -> float:
        """From the creation of a pod until it draws."""
        return self.start + self.load

    @property
    def start(self) -> float:
        """As learned, or as assumed."""
        return START_SECONDS if self.start_seconds is None else self.start_seconds

    @property
    def load(self) -> float:
        """As learned, or as assumed."""
        return LOAD_SECONDS if self.load_seconds is None else self.load_seconds


@dataclass(frozen=True, slots=True)
class Made:
    """A decision that changed how many workers there should be."""

    time: float
    before: int
    after: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class Capacity:
    """What follows for the workers of a pool."""

    desired: int
    """Workers that should take requests."""
    warm: int = 0
    """Workers that should wait warm."""
    roles: Roles = field(default_factory=Roles)
    learned: Learned = field(default_factory=Learned)
    verdict: Verdict | None = None
    """The condition ``ScalingActive``; None for a pool without scaling."""
    decisions: tuple[Json, ...] = ()
    kept: Json | None = None
    """``status.scaling.learned``."""
    again: float | None = None
    """Seconds after which to look again."""
    watch: bool = False
    """Whether what gateways say is needed soon."""


def bounded(scaling: PoolScaling | None, replicas: int) -> int:
    """The number within ``minReplicas`` and ``maxReplicas``."""
    if scaling is None:
        return replicas
    return min(max(replicas, scaling.spec.min_replicas), scaling.spec.max_replicas)


def with_learned(spec: ScalingSpec, learned: Learned) -> ScalingSpec:
    """The spec with what is known of the pool's workers."""
    return replace(spec, start_seconds=learned.start, load_seconds=learned.load)


def applied(observed: PoolObserved, capacity: Capacity | None) -> PoolObserved:
    """The pool as the other plans are to see it: ``spec.replicas`` are the workers that should take requests, and each
    worker has its role."""
    spec = observed.pool.spec
    if spec is None or capacity is None:
        return observed
    roles = capacity.roles.of
    seen = replace(spec, replicas=capacity.desired, models=_models(spec, capacity.desired))
    return replace(
        observed,
        pool=replace(observed.pool, spec=seen),
        workers=tuple(replace(w, role=roles.get(w.pod.name, w.role)) for w in observed.workers),
        replicas=capacity.roles.replicas,
        kept=capacity.roles.kept,
    )


def _models(spec: PoolSpec, desired: int) -> tuple[PoolModel, ...]:
    """The entries, which ask for no more copies than there are workers now where that number follows the demand. One
    that asks for more than there may ever be stays as it is, so that it is told of."""
    if spec.scaling is None or desired == 0:
        return spec.models
    most = spec.scaling.spec.max_replicas
    return tuple(
        replace(m, min_resident=desired) if desired < m.min_resident <= most else m for m in spec.models
    )


def inputs(
    observed: PoolObserved,
    roles: Mapping[str, Role],
    desired: int,
    since: ModelLoad,
    learned: Learned,
    idle_since: Mapping[str, float],
    now: float,
) -> Inputs:
    """What gateways and workers say, as a decision needs it. ``since`` are the counters at the last decision, and
    ``idle_since`` says of workers without work, by the uid of their pod, since when.

    A pool without workers that nobody asks is quiet for good. ``ready`` and ``starting`` are as many together as are
    wanted active: those on their way that no pod stands for yet have the whole lead before them.
    """
    load, told = observed.load, observed.load.sum
    active = [w for w in observed.workers if roles.get(w.pod.name) is Role.ACTIVE and not w.pod.deleting]
    drawing = [w for w in active if w.pod.ready and w.report is not None]
    ready = min(len(drawing), desired)
    work = told.held_seconds + sum(w.report.work_seconds or 0.0 for w in drawing if w.report)
    busy = work > 0 or told.held or told.running
    return Inputs(
        work_left=work,
        ready=ready,
        starting=tuple(starting(active, desired, learned, now)[: desired - ready]),
        idle=tuple(now - idle_since[w.pod.uid] for w in drawing if w.pod.uid in idle_since)[:ready],
        started=told.started - since.started,
        late=told.late - since.late,
        quiet=0.0 if busy else inf if desired == 0 else load.quiet_seconds,
        age=_age(load.age, drawing, now),
    )


def _age(gateways: float | None, drawing: Sequence[Worker], now: float) -> float | None:
    """Seconds since both a gateway and, where there are any, a worker said something."""
    workers = min((max(0.0, now - w.heard_at) for w in drawing), default=0.0)
    return None if gateways is None else max(gateways, workers)


def starting(active: Iterable[Worker], desired: int, learned: Learned, now: float) -> list[float]:
    """Of each worker that is to draw and does not: seconds until it should, soonest first."""
    there = [w for w in active if not w.pod.deleting]
    waits = [expected(w.pod.created, learned, now) - now for w in there if not w.pod.ready]
    return sorted([*waits, *[learned.lead] * (desired - len(there))])


def expected(created: float, learned: Learned, now: float) -> float:
    """When a worker that was created then should draw: after the lead, or, of one that is late, after two of them, four
    and so on: so that what is said stays for a while. Worked example: created at 0 with a lead of 10, at 25: 40."""
    lead = max(1.0, learned.lead)
    while created + lead <= now:
        lead *= 2
    return created + lead


def unclear(decision: Decision) -> bool:
    """Whether there is no opinion."""
    return decision.reason in (METRICS_ABSENT, METRICS_STALE)


def decided(made: Made) -> Json:
    """An entry of ``status.scaling.decisions``."""
    figures = {name: round(float(value), 3) for name, value in made.decision.figures.items()}
    return {
        "time": timestamp(made.time),
        "from": made.before,
        "to": made.after,
        "reason": made.decision.reason,
        "message": made.decision.message[:1].upper() + made.decision.message[1:],
        "inputs": figures,
    }


def scaling_status(spec: PoolSpec, observed: PoolObserved, capacity: Capacity, now: float) -> Json:
    """``scaling`` and ``warm`` of the status; nothing for a pool that has neither ``scaling`` nor ``warmPool``."""
    if spec.scaling is None and spec.warm is None:
        return {}
    staying = [w for w in observed.workers if not w.pod.deleting]
    by_role = {role: [w for w in staying if w.role is role] for role in Role}
    active = by_role[Role.ACTIVE]
    old = observed.pool.status.get("scaling") or {}
    found: Json = {
        "mode": "Fixed" if spec.scaling is None else "External" if spec.scaling.external else "Internal",
        "desiredReplicas": capacity.desired,
        "active": max(len(active), capacity.desired),
        "warm": len(by_role[Role.WARM]),
        "leaving": len(by_role[Role.LEAVING]) + len(by_role[Role.DONE]),
        "ready": sum(w.pod.ready for w in active),
        **_seconds(old, capacity.learned),
    }
    coming = [expected(w.pod.created, capacity.learned, now) for w in active if not w.pod.ready]
    if coming:
        found["expectedAt"] = timestamp(min(coming))
    if capacity.decisions:
        found["lastScaleTime"] = capacity.decisions[-1]["time"]
        found["decisions"] = list(capacity.decisions)
    if capacity.kept:
        found["learned"] = capacity.kept
    return {"scaling": found, **_warm(spec, by_role[Role.WARM], capacity)}


def _seconds(old: Json, learned: Learned) -> Json:
    measured = {"startSeconds": learned.start_seconds, "loadSeconds": learned.load_seconds}
    told = {
        key: settled(old.get(key), value, within=SECONDS_WITHIN, digits=SECONDS_DIGITS)
        for key, value in measured.items()
    }
    return {key: value for key, value in told.items() if value is not None}


def _warm(spec: PoolSpec, warm: Sequence[Worker], capacity: Capacity) -> Json:
    if spec.warm is None:
        return {}
    return {"warm": {"replicas": capacity.warm, "ready": sum(is_warm(w) for w in warm)}}


def is_warm(worker: Worker) -> bool:
    """Whether it has started, and holds what it should."""
    if not worker.pod.ready or worker.report is None:
        return False
    held = worker.report.models
    return bool(held) and all(m.state == "Resident" if m.pinned else m.in_host_memory for m in held)
