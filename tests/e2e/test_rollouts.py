"""Rollouts of the shipped models under load, through two gateways: each ends as it should; callers notice nothing."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.cluster.cluster import wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.callers import Callers
from tests.e2e.images import conditions, wait_ready
from tests.e2e.rollout_pools import (
    STEPS,
    Json,
    apply,
    command,
    entry_of,
    events_of,
    history_of,
    phase_of,
    pool,
    shapes_model,
    traffic_of,
    wait_phase,
    wait_served,
)
from tests.plugins.cluster import Kubectl

POOL = "pictures"
# Of a worker's memory, which here is the host's: two such models do not fit beside each other.
MEMORY_OF_MOST = f"{int(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') * 0.6)}"
ROLLOUT: Json = {"steps": STEPS, "analysis": {"qualityScore": {"maxDecrease": "0.1"}, "minRequests": 20}}


@pytest.fixture(scope="module")
def pictures(fleet: Fleet, shared_kubectl: Kubectl) -> Kubectl:
    """One worker on one CPU that serves shapes-1; both versions fit on it."""
    models = ("shapes-1", "shapes-2", "shapes-degraded", "shapes-slow", "shapes-broken", "shapes-unloadable")
    apply(shared_kubectl, *(shapes_model(name) for name in models))
    serve(shared_kubectl, "shapes-1")
    wait_ready(shared_kubectl, POOL)
    return shared_kubectl


def serve(kubectl: Kubectl, model: str, rollout: Json = ROLLOUT, **entry: Any) -> None:
    apply(kubectl, pool(POOL, model, worker={"checks": {"quality": "shapes"}}, rollout=rollout, **entry))


def begin(kubectl: Kubectl, model: str) -> None:
    """Serve a model at once, without steps, so that a journey can begin at it."""
    serve(kubectl, model, rollout={"steps": []})
    wait_served(kubectl, POOL, model)


def callers(fleet: Fleet, kubectl: Kubectl) -> Callers:
    return Callers(fleet.gateways(), f"{kubectl.namespace}/shapes")


def test_a_good_version_is_promoted(fleet: Fleet, pictures: Kubectl) -> None:
    begin(pictures, "shapes-1")
    with callers(fleet, pictures) as load:
        load.wait_for_more(10)
        serve(pictures, "shapes-2")
        wait_served(pictures, POOL, "shapes-2", seconds=120)
        load.wait_for_more(10)
    assert not load.failed
    last = history_of(pictures, POOL)[-1]
    assert (last["from"], last["to"], last["verdict"]) == ("shapes-1", "shapes-2", "Promoted")
    assert last["by"]
    assert {"RolloutStarted", "WeightSet", "RolloutPromoted"} <= events_of(pictures, POOL)


def test_the_split_is_exact(fleet: Fleet, pictures: Kubectl) -> None:
    begin(pictures, "shapes-2")
    serve(pictures, "shapes-1", rollout={"steps": [{"setWeight": 20}, {"pause": {}}]})
    wait_phase(pictures, POOL, "Paused")
    assert traffic_of(pictures, POOL) == {"shapes-2": 80, "shapes-1": 20}
    with callers(fleet, pictures) as load:
        load.wait_for_more(100)
    shares = load.served_by()
    assert shares["shapes-1"] / shares.total() == pytest.approx(0.2, abs=0.05)
    command(pictures, POOL, "abort shapes")
    wait_phase(pictures, POOL, "Aborted")
    assert traffic_of(pictures, POOL) == {"shapes-2": 100}


@pytest.mark.parametrize(
    ("model", "metric", "analysis"),
    [
        ("shapes-degraded", "qualityScore", {"qualityScore": {}}),
        ("shapes-slow", "latency", {"latency": {}}),
        ("shapes-broken", "errorRate", {"errorRate": {}}),
    ],
)
def test_a_bad_version_is_aborted_on_what_is_bad_about_it(
    fleet: Fleet, pictures: Kubectl, model: str, metric: str, analysis: Json
) -> None:
    begin(pictures, "shapes-2")
    with callers(fleet, pictures) as load:
        load.wait_for_more(5)
        serve(pictures, model, rollout={"steps": STEPS, "analysis": {**analysis, "minRequests": 20}})
        entry = wait_phase(pictures, POOL, "Aborted", seconds=120)
        aborted = time.time()
        load.wait_for_more(20)
    rollout = entry["rollout"]
    assert (rollout["reason"], rollout["abortedModel"]) == ("AnalysisFailed", model)
    failed = [one["metric"] for one in rollout["analysis"]["metrics"] if one["verdict"] == "Failed"]
    assert failed == [metric]
    assert set(load.served_by(since=aborted + 2)) == {"shapes-2"}, "callers are back at stable"
    assert {one[2] for one in load.failed} <= {model}, "only the canary's own faults reached callers"
    found = pictures.get(f"inferencepools.imagefleet.dev/{POOL}")
    assert found["spec"]["models"][0]["model"] == model, "the operator never writes spec"
    assert conditions(found)["RolloutHealthy"]["status"] == "False"
    assert conditions(found)["Ready"]["status"] == "True"


def test_a_version_that_never_loads_never_serves_and_the_deadline_ends_it(
    fleet: Fleet, pictures: Kubectl
) -> None:
    begin(pictures, "shapes-2")
    with callers(fleet, pictures) as load:
        serve(pictures, "shapes-unloadable", rollout={"steps": STEPS, "progressDeadlineSeconds": 10})
        entry = wait_phase(pictures, POOL, "Aborted", seconds=60)
        load.wait_for_more(10)
    assert entry["rollout"]["reason"] == "ProgressDeadlineExceeded"
    assert not load.failed
    assert set(load.served_by()) == {"shapes-2"}


def test_a_spec_that_is_reverted_on_the_way_ends_where_it_began(fleet: Fleet, pictures: Kubectl) -> None:
    begin(pictures, "shapes-2")
    with callers(fleet, pictures) as load:
        serve(pictures, "shapes-1", rollout={"steps": [{"setWeight": 50}, {"pause": {}}]})
        wait_phase(pictures, POOL, "Paused")
        load.wait_for_more(10)
        serve(pictures, "shapes-2")
        wait_served(pictures, POOL, "shapes-2")
        wait_for(lambda: "rollout" not in entry_of(pictures, POOL))
        load.wait_for_more(10)
    assert not load.failed
    assert history_of(pictures, POOL)[-1]["verdict"] == "Reverted"


def test_people_pause_promote_and_retry(fleet: Fleet, pictures: Kubectl) -> None:
    begin(pictures, "shapes-2")
    serve(
        pictures,
        "shapes-1",
        rollout={"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]},
    )
    wait_phase(pictures, POOL, "Paused")
    command(pictures, POOL, "promote shapes 1")
    wait_for(lambda: traffic_of(pictures, POOL) == {"shapes-2": 50, "shapes-1": 50})
    command(pictures, POOL, "abort shapes 2")
    wait_phase(pictures, POOL, "Aborted")
    command(pictures, POOL, "retry shapes 3")
    wait_phase(pictures, POOL, "Paused")
    command(pictures, POOL, "promote-full shapes 4")
    wait_served(pictures, POOL, "shapes-1")
    command(pictures, POOL, "promote shapes 5")

    def refused() -> bool:
        status = pictures.get(f"inferencepools.imagefleet.dev/{POOL}")["status"]
        return bool(status["command"]["outcome"] == "Refused")

    wait_for(refused)


def test_one_worker_without_room_for_both_moves_all_at_once(fleet: Fleet, kubectl: Kubectl) -> None:
    large = {"memory": MEMORY_OF_MOST}
    apply(kubectl, shapes_model("shapes-1", **large), shapes_model("shapes-2", **large))
    apply(kubectl, pool(POOL, "shapes-1"))
    wait_ready(kubectl, POOL)
    with callers(fleet, kubectl) as load:
        load.wait_for_more(5)
        apply(kubectl, pool(POOL, "shapes-2", rollout={"steps": [{"setWeight": 10}]}))
        wait_served(kubectl, POOL, "shapes-2")
        load.wait_for_more(5)
    assert not load.failed, "requests wait while the worker swaps"
    assert set(load.served_by()) == {"shapes-1", "shapes-2"}


def test_the_table_shows_how_far_the_rollout_is(fleet: Fleet, pictures: Kubectl) -> None:
    begin(pictures, "shapes-2")
    serve(pictures, "shapes-1", rollout={"steps": [{"setWeight": 30}, {"pause": {}}]})
    wait_phase(pictures, POOL, "Paused")
    header, row = pictures("get", "inferencepools.imagefleet.dev").splitlines()
    shown = dict(zip(header.split(), row.split(), strict=False))
    assert (shown["STABLE"], shown["CANARY"], shown["WEIGHT"], shown["STEP"]) == (
        "shapes-2",
        "shapes-1",
        "30%",
        "2/2",
    )
    serve(pictures, "shapes-2")
    wait_for(lambda: phase_of(pictures, POOL) == "")
