"""Whether a new worker starts before an old one ends, decided by what the scheduler says."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.cluster_types import DeploymentState, Trouble
from imagefleet_operator.plan.surge import PATIENCE_SECONDS, look_again, max_unavailable
from imagefleet_operator.plan.types import PoolObserved, Worker
from imagefleet_operator.store.records import child_record, pod_record

from tests.unit.operator.make import NOW, observed, pod, pool, worker

ONE_GPU = {"nvidia.com/gpu": 1.0, "cpu": 4.0}
TWO_GPUS = {"nvidia.com/gpu": 2.0, "cpu": 4.0}
FULL = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't match Pod's node affinity/selector."
FULL_OF_ALL = (
    "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient nvidia.com/gpu. no new claims to deallocate."
)
ELSEWHERE = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
OTHER = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.shared."
ROLLING = DeploymentState(True, replicas=3, updated=1, ready=2)
AWAY = replace(ROLLING, max_unavailable=1)


def old(name: str = "old-1") -> Worker:
    return replace(worker(name), pod=pod(name, requests=ONE_GPU))


def waiting(
    message: str = FULL, seconds: float = 60.0, requests: dict[str, float] = ONE_GPU, name: str = "new"
) -> Worker:
    trouble = Trouble("WorkersUnschedulable", message, NOW - seconds)
    return Worker(pod(name, ready=False, ip="", trouble=trouble, requests=requests))


def rolling(
    *workers: Worker, state: DeploymentState = ROLLING, replicas: int = 2, gpus: int = 1
) -> PoolObserved:
    state = replace(state, desired=replicas)
    return observed(*workers, pool=pool(replicas=replicas, accelerator_count=gpus), deployment=state)


TWO_OLD = (old("old-1"), old("old-2"))


@pytest.mark.parametrize(
    ("found", "want"),
    [
        pytest.param(observed(deployment=None), 0, id="nothing is there yet"),
        pytest.param(rolling(*TWO_OLD, worker("new")), 0, id="the new one found an accelerator"),
        pytest.param(rolling(*TWO_OLD, waiting()), 1, id="the new one finds none"),
        pytest.param(rolling(*TWO_OLD, waiting(FULL_OF_ALL)), 1, id="it finds none of anything"),
        pytest.param(rolling(*TWO_OLD, waiting(seconds=PATIENCE_SECONDS)), 1, id="for just long enough"),
        pytest.param(rolling(*TWO_OLD, waiting(seconds=4.9)), 0, id="it may find one yet"),
        pytest.param(rolling(*TWO_OLD, waiting(ELSEWHERE)), 0, id="no node is right for the new one"),
        pytest.param(rolling(*TWO_OLD, waiting(OTHER)), 0, id="it lacks something of a longer name"),
        pytest.param(rolling(*TWO_OLD, waiting(), gpus=0), 0, id="CPU workers"),
        pytest.param(
            rolling(*TWO_OLD, waiting(), state=replace(ROLLING, current=False)), 0,
            id="the Deployment's controller has not looked yet",
        ),
        pytest.param(
            rolling(*TWO_OLD, waiting(), state=DeploymentState(True, 3, 3, 2), replicas=3), 0,
            id="it is scaled up, nothing is replaced",
        ),
        pytest.param(
            rolling(*TWO_OLD, waiting(name="old-3"), waiting(), state=DeploymentState(True, 4, 1, 2), replicas=3), 2,
            id="a pool larger than its nodes",
        ),
        pytest.param(
            rolling(old(), waiting(), state=DeploymentState(True, 2, 1, 1), replicas=1), 1,
            id="the last worker makes room for its like",
        ),
        pytest.param(
            rolling(old(), waiting(requests=TWO_GPUS), state=DeploymentState(True, 2, 1, 1), replicas=1), 0,
            id="the last worker stays where its successor is larger",
        ),
        pytest.param(rolling(*TWO_OLD, waiting(requests=TWO_GPUS)), 1, id="one of two may end for a larger one"),
        pytest.param(
            rolling(waiting(), state=DeploymentState(True, 2, 1, 0), replicas=1), 1, id="nobody serves anyway"
        ),
        pytest.param(rolling(*TWO_OLD, state=AWAY), 1, id="once begun it is kept"),
        pytest.param(rolling(*TWO_OLD, state=replace(AWAY, current=False)), 1, id="kept while it is taken in"),
        pytest.param(
            rolling(old(), state=DeploymentState(True, 1, 1, 1, max_unavailable=1)), 1,
            id="kept while the last one is yet to be made",
        ),
        pytest.param(
            rolling(*TWO_OLD, state=DeploymentState(True, 2, 2, 2, max_unavailable=1)), 0, id="given up at the end"
        ),
    ],
)  # fmt: skip
def test_what_the_scheduler_says_of_the_new_worker_decides(found: PoolObserved, want: int) -> None:
    assert max_unavailable(found, NOW) == want


@pytest.mark.parametrize(
    ("found", "want"),
    [
        pytest.param(rolling(*TWO_OLD, waiting(seconds=2.0)), 3.0, id="when its patience ends"),
        pytest.param(rolling(*TWO_OLD, waiting(seconds=9.0)), None, id="it has ended"),
        pytest.param(rolling(*TWO_OLD, waiting(ELSEWHERE, 2.0)), None, id="waiting does not help"),
        pytest.param(
            rolling(*TWO_OLD, waiting(seconds=2.0), state=AWAY), None, id="workers end first already"
        ),
        pytest.param(observed(worker()), None, id="at rest"),
    ],
)
def test_a_pod_that_waits_is_looked_at_again_when_that_may_decide(
    found: PoolObserved, want: float | None
) -> None:
    assert look_again(found, NOW) == want


def test_a_pods_record_tells_what_it_waits_for_since_when_and_what_it_asks_for() -> None:
    asks = [{"requests": {"cpu": "500m", "nvidia.com/gpu": "1"}}, {"requests": {"cpu": "1"}}, {}]
    refused = {
        "type": "PodScheduled",
        "status": "False",
        "message": FULL,
        "lastTransitionTime": "2026-11-23T02:00:00Z",
    }
    found = pod_record(
        {
            "metadata": {
                "namespace": "ns",
                "name": "a",
                "uid": "u",
                "labels": {"imagefleet.dev/pool": "thumbs"},
            },
            "spec": {"containers": [{"name": str(n), "resources": part} for n, part in enumerate(asks)]},
            "status": {"conditions": [refused]},
        }
    )
    assert found.requests == {"cpu": 1.5, "nvidia.com/gpu": 1.0}
    assert found.trouble == Trouble("WorkersUnschedulable", FULL, 1795399200.0)


@pytest.mark.parametrize(
    ("rolling_update", "want"),
    [({"maxUnavailable": 1, "maxSurge": 0}, 1), ({"maxUnavailable": "25%"}, 0), (None, 0)],
    ids=["ours", "a hand's", "none"],
)
def test_a_deployments_record_tells_how_many_may_be_away(rolling_update: Any, want: int) -> None:
    metadata = {"namespace": "ns", "name": "thumbs-workers", "uid": "u"}
    found = child_record(
        "Deployment", {"metadata": metadata, "spec": {"strategy": {"rollingUpdate": rolling_update}}}
    )
    assert isinstance(found.state, DeploymentState)
    assert found.state.max_unavailable == want


STATES = st.builds(
    DeploymentState,
    current=st.booleans(),
    replicas=st.integers(0, 4),
    updated=st.integers(0, 4),
    ready=st.integers(0, 4),
    max_unavailable=st.integers(0, 3),
)


@given(state=STATES, ready=st.integers(0, 3), lacking=st.integers(0, 3), replicas=st.integers(0, 3))
def test_no_decision_is_taken_back_before_all_workers_are_replaced(
    state: DeploymentState, ready: int, lacking: int, replicas: int
) -> None:
    workers = [*(old(f"old-{n}") for n in range(ready)), *(waiting(name=f"new-{n}") for n in range(lacking))]
    first = max_unavailable(rolling(*workers, state=state, replicas=replicas), NOW)
    decided = replace(state, max_unavailable=first)
    for later in (decided, replace(decided, current=False)):
        again = max_unavailable(rolling(*workers, state=later, replicas=replicas), NOW + 60)
        assert again == first or state.updated >= max(state.replicas, replicas)
