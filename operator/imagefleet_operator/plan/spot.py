"""Workers on spot nodes and on demand: how many of each, what stands in where spot nodes lack, and what is interrupted.

A pool with spot has two Deployments: ``P-workers`` for spot nodes, ``P-workers-on-demand`` for all others. What one is
to have is reached in the other's steps: neither gives a worker up before the other has one ready for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imagefleet_operator.plan import surge
from imagefleet_operator.plan.cluster_types import DeploymentState, Pod
from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.spot_types import ON_DEMAND, SPOT, SpotSpec
from imagefleet_operator.plan.types import PoolObserved, Worker


@dataclass(frozen=True, slots=True)
class Split:
    """Numbers of workers."""

    spot: int
    on_demand: int


@dataclass(frozen=True, slots=True)
class Interruption:
    """A spot worker whose node is about to go."""

    pod: Pod
    taint: str


def workers_name(pool: str) -> str:
    """The Deployment of a pool: of its spot workers where it has spot, else of all."""
    return f"{pool}-workers"


def on_demand_name(pool: str) -> str:
    """The Deployment of the workers of a pool with spot that are on demand."""
    return f"{pool}-workers-on-demand"


def share(spot: SpotSpec, workers: int) -> Split:
    """How many of a pool's workers should be where.

    Worked example: of 5 workers at 30 percent on demand 2 are (1.5, rounded up), and 3 on spot nodes; with 8 on demand
    of 5, all 5 are.
    """
    if spot.on_demand_replicas is not None:
        on_demand = min(spot.on_demand_replicas, workers)
    else:
        on_demand = math.ceil(workers * (spot.on_demand_percent or 0) / 100)
    return Split(workers - on_demand, on_demand)


def split(observed: PoolObserved, workers: int, now: float) -> Split:
    """The replicas of the two Deployments.

    Each keeps what the other has not ready yet. Worked example: of 4 workers none is to be on demand, but 4 are since
    no spot node was to be had. When 3 spot workers are ready, 4 - 3 = 1 stays; the 4th spot worker's pod waits, so that
    it is known when there is a node for it.
    """
    spec = observed.pool.spec
    assert spec is not None
    if spec.spot is None:
        return Split(workers, 0)
    wanted = share(spec.spot, workers)
    spot, on_demand = (_of(observed, capacity) for capacity in (SPOT, ON_DEMAND))
    stand_ins = min(wanted.spot, len(without_node(observed, now)))
    return Split(
        spot=max(wanted.spot, min(_desired(observed, SPOT), workers - _ready(on_demand))),
        on_demand=max(
            wanted.on_demand + stand_ins, min(_desired(observed, ON_DEMAND), workers - _ready(spot))
        ),
    )


def keeping(observed: PoolObserved, split: Split) -> Split:
    """The replicas, of neither Deployment fewer than workers that it has and that may have work: a pool that shrinks
    gives up those that have finished, wherever they are."""
    if observed.pool.spec is None or observed.pool.spec.spot is None:
        return split
    on_demand = observed.kept.get(ON_DEMAND, 0)
    rest = sum(observed.kept.values()) - on_demand
    return Split(
        max(split.spot, min(rest, _desired(observed, SPOT))),
        max(split.on_demand, min(on_demand, _desired(observed, ON_DEMAND))),
    )


def beyond(observed: PoolObserved, workers: int) -> frozenset[str]:
    """The workers of a pool with spot, by the name of their pod, that its shares have no place for where it has so many
    workers: the youngest of a capacity that has too many."""
    spec = observed.pool.spec
    if spec is None or spec.spot is None:
        return frozenset()
    wanted = share(spec.spot, workers)
    found: set[str] = set()
    for capacity, most in ((SPOT, wanted.spot), (ON_DEMAND, wanted.on_demand)):
        there = [w.pod for w in _of(observed, capacity) if not w.pod.deleting]
        there.sort(key=lambda pod: (not pod.ready, not pod.shown, pod.created, pod.name))
        found |= {pod.name for pod in there[most:]}
    return frozenset(found)


def _of(observed: PoolObserved, capacity: str) -> list[Worker]:
    """Those of one Deployment. Workers from before the pool had spot are the first one's, which replaces them."""
    return [w for w in observed.workers if (w.pod.capacity == ON_DEMAND) == (capacity == ON_DEMAND)]


def _ready(workers: Sequence[Worker]) -> int:
    return sum(w.pod.ready and not w.pod.deleting and not w.interrupted for w in workers)


def _desired(observed: PoolObserved, capacity: str) -> int:
    state = observed.parts.get(_name(observed, capacity))
    return state.desired if state else 0


def _name(observed: PoolObserved, capacity: str) -> str:
    name = on_demand_name if capacity == ON_DEMAND else workers_name
    return name(observed.pool.name)


def without_node(observed: PoolObserved, now: float) -> list[Pod]:
    """Spot workers' pods that have found no node for so long that others stand in."""
    spec = observed.pool.spec
    if spec is None or spec.spot is None:
        return []
    patience = spec.spot.fallback_seconds
    return [pod for pod, since in _waiting(observed) if now - since >= patience]


def _waiting(observed: PoolObserved) -> list[tuple[Pod, float]]:
    """Spot workers' pods that the scheduler finds no node for, since when."""
    pods = (w.pod for w in observed.workers if w.pod.capacity == SPOT and not w.pod.deleting)
    return [(p, p.trouble.since) for p in pods if p.trouble and p.trouble.reason == "WorkersUnschedulable"]


def look_again(observed: PoolObserved, now: float) -> float | None:
    """The seconds after which ``without_node`` may say something else without any event; None: never."""
    spec = observed.pool.spec
    if spec is None or spec.spot is None:
        return None
    waits = (spec.spot.fallback_seconds - (now - since) for _, since in _waiting(observed))
    return min((wait for wait in waits if wait > 0), default=None)


def alone(observed: PoolObserved, capacity: str) -> PoolObserved:
    """What is observed of one of the two Deployments, as if there were no other."""
    if on_demand_name(observed.pool.name) not in observed.parts and capacity == SPOT:
        return observed
    state = observed.parts.get(_name(observed, capacity))
    return replace(observed, deployment=state, workers=tuple(_of(observed, capacity)))


def total(states: Sequence[DeploymentState]) -> DeploymentState | None:
    """The state of several Deployments together; None of none."""
    if not states:
        return None
    return DeploymentState(
        current=all(s.current for s in states),
        replicas=sum(s.replicas for s in states),
        updated=sum(s.updated for s in states),
        ready=sum(s.ready for s in states),
        desired=sum(s.desired for s in states),
        stalled=next((s.stalled for s in states if s.stalled), ""),
        rejected=next((s.rejected for s in states if s.rejected), ""),
        max_unavailable=max(s.max_unavailable for s in states),
    )


def as_served(observed: PoolObserved, now: float) -> PoolObserved:
    """What is observed without the pods that others stand in for: these are asked for beyond the pool's number, only to
    find out when a spot node is to be had, and that they come to nothing is no failure."""
    pods = without_node(observed, now)
    if not pods or observed.deployment is None:
        return observed
    state, lacking = observed.deployment, len(pods)
    served = replace(
        state,
        replicas=state.replicas - lacking,
        updated=state.updated - lacking,
        desired=state.desired - lacking,
        stalled="",
    )
    return replace(observed, deployment=served)


def obsolete(observed: PoolObserved, now: float) -> bool:
    """Whether the Deployment of the workers on demand can go since the pool has no spot any more: it has none, or the
    other one has all workers ready, or finds no accelerators for them beside those on demand."""
    spec, name = observed.pool.spec, on_demand_name(observed.pool.name)
    if spec is None or spec.spot is not None or name not in observed.parts:
        return False
    if not observed.parts[name].replicas and not observed.parts[name].desired:
        return True
    rest = alone(observed, SPOT)
    state = rest.deployment
    if state is None or not state.current or state.replicas > state.updated:
        return False
    return min(state.updated, _ready(rest.workers)) >= state.desired or bool(surge.lacking(rest, now))


def interruptions(observed: PoolObserved) -> tuple[Interruption, ...]:
    """The spot workers whose nodes are about to go, also those that somebody has told to end already."""
    return tuple(Interruption(w.pod, w.interrupted) for w in observed.workers if w.interrupted)


def interrupted_by(spec: SpotSpec | None, pod: Pod, taints: frozenset[str]) -> str:
    """The taint of its node that interrupts a worker; empty where none does."""
    if spec is None or pod.capacity != SPOT:
        return ""
    return min(taints & spec.interruption_taints, default="")


def spot_available(observed: PoolObserved, now: float) -> Verdict | None:
    """The ``SpotAvailable`` condition; None for a pool without spot."""
    spec = observed.pool.spec
    if spec is None or spec.spot is None:
        return None
    ready = [_ready(_of(observed, capacity)) for capacity in (SPOT, ON_DEMAND)]
    count = f"{ready[0]} workers are ready on spot nodes, {ready[1]} on demand."
    lacking = without_node(observed, now)
    if not lacking:
        return Verdict(True, "SpotAvailable", count)
    said = lacking[0].trouble.message if lacking[0].trouble else ""
    return Verdict(
        False, "OnDemandFallback", f"{count} {len(lacking)} stand in for spot workers without a node: {said}"
    )
