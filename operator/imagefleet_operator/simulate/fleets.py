"""Fleets to compare: ours, and others as they are run: a pool for each model, or on workers that are shared like
ours."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from imagefleet_operator.plan.scaling import ScalingSpec
from imagefleet_operator.simulate import peers
from imagefleet_operator.simulate.engine import simulate
from imagefleet_operator.simulate.policies import Ours
from imagefleet_operator.simulate.trace import Request, Trace
from imagefleet_operator.simulate.world import Outcome, Policy, World

DAY = 86_400.0

Build = Callable[[float, int], Policy]
"""A peer's policy by its target and its fewest replicas."""

PEERS: Mapping[str, tuple[Build, tuple[float, ...], int]] = {
    "hpa": (peers.HorizontalPodAutoscaler, (1.0, 0.5, 2.0), 1),
    "kpa": (peers.KnativePodAutoscaler, (0.7, 0.4, 1.0), 0),
    "keda": (peers.Keda, (5.0, 1.0, 0.5), 0),
    "keep-alive": (peers.KeepAlive, (600.0, 300.0, 120.0), 0),
}
"""By name: the policy, its targets (its default first), and the fewest replicas that it can have."""


def ours(trace: Trace, spec: ScalingSpec, world: World, day: float = DAY) -> Outcome:
    """One pool of shared workers, scaled as the operator does."""
    return simulate(trace, Ours(spec, day), world)


def shared(trace: Trace, policy: Policy, world: World) -> Outcome:
    """One pool of shared workers, scaled by another's policy."""
    return simulate(trace, policy, world)


def by_model(trace: Trace) -> Mapping[str, Trace]:
    """The requests of each model."""
    parts: dict[str, list[Request]] = {}
    for request in trace:
        parts.setdefault(request.model, []).append(request)
    return {model: tuple(requests) for model, requests in parts.items()}


def pool_for_each(trace: Trace, build: Callable[[], Policy], world: World) -> Outcome:
    """A pool for each model, each with its own policy; a new pod loads its model in ``world.first_load_seconds``.

    A pool is there for as long as the trace is, not only while its model is asked for.
    """
    return joined([simulate(part, build(), lasting(world, trace)) for part in by_model(trace).values()])


def lasting(world: World, trace: Trace) -> World:
    """The same world, from the first request of the trace to its last."""
    return replace(world, begin=trace[0].arrival, end=trace[-1].arrival)


def joined(outcomes: list[Outcome]) -> Outcome:
    """Pools that are there at the same time, as one."""
    changes = []
    for outcome in outcomes:
        before = 0
        for time, held in outcome.replicas:
            changes.append((time, held - before))
            before = held
    total = 0
    replicas: list[tuple[float, int]] = []
    for time, change in sorted(changes):
        total += change
        replicas.append((time, total))
    return Outcome(
        waits=[w for o in outcomes for w in o.waits],
        held=sum(o.held for o in outcomes),
        busy=sum(o.busy for o in outcomes),
        loading=sum(o.loading for o in outcomes),
        cold=sum(o.cold for o in outcomes),
        created=sum(o.created for o in outcomes),
        end=max((o.end for o in outcomes), default=0.0),
        replicas=replicas,
    )
