"""Rollouts that must not come to their end: callers are back at the stable model, and the pool says why."""

from __future__ import annotations

import time

import pytest

from tests.e2e.rollouts.pools import Json, Pool, shapes_model

HALF: Json = {"setWeight": 50}
STOP: Json = {"pause": {}}


@pytest.mark.parametrize(
    ("model", "metric", "analysis"),
    [
        ("shapes-slow", "latency", {"latency": {}}),
        ("shapes-broken", "errorRate", {"errorRate": {}}),
    ],
)
def test_a_bad_version_is_aborted_on_what_is_bad_about_it(
    pictures: Pool, model: str, metric: str, analysis: Json
) -> None:
    pictures.begin("shapes-2")
    with pictures.callers() as load:
        load.wait_for_more(5)
        pictures.roll(model, HALF, STOP, analysis=analysis)
        rollout = pictures.wait_phase("Aborted")
        aborted = time.time()
        load.wait_for_more(10, sent_since=aborted + 2)
    assert (rollout["reason"], rollout["abortedModel"]) == ("AnalysisFailed", model)
    (found,) = rollout["analysis"]["metrics"]
    assert (found["metric"], found["verdict"]) == (metric, "Failed")
    assert set(load.served_by(since=aborted + 2)) == {"shapes-2"}, "callers are back at stable"
    assert {one[2] for one in load.failed} <= {model}, "only the canary's own faults reached callers"
    assert pictures.get()["spec"]["models"][0]["model"] == model, "the operator never writes spec"


def test_a_version_that_never_loads_never_serves_and_the_deadline_ends_it(pictures: Pool) -> None:
    pictures.begin("shapes-2")
    with pictures.callers() as load:
        pictures.roll("shapes-unloadable", HALF, progressDeadlineSeconds=5)
        rollout = pictures.wait_phase("Aborted")
        load.wait_for_more(5)
    assert rollout["reason"] == "ProgressDeadlineExceeded"
    assert not load.failed
    assert set(load.served_by()) == {"shapes-2"}


def test_a_spec_that_is_reverted_on_the_way_ends_where_it_began(pictures: Pool) -> None:
    pictures.begin("shapes-2")
    with pictures.callers() as load:
        pictures.roll("shapes-1", HALF, STOP)
        pictures.wait_phase("Paused")
        load.wait_for_more(10)
        pictures.begin("shapes-2")
        reverted = time.time()
        load.wait_for_more(10, sent_since=reverted + 2)
    assert not load.failed
    assert set(load.served_by()) == {"shapes-1", "shapes-2"}
    assert set(load.served_by(since=reverted + 2)) == {"shapes-2"}
    assert pictures.history()[-1]["verdict"] == "Reverted"


def test_no_rollout_begins_while_callers_use_up_the_error_budget(pictures: Pool) -> None:
    too_slow: Json = {"latencySeconds": {"p95": "0.001"}}
    # What was drawn in the hour before counts too.
    rollout: Json = {"steps": [HALF, STOP], "pauseBurnRate": "0.2"}
    pictures.begin("shapes-2")
    pictures.serve("shapes-2", slo=too_slow)
    with pictures.callers() as load:
        load.wait_for_more(30)
    pictures.serve("shapes-1", slo=too_slow, rollout=rollout)
    pictures.wait(lambda: pictures.rollout().get("reason") == "BurningErrorBudget")
    assert pictures.rollout()["phase"] == "Preparing"
    assert pictures.traffic() == {"shapes-2": 100}
    assert pictures.condition("RolloutHealthy") == ("False", "RolloutBlocked")
    pictures.serve("shapes-1", rollout=rollout)
    pictures.wait_phase("Paused")
    pictures.begin("shapes-2")


def test_an_unsafe_canary_is_aborted_and_suspended_by_itself(pictures: Pool) -> None:
    slo = {"safetyPassRate": "0.9", "onUnsafe": "Suspend"}
    pictures.begin("shapes-2")
    rollout: Json = {"steps": [HALF, STOP], "analysis": {"latency": {"maxRatio": "10"}}}
    with pictures.callers() as load:
        pictures.serve("shapes-unsafe", slo=slo, rollout=rollout)
        aborted = pictures.wait_phase("Aborted")
        at = time.time()
        load.wait_for_more(10, sent_since=at + 2)
    assert aborted["reason"] == "Unsafe"
    assert pictures.traffic() == {"shapes-2": 100}
    assert set(load.served_by(since=at + 2)) == {"shapes-2"}
    assert {code for _, code, _ in load.failed} <= {"content_policy_violation", "model_suspended"}
    assert pictures.condition("SafetyHealthy")[0] == "False"
    (record,) = pictures.suspensions("shapes-unsafe")
    assert (record["reason"], "until" in record) == ("Unsafe", False)
    pictures.wait(lambda: "ModelSuspended" in pictures.events())
    pictures.command("unsuspend shapes")
    pictures.wait(lambda: "until" in pictures.suspensions("shapes-unsafe")[-1])
    pictures.begin("shapes-2")


def test_a_model_that_the_worker_has_no_room_for_is_no_obstacle(pictures: Pool) -> None:
    """It is an odd case of the deadline: nothing is unloaded for it."""
    pictures.apply(shapes_model("shapes-huge", "shapes-1", memory="1Ti"))
    pictures.begin("shapes-2")
    pictures.roll("shapes-huge", HALF, progressDeadlineSeconds=1)
    assert pictures.wait_phase("Aborted")["reason"] == "ProgressDeadlineExceeded"
    assert pictures.traffic() == {"shapes-2": 100}
    pictures.begin("shapes-2")
