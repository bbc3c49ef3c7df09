"""How many workers are on spot nodes, what stands in for them, and what interrupts them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.cluster_types import DeploymentState, Trouble
from imagefleet_operator.plan.spot import (
    Split,
    as_served,
    interrupted_by,
    interruptions,
    look_again,
    obsolete,
    share,
    split,
    spot_available,
    without_node,
)
from imagefleet_operator.plan.spot_types import ON_DEMAND, SPOT, SpotSpec
from imagefleet_operator.plan.types import PoolObserved, Worker
from imagefleet_operator.plan.verdicts import serving, workers_ready

from tests.unit.operator.make import NOW, deployment, observed, pod, pool, worker

SOME = SpotSpec({"kind": "spot"}, fallback_seconds=60.0, interruption_taints=frozenset({"going", "gone"}))
NOWHERE = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
FULL = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


@pytest.mark.parametrize(
    ("spec", "workers", "want"),
    [
        pytest.param(SOME, 4, Split(4, 0), id="no share is said: none on demand"),
        pytest.param(replace(SOME, on_demand_percent=30), 5, Split(3, 2), id="half a worker is one"),
        pytest.param(replace(SOME, on_demand_percent=1), 1, Split(0, 1), id="the only one is on demand"),
        pytest.param(replace(SOME, on_demand_percent=100), 3, Split(0, 3), id="all"),
        pytest.param(replace(SOME, on_demand_percent=50), 0, Split(0, 0), id="no workers"),
        pytest.param(replace(SOME, on_demand_replicas=1), 5, Split(4, 1), id="a number"),
        pytest.param(replace(SOME, on_demand_replicas=8), 5, Split(0, 5), id="a number over the pool's"),
    ],
)  # fmt: skip
def test_a_share_is_rounded_up_to_whole_workers(spec: SpotSpec, workers: int, want: Split) -> None:
    assert share(spec, workers) == want


def workers(count: int, capacity: str = SPOT, **fields: Any) -> list[Worker]:
    """Ready ones."""
    made = (worker(f"{capacity}-{n}") for n in range(count))
    return [
        replace(w, pod=replace(w.pod, capacity=capacity, node=f"node-{w.pod.name}"), **fields) for w in made
    ]


def waiting(seconds: float = 90.0, message: str = NOWHERE, capacity: str = SPOT, name: str = "new") -> Worker:
    """One that the scheduler has found no node for."""
    trouble = Trouble("WorkersUnschedulable", message, NOW - seconds)
    return Worker(pod(name, ready=False, ip="", trouble=trouble, capacity=capacity))


def starting(capacity: str = SPOT) -> Worker:
    """One that has a node and is not ready yet."""
    return Worker(pod("starting", ready=False, capacity=capacity, node="node-9"))


def part(desired: int, ready: int | None = None, **fields: Any) -> DeploymentState:
    """A Deployment with that many replicas, all of them made."""
    return DeploymentState(
        True, desired, desired, desired if ready is None else ready, desired=desired, **fields
    )


def world(
    *found: Worker, spot: int = 0, on_demand: int | None = 0, spec: SpotSpec | None = SOME, replicas: int = 4
) -> PoolObserved:
    """A pool whose Deployments ask for so many workers now."""
    ready = {c: sum(w.pod.ready for w in found if w.pod.capacity == c) for c in (SPOT, ON_DEMAND)}
    parts = {"thumbs-workers": part(spot, ready[SPOT])}
    if on_demand is not None:
        parts["thumbs-workers-on-demand"] = part(on_demand, ready[ON_DEMAND])
    whole = deployment(sum(ready.values()), replicas=spot + (on_demand or 0), updated=spot + (on_demand or 0))
    return observed(*found, pool=pool(replicas=replicas, spot=spec), deployment=whole, parts=parts)


HALF = replace(SOME, on_demand_percent=50)


@pytest.mark.parametrize(
    ("found", "want"),
    [
        pytest.param(observed(pool=pool(replicas=4)), Split(4, 0), id="a pool without spot"),
        pytest.param(observed(pool=pool(replicas=4, spot=HALF), deployment=None), Split(2, 2), id="a new pool"),
        pytest.param(world(*workers(3), waiting(59.0), spot=4), Split(4, 0), id="a spot node may come yet"),
        pytest.param(world(*workers(3), waiting(60.0), spot=4), Split(4, 1), id="none has come: one stands in"),
        pytest.param(
            world(*workers(3), *workers(1, ON_DEMAND), waiting(), spot=4, on_demand=1), Split(4, 1), id="it stands in"
        ),
        pytest.param(
            world(*workers(3), *workers(1, ON_DEMAND), starting(), spot=4, on_demand=1), Split(4, 1),
            id="it stays until the spot worker is ready",
        ),
        pytest.param(
            world(*workers(4), *workers(1, ON_DEMAND), spot=4, on_demand=1), Split(4, 0), id="and goes then"
        ),
        pytest.param(
            world(*workers(2, ON_DEMAND), waiting(name="a"), waiting(name="b"), spot=2, on_demand=2, spec=HALF),
            Split(2, 4),
            id="they stand in beside the share",
        ),
        pytest.param(
            world(*workers(4, ""), spot=4, on_demand=None, spec=HALF), Split(4, 2),
            id="spot is new to the pool: none goes before one on demand is ready",
        ),
        pytest.param(
            world(*workers(4), *workers(1, ON_DEMAND), spot=4, on_demand=2, spec=HALF), Split(3, 2),
            id="one is ready, one goes",
        ),
        pytest.param(
            world(*workers(4), *workers(2, ON_DEMAND), spot=4, on_demand=2, replicas=2), Split(2, 0),
            id="the pool shrinks",
        ),
        pytest.param(
            world(*workers(4), *workers(4, ON_DEMAND), waiting(), spot=4, on_demand=4, replicas=0), Split(0, 0),
            id="the pool is stopped",
        ),
        pytest.param(
            world(*workers(3, interrupted="going"), *workers(1, ON_DEMAND), spot=4, on_demand=1), Split(4, 1),
            id="what is interrupted is not counted on",
        ),
    ],
)  # fmt: skip
def test_neither_deployment_gives_a_worker_up_before_the_other_has_it(
    found: PoolObserved, want: Split
) -> None:
    assert found.pool.spec is not None
    assert split(found, found.pool.spec.replicas, NOW) == want


@given(
    total=st.integers(0, 20),
    percent=st.integers(0, 100),
    ready=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    desired=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    lacking=st.integers(0, 3),
)
def test_whatever_is_there_the_pool_never_has_fewer_workers_than_it_should(
    total: int, percent: int, ready: tuple[int, int], desired: tuple[int, int], lacking: int
) -> None:
    pods = [waiting(name=f"new-{n}") for n in range(lacking)]
    found = world(
        *workers(ready[0]),
        *workers(ready[1], ON_DEMAND),
        *pods,
        spot=desired[0],
        on_demand=desired[1],
        spec=replace(SOME, on_demand_percent=percent),
        replicas=total,
    )
    got = split(found, total, NOW)
    assert got.spot + got.on_demand >= total
    assert got.spot <= total
    assert got.on_demand <= total


@pytest.mark.parametrize(
    ("found", "want"),
    [
        pytest.param(world(waiting(20.0), spot=1), 40.0, id="its patience ends"),
        pytest.param(world(waiting(20.0), waiting(50.0, name="b"), spot=2), 10.0, id="the first one's patience"),
        pytest.param(world(waiting(70.0), spot=1), None, id="it has ended"),
        pytest.param(world(*workers(4), spot=4), None, id="all have nodes"),
        pytest.param(observed(waiting(20.0, capacity="")), None, id="a pool without spot"),
    ],
)  # fmt: skip
def test_a_pod_that_waits_is_looked_at_when_others_may_stand_in(
    found: PoolObserved, want: float | None
) -> None:
    assert look_again(found, NOW) == want


def test_workers_of_the_pool_that_wait_on_demand_or_end_are_no_reason_for_others_to_stand_in() -> None:
    leaving = waiting(name="leaving")
    leaving = replace(leaving, pod=replace(leaving.pod, deleting=True))
    assert without_node(world(waiting(capacity=ON_DEMAND), leaving, spot=1), NOW) == []


def test_a_pool_is_ready_while_others_stand_in_and_says_that_they_do() -> None:
    state = DeploymentState(True, replicas=5, updated=5, ready=4, stalled="no progress for 900 s", desired=5)
    found = world(*workers(3), *workers(1, ON_DEMAND), waiting(), spot=4, on_demand=1)
    found = as_served(replace(found, deployment=state), NOW)
    assert found.deployment == DeploymentState(True, replicas=4, updated=4, ready=4, desired=4)
    assert found.pool.spec is not None
    assert workers_ready(found.pool.spec, found, NOW).ok
    verdict = spot_available(found, NOW)
    assert verdict is not None
    assert (verdict.ok, verdict.reason) == (False, "OnDemandFallback")
    assert "3 workers are ready on spot nodes, 1 on demand. 1 stand in" in verdict.message
    assert NOWHERE in verdict.message


def test_a_spot_worker_that_waits_for_a_short_time_is_no_lack_of_spot_nodes() -> None:
    found = world(*workers(3), waiting(59.0), spot=4)
    assert as_served(found, NOW) is found
    verdict = spot_available(found, NOW)
    assert verdict is not None
    assert (verdict.ok, verdict.reason) == (True, "SpotAvailable")
    assert spot_available(observed(worker()), NOW) is None


OFF: dict[str, Any] = {"spec": None, "on_demand": 2, "replicas": 2}


@pytest.mark.parametrize(
    ("found", "want"),
    [
        pytest.param(world(*workers(2), *workers(2, ON_DEMAND), spot=2, on_demand=2), False, id="the pool has spot"),
        pytest.param(world(*workers(2, ""), spot=2, spec=None, on_demand=None), False, id="there is none"),
        pytest.param(world(*workers(1, ""), *workers(2, ON_DEMAND), spot=2, **OFF), False, id="one is not replaced"),
        pytest.param(world(spot=2, spec=None, on_demand=0, replicas=2), True, id="none is on demand"),
        pytest.param(world(*workers(2, ""), *workers(2, ON_DEMAND), spot=2, **OFF), True, id="all are replaced"),
        pytest.param(
            world(*workers(1, ""), waiting(9.0, FULL, ""), *workers(2, ON_DEMAND), spot=2, **OFF), True,
            id="they hold the accelerators that the others need",
        ),
        pytest.param(
            world(*workers(1, ""), waiting(2.0, FULL, ""), *workers(2, ON_DEMAND), spot=2, **OFF), False,
            id="an accelerator may be given back yet",
        ),
    ],
)  # fmt: skip
def test_workers_on_demand_go_with_spot_when_they_are_replaced(found: PoolObserved, want: bool) -> None:
    assert obsolete(found, NOW) is want


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"current": False}, id="it was changed just now"),
        pytest.param({"replicas": 3}, id="one of those that are ready is an old one"),
    ],
)
def test_while_the_other_deployment_replaces_its_own_workers_those_on_demand_stay(fields: Any) -> None:
    found = world(*workers(2, ""), *workers(2, ON_DEMAND), spot=2, **OFF)
    rolling = {**found.parts, "thumbs-workers": replace(found.parts["thumbs-workers"], **fields)}
    assert not obsolete(replace(found, parts=rolling), NOW)


@pytest.mark.parametrize(
    ("spec", "capacity", "taints", "want"),
    [
        pytest.param(SOME, SPOT, {"other", "going"}, "going", id="one of those that the pool names"),
        pytest.param(SOME, SPOT, {"other"}, "", id="another one"),
        pytest.param(SOME, ON_DEMAND, {"going"}, "", id="a worker on demand"),
        pytest.param(None, SPOT, {"going"}, "", id="a pool without spot"),
    ],
)
def test_a_taint_of_its_node_interrupts_a_spot_worker(
    spec: SpotSpec | None, capacity: str, taints: set[str], want: str
) -> None:
    assert interrupted_by(spec, pod(capacity=capacity), frozenset(taints)) == want


def test_an_interrupted_worker_holds_no_models_any_more() -> None:
    stays, goes = workers(2)
    goes = replace(goes, interrupted="going")
    assert serving([stays, goes]) == [stays]
    (found,) = interruptions(world(stays, goes, spot=2))
    assert (found.pod, found.taint) == (goes.pod, "going")


def test_many_pods_are_told_apart_by_their_capacity_alone() -> None:
    """A pool of workers that came before spot, of spot workers and of those on demand."""
    found = world(*workers(1, ""), *workers(1), *workers(1, ON_DEMAND), spot=2, on_demand=1, replicas=3)
    assert split(found, 3, NOW) == Split(3, 1)
