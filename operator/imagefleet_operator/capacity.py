"""Deciding how many workers pools have: what one decision leaves to the next, by pool.

All of it can be lost: what a new operator needs stands in the pools' statuses, and it takes no workers away before it
has seen a whole stabilization window.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from imagefleet_operator import metrics
from imagefleet_operator.plan import capacity as plan
from imagefleet_operator.plan import learned, spot
from imagefleet_operator.plan.behavior import Past
from imagefleet_operator.plan.capacity import Capacity, Learned, Made
from imagefleet_operator.plan.capacity_types import ModelLoad, PoolScaling
from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.conditions import Verdict, find
from imagefleet_operator.plan.forecast import Forecaster
from imagefleet_operator.plan.roles import Roles, Standing, Wanted, assign
from imagefleet_operator.plan.scaling import BOUNDED, CAUTION_FIRST, DECIDE_SECONDS, Decision, Memory, decide
from imagefleet_operator.plan.types import Json, Name, PoolObserved, PoolSpec
from imagefleet_operator.plan.warm import next_change, warm_replicas

EXTERNAL = "External"
"""Why there are as many workers: somebody else wrote ``spec.replicas``."""
LEAVING_SECONDS = 2.0
"""Between two looks at a pool that workers leave."""
QUIET_SECONDS = 10.0
"""Between two decisions where nobody asks for anything and nobody can go; a request that waits is news."""
FORECAST_SECONDS = 1_800.0
"""How far ahead ``warmPool.forecast`` looks: one phase of the daily pattern."""
FIRST_SECONDS = 15.0
"""After a start gateways have so long to say something before it is said that they do not."""
NEW_WEIGHT = 0.5
"""Of the start that was seen last against all before: nodes and images change."""


@dataclass(slots=True)
class PoolMemory:
    """What the passes over a pool leave to each other."""

    desired: int
    standings: dict[str, Standing] = field(default_factory=dict)
    """Roles by the uid of the pod."""
    idle_since: dict[str, float] = field(default_factory=dict)
    starting: set[str] = field(default_factory=set)
    """Uids of pods that were seen before they were ready."""
    learned: Learned = field(default_factory=Learned)
    decisions: tuple[Json, ...] = ()
    kept: Json | None = None
    """What the status keeps of the scaler."""
    resumed: bool = False
    """Whether an operator before us has decided here."""
    scaler: "Scaler | None" = None


@dataclass(slots=True)
class Scaler:
    """What decisions of a pool leave to each other."""

    forecaster: Forecaster
    memory: Memory
    counted: ModelLoad
    began: float
    since: float
    """When it began, or when it heard something again."""
    decided_at: float = 0.0
    last: Decision | None = None
    quiet: bool = False


class Capacities:
    """The capacity of all pools."""

    def __init__(self) -> None:
        self._pools: dict[Name, PoolMemory] = {}

    def forget(self, pool: Name) -> None:
        """A pool has gone."""
        self._pools.pop(pool, None)

    def of(self, observed: PoolObserved, now: float) -> Capacity | None:
        """How many workers the pool is to have from now on; None where its spec cannot be read. ``now`` is in seconds
        since the epoch."""
        spec = observed.pool.spec
        if spec is None:
            return None
        name = (observed.pool.namespace, observed.pool.name)
        memory = self._pools.get(name)
        if memory is None:
            memory = self._pools[name] = PoolMemory(_first(spec, observed))
            told = observed.pool.status.get("scaling") or {}
            memory.learned = Learned(told.get("startSeconds"), told.get("loadSeconds"))
            memory.decisions = tuple(told.get("decisions") or ())
            memory.kept, memory.resumed = told.get("learned"), bool(told)
        _watch_workers(memory, observed, now)
        return _decide(memory, spec, observed, now)


def _first(spec: PoolSpec, observed: PoolObserved) -> int:
    """What to begin with: what the status says, else what there is."""
    if spec.scaling is None or spec.scaling.external:
        return spec.replicas
    told = (observed.pool.status.get("scaling") or {}).get("desiredReplicas")
    there = observed.deployment.desired if observed.deployment else spec.replicas
    return there if told is None else int(told)


def _watch_workers(memory: PoolMemory, observed: PoolObserved, now: float) -> None:
    """Learn how long workers take, and since when they are idle."""
    uids = {w.pod.uid for w in observed.workers}
    idle = {w.pod.uid for w in observed.workers if w.report is not None and w.report.idle}
    memory.idle_since = {uid: memory.idle_since.get(uid, now) for uid in idle}
    ready = [w.pod for w in observed.workers if w.pod.ready]
    for pod in ready:
        if pod.created and (pod.uid in memory.starting or memory.learned.start_seconds is None):
            seconds = max(0.0, pod.ready_since - pod.created)
            memory.learned = replace(
                memory.learned, start_seconds=_mixed(memory.learned.start_seconds, seconds)
            )
    memory.starting = (memory.starting & uids | {w.pod.uid for w in observed.workers if not w.pod.ready}) - {
        pod.uid for pod in ready
    }
    loads = sorted(
        model.load_seconds
        for worker in observed.workers
        for model in (worker.report.models if worker.report else ())
        if model.load_seconds is not None
    )
    if loads:
        memory.learned = replace(memory.learned, load_seconds=loads[len(loads) // 2])


def _mixed(before: float | None, new: float) -> float:
    return new if before is None else NEW_WEIGHT * new + (1 - NEW_WEIGHT) * before


def _decide(memory: PoolMemory, spec: PoolSpec, observed: PoolObserved, now: float) -> Capacity:
    scaling = spec.scaling
    verdict: Verdict | None = None
    if scaling is None:
        memory.desired, memory.scaler = spec.replicas, None
    elif scaling.external:
        memory.scaler = None
        told = _moved(
            memory, plan.bounded(scaling, spec.replicas), EXTERNAL, f"spec.replicas is {spec.replicas}."
        )
        _change_to(memory, observed, told, now)
        verdict = _external(spec.replicas, memory.desired)
    else:
        low, high = scaling.spec.min_replicas, scaling.spec.max_replicas
        why = f"minReplicas is {low}, maxReplicas {high}."
        told = _moved(memory, plan.bounded(scaling, memory.desired), BOUNDED, why)
        _change_to(memory, observed, told, now)
        verdict = _internal(memory, scaling, spec, observed, now)
    warm = _warm(memory, spec, now)
    roles = _assign(memory, spec, observed, warm, now)
    internal = scaling is not None and not scaling.external
    waits = [_wait(memory, roles), _change(spec, now)]
    return Capacity(
        desired=memory.desired,
        warm=warm,
        roles=roles,
        learned=memory.learned,
        verdict=verdict,
        decisions=memory.decisions,
        kept=memory.kept if internal else None,
        again=min((w for w in waits if w is not None), default=None),
        watch=internal,
    )


def _moved(memory: PoolMemory, replicas: int, reason: str, why: str) -> Decision:
    """A number that does not follow from the demand."""
    return Decision(replicas, reason, f"{memory.desired} to {replicas} workers: {why}")


def _wait(memory: PoolMemory, roles: Roles) -> float | None:
    """Until the next decision, or the next look at those that leave."""
    if any(role in (Role.LEAVING, Role.DONE) for role in roles.of.values()):
        return LEAVING_SECONDS
    if memory.scaler is None:
        return None
    return QUIET_SECONDS if memory.scaler.quiet else DECIDE_SECONDS


def _change(spec: PoolSpec, now: float) -> float | None:
    return next_change(spec.warm, now) if spec.warm else None


def _warm(memory: PoolMemory, spec: PoolSpec, now: float) -> int:
    """Warm workers get what the bounds leave."""
    if spec.warm is None:
        return 0
    wanted = warm_replicas(spec.warm, now)
    if spec.scaling is None:
        return wanted
    if spec.warm.forecast and memory.scaler is not None:
        busy = memory.scaler.forecaster.expected(now, now + FORECAST_SECONDS)
        needed = math.ceil(busy / spec.scaling.spec.target_utilization)
        wanted = max(wanted, needed - memory.desired)
    return min(wanted, spec.scaling.spec.max_replicas - memory.desired)


def _assign(memory: PoolMemory, spec: PoolSpec, observed: PoolObserved, warm: int, now: float) -> Roles:
    asked = observed.deployment.desired if observed.deployment else 0
    forced = spec.scaling is None or asked > spec.scaling.spec.max_replicas
    wanted = Wanted(memory.desired, warm, forced)
    beyond = spot.beyond(observed, memory.desired + warm)
    roles = assign(wanted, observed.deployment, observed.workers, memory.standings, now, beyond)
    memory.standings = _standings(memory.standings, observed, roles.of, now)
    return roles


def _standings(
    known: Mapping[str, Standing], observed: PoolObserved, roles: Mapping[str, Role], now: float
) -> dict[str, Standing]:
    """The roles as they are now. The time of one that leaves begins when gateways can see it."""
    found = {}
    for worker in observed.workers:
        role, before = roles.get(worker.pod.name), known.get(worker.pod.uid)
        if role is None:
            continue
        same = before is not None and before.role is role
        seen = role is not Role.LEAVING or not worker.pod.shown
        found[worker.pod.uid] = before if same and seen and before is not None else Standing(role, now)
    return found


def _external(asked: int, desired: int) -> Verdict:
    if asked != desired:
        return Verdict(
            False,
            "ReplicasOutOfBounds",
            f"spec.replicas is {asked}, and minReplicas and maxReplicas allow {desired}: there are {desired} workers.",
        )
    return Verdict(True, EXTERNAL, "spec.replicas is followed, as somebody else writes it.")


def _internal(
    memory: PoolMemory, scaling: PoolScaling, spec: PoolSpec, observed: PoolObserved, now: float
) -> Verdict:
    told = observed.load.sum
    scaler = memory.scaler
    if scaler is None:
        scaler = memory.scaler = _scaler(memory, told, now)
    waiting = memory.desired == 0 and told.held > 0
    if waiting or scaler.last is None or now - scaler.decided_at >= DECIDE_SECONDS:
        _step(memory, scaler, scaling, spec, observed, now)
    return _verdict(scaling, scaler, observed, now)


def _scaler(memory: PoolMemory, told: ModelLoad, now: float) -> Scaler:
    """One that goes on from what the status keeps."""
    forecaster = Forecaster(memory.learned.lead)
    caution = learned.restore(memory.kept, forecaster)
    if caution is None:
        forecaster, caution = Forecaster(memory.learned.lead), CAUTION_FIRST
    past = Past(wanted=((now, memory.desired),))
    return Scaler(forecaster, Memory(caution, past), told, began=now, since=now)


def _step(
    memory: PoolMemory,
    scaler: Scaler,
    scaling: PoolScaling,
    spec: PoolSpec,
    observed: PoolObserved,
    now: float,
) -> None:
    """One decision."""
    told = observed.load.sum
    known = assign(
        Wanted(memory.desired, _warm(memory, spec, now)),
        observed.deployment,
        observed.workers,
        memory.standings,
        now,
    )
    inputs = plan.inputs(
        observed, known.of, memory.desired, scaler.counted, memory.learned, memory.idle_since, now
    )
    scaler.forecaster.lead = memory.learned.lead
    arrived = max(0.0, told.arrived_seconds - scaler.counted.arrived_seconds)
    if inputs.age is None:
        forecast = scaler.forecaster.last
    else:
        forecast = scaler.forecaster.observe(now, arrived)
        scaler.counted = told
    before = scaler.memory
    decision, scaler.memory = decide(
        plan.with_learned(scaling.spec, memory.learned), inputs, forecast, scaler.memory, now
    )
    if plan.unclear(decision):
        # Where nothing was known for a while, what was wanted before says nothing: a window begins anew.
        scaler.memory = replace(before, past=replace(before.past, wanted=((now, memory.desired),)))
        scaler.since, memory.resumed = now, True
    scaler.decided_at, scaler.last = now, decision
    nothing = not (arrived or inputs.work_left or told.running)
    scaler.quiet = nothing and memory.desired == scaling.spec.min_replicas
    memory.kept = learned.kept(memory.kept, scaler.forecaster, scaler.memory.caution, scaler.since, now)
    replicas = decision.replicas
    unseen = memory.resumed and now - scaler.since < scaler.forecaster.fast
    if replicas is None or (replicas < memory.desired and (observed.load.partial or unseen)):
        return
    _change_to(memory, observed, decision, now)


def _change_to(memory: PoolMemory, observed: PoolObserved, decision: Decision, now: float) -> None:
    """Have as many workers as that, and tell of it where it is another number than before."""
    replicas = decision.replicas
    if replicas is None or replicas == memory.desired:
        return
    made = Made(now, memory.desired, replicas, decision)
    memory.decisions = (*memory.decisions, plan.decided(made))[-plan.KEPT_DECISIONS :]
    metrics.SCALING_DECISIONS.labels(observed.pool.namespace, observed.pool.name, decision.reason).inc()
    memory.desired = replicas


def _verdict(scaling: PoolScaling, scaler: Scaler, observed: PoolObserved, now: float) -> Verdict:
    last, told = scaler.last, find(observed.pool.status, "ScalingActive")
    if last is not None and plan.unclear(last):
        if told is not None and now - scaler.began < FIRST_SECONDS:
            return Verdict(told["status"] == "True", told["reason"], told["message"])
        return Verdict(False, last.reason, f"{last.message} The number of workers stays as it is.")
    low, high = scaling.spec.min_replicas, scaling.spec.max_replicas
    if low == high:
        return Verdict(
            False, "Bounded", f"minReplicas and maxReplicas are both {low}: nothing is left to decide."
        )
    return Verdict(True, "Deciding", "The number of workers follows the demand.")
