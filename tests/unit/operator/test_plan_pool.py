"""The plan of a pool: what is done for it, and what is said of it."""

from dataclasses import replace

import pytest
from imagefleet_operator.plan.cluster_types import Trouble
from imagefleet_operator.plan.conditions import REASONS, find, timestamp
from imagefleet_operator.plan.policy import Annotate, Put, placement_text, policy_hash
from imagefleet_operator.plan.pool import POLL_SETTLED, POLL_UNSETTLED, PoolPlan, WorkerPlan, plan_pool
from imagefleet_operator.plan.types import Device, PoolModel, PoolObserved, Refusal, SourceSpec, Worker

from tests.unit.operator.make import (
    DIGEST,
    GIB,
    NOW,
    VERIFIED,
    deployment,
    described,
    holding,
    model,
    observed,
    pod,
    pool,
    report,
    worker,
)

SHAPES = {
    "model": "shapes-1",
    "path": "/models/shapes-1",
    "digest": DIGEST,
    "pinned": True,
    "pipeline": {"dtype": "auto"},
    "defaults": {},
    "limits": {},
    "memoryBytes": int(GIB * 1.3),
}
SETTLED = Worker(
    pod(placement='{"shapes-1":{"pinned":true}}'), report(holding("shapes-1")), None, policy_hash([SHAPES])
)


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, object]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": timestamp(NOW),
    }


def test_a_new_worker_is_given_its_models_and_the_whole_status_says_so() -> None:
    fresh = worker("a")
    assert plan_pool(observed(fresh), NOW) == PoolPlan(
        workers=(WorkerPlan(fresh, (SHAPES,)),),
        status={
            "observedGeneration": 1,
            "desiredReplicas": 1,
            "replicas": 1,
            "readyReplicas": 1,
            "selector": "imagefleet.dev/pool=thumbs,app.kubernetes.io/name=imagefleet-worker",
            "models": [
                {
                    "name": "shapes-1",
                    "stable": "shapes-1",
                    "traffic": [{"model": "shapes-1", "percent": 100}],
                    "resident": 0,
                    "ready": False,
                }
            ],
            "rollout": {"stable": "shapes-1"},
            "conditions": [
                condition("Ready", "False", "ModelLoading", "Loading shapes-1 (0 of 1)."),
                condition("WorkersReady", "True", "WorkersReady", "1 of 1 workers are ready."),
                condition("ModelsPlaced", "False", "ModelLoading", "Loading shapes-1 (0 of 1)."),
                condition("RolloutHealthy", "True", "NoRollout", "No rollout is under way."),
                condition("Reconciling", "True", "Progressing", "Loading shapes-1 (0 of 1)."),
            ],
        },
        poll_seconds={"a": POLL_UNSETTLED},
    )


def test_a_new_worker_is_told_before_the_gateways() -> None:
    (plan,) = plan_pool(observed(worker("a")), NOW).workers
    put, annotate = Put((SHAPES,), policy_hash([SHAPES])), Annotate('{"shapes-1":{"pinned":true}}')
    assert plan.steps == (put, annotate)


def test_a_settled_pool_is_ready_and_nothing_is_done() -> None:
    plan = plan_pool(observed(SETTLED), NOW)
    assert plan.workers == ()
    assert plan.poll_seconds == {"a": POLL_SETTLED}
    assert plan.status["models"][0]["ready"] is True
    assert [(c["type"], c["status"]) for c in plan.status["conditions"]] == [
        ("Ready", "True"),
        ("WorkersReady", "True"),
        ("ModelsPlaced", "True"),
        ("RolloutHealthy", "True"),
    ]


def test_the_same_observation_later_gives_the_same_status() -> None:
    first = plan_pool(observed(SETTLED), NOW).status
    again = observed(SETTLED, pool=replace(pool(), status=first))
    assert plan_pool(again, NOW + 3600).status == first


TROUBLED = Worker(pod(ready=False, trouble=Trouble("WorkersUnschedulable", "0/3 nodes are available.")))
CRASHING = Worker(pod("b", ready=False, trouble=Trouble("WorkersCrashing", "worker ended with exit code 1")))
TWO_NAMES = pool(models=(PoolModel("x", "shapes-1"), PoolModel("y", "shapes-2")))
THREE_OF_TWO = pool(models=(PoolModel("x", "shapes-1", 3),), replicas=2)
ON_DEMAND = pool(models=(PoolModel("x", "shapes-1", 0),))


@pytest.mark.parametrize(
    ("seen", "want"),
    [
        pytest.param(observed(deployment=None), "WorkersReady=False WorkersStarting", id="no deployment yet"),
        pytest.param(observed(TROUBLED), "WorkersReady=False WorkersUnschedulable", id="no node"),
        pytest.param(
            observed(TROUBLED, CRASHING), "WorkersReady=False WorkersCrashing", id="crashing is told first"
        ),
        pytest.param(
            observed(deployment=deployment(0, stalled="no progress")),
            "WorkersReady=False ProgressDeadlineExceeded",
            id="no progress",
        ),
        pytest.param(
            observed(deployment=deployment(0, stalled="no progress")),
            "Stalled=True ProgressDeadlineExceeded",
            id="no progress is a stall",
        ),
        pytest.param(
            observed(deployment=deployment(0, rejected="exceeded quota")),
            "WorkersReady=False WorkersRejected",
            id="the pods are refused",
        ),
        pytest.param(
            observed(SETTLED, deployment=deployment(current=False)),
            "WorkersReady=False WorkersStarting",
            id="the deployment's status is old",
        ),
        pytest.param(
            observed(SETTLED, deployment=deployment(updated=0)),
            "WorkersReady=False WorkersStarting",
            id="workers are being replaced",
        ),
        pytest.param(
            observed(SETTLED, deployment=deployment(replicas=2)),
            "WorkersReady=False WorkersStarting",
            id="the one that is ready is old, its successor is not",
        ),
        pytest.param(
            observed(replace(SETTLED, silent_since=NOW - 31)),
            "WorkersReady=False WorkersUnreachable",
            id="a worker does not answer",
        ),
        pytest.param(
            observed(replace(SETTLED, silent_since=NOW - 5)),
            "WorkersReady=True WorkersReady",
            id="silent for a moment",
        ),
        pytest.param(
            observed(pool=pool(replicas=0)), "Ready=True ScaledToZero", id="zero on purpose is ready"
        ),
        pytest.param(
            observed(pool=pool(replicas=0)), "ModelsPlaced=False ScaledToZero", id="zero holds no model"
        ),
        pytest.param(
            observed(SETTLED, models={"shapes-1": None}),
            "ModelsPlaced=False ModelNotFound",
            id="no such model",
        ),
        pytest.param(
            observed(SETTLED, models={"shapes-1": model(ready=False)}),
            "ModelsPlaced=False ModelNotReady",
            id="not verified",
        ),
        pytest.param(
            observed(SETTLED, models={"shapes-1": replace(model(), deleting=True)}),
            "ModelsPlaced=False ModelNotReady",
            id="being deleted",
        ),
        pytest.param(observed(TROUBLED), "ModelsPlaced=False NoWorkers", id="no worker"),
        pytest.param(
            observed(
                worker("a", holding("shapes-1", "Failed", reason="LoadFailed", message="out of memory"))
            ),
            "ModelsPlaced=False ModelLoadFailed",
            id="the load failed",
        ),
        pytest.param(
            observed(
                worker("a", holding("shapes-1", "Failed", reason="OptionUnsupported", message="no fp8"))
            ),
            "ModelsPlaced=False OptionUnsupported",
            id="the accelerator cannot do what the model asks",
        ),
        pytest.param(
            observed(
                worker(), models={"shapes-1": described(model(), adapters={"x": SourceSpec("s3://b/x")})}
            ),
            "ModelsPlaced=False ModelNotReady",
            id="an adapter is not verified",
        ),
        pytest.param(
            observed(worker(), models={"shapes-1": model(size=80 * GIB)}),
            "ModelsPlaced=False ModelDoesNotFit",
            id="too large",
        ),
        pytest.param(
            observed(SETTLED, pool=THREE_OF_TWO),
            "ModelsPlaced=False TooFewWorkers",
            id="minResident over replicas",
        ),
        pytest.param(
            observed(pool=THREE_OF_TWO),
            "ModelsPlaced=False TooFewWorkers",
            id="minResident, before any worker",
        ),
        pytest.param(
            observed(SETTLED, pool=pool(models=(PoolModel("x", "shapes-1", 3),), replicas=3)),
            "ModelsPlaced=False ModelLoading",
            id="not yet enough workers",
        ),
        pytest.param(
            observed(worker("a", holding("shapes-1", digest="sha256:older"))),
            "ModelsPlaced=False ModelLoading",
            id="a worker holds other files of that name",
        ),
        pytest.param(
            observed(worker(), pool=ON_DEMAND, models={"shapes-1": model(size=80 * GIB)}),
            "ModelsPlaced=True ModelsPlaced",
            id="on demand needs no copy",
        ),
        pytest.param(
            observed(refusals=(Refusal("ChildNotOwned", "Service x"),)),
            "Stalled=True ChildNotOwned",
            id="not ours",
        ),
        pytest.param(
            observed(SETTLED, refusals=(Refusal("ChildRejected", "no"),)),
            "Ready=False ChildRejected",
            id="refused",
        ),
        pytest.param(
            observed(pool=replace(pool(), spec=None, error="spec.models: too few"), models={}),
            "Stalled=True SpecInvalid",
            id="the spec cannot be read",
        ),
    ],
)
def test_conditions_of_a_pool(seen: PoolObserved, want: str) -> None:
    kind, _, rest = want.partition("=")
    found = find(plan_pool(seen, NOW).status, kind)
    assert found is not None
    assert f"{found['status']} {found['reason']}" == rest
    assert found["reason"] in REASONS
    assert found["message"]


@pytest.mark.parametrize(
    "seen",
    [observed(TROUBLED), observed(SETTLED), observed(refusals=(Refusal("ChildRejected", "no"),))],
    ids=["in progress", "ready", "stalled"],
)
def test_exactly_one_of_ready_reconciling_and_stalled_holds(seen: PoolObserved) -> None:
    status = plan_pool(seen, NOW).status
    held = [c["type"] for c in status["conditions"] if c["status"] == "True"]
    assert len({"Ready", "Reconciling", "Stalled"} & set(held)) == 1


def test_a_missing_model_leaves_the_others_served() -> None:
    seen = observed(SETTLED, pool=TWO_NAMES, models={"shapes-2": None})
    status = plan_pool(seen, NOW).status
    assert [(m["name"], m["ready"]) for m in status["models"]] == [("x", True), ("y", False)]
    assert plan_pool(seen, NOW).workers == ()


def test_only_verified_models_are_named_to_a_worker() -> None:
    plan = plan_pool(
        observed(worker(), pool=TWO_NAMES, models={"shapes-2": model("shapes-2", ready=False)}), NOW
    )
    put = plan.workers[0].steps[0]
    assert isinstance(put, Put)
    assert [entry["model"] for entry in put.policy] == ["shapes-1"]


def test_a_silent_worker_keeps_what_it_held_and_is_still_to_be_told() -> None:
    told = pod("a", placement=placement_text({"shapes-1": True}))
    silent = replace(worker("a", holding("shapes-1")), pod=told, silent_since=NOW - 60)
    plan = plan_pool(observed(silent), NOW)
    assert [p.policy for p in plan.workers] == [(SHAPES,)]
    assert plan.status["models"][0]["resident"] == 1
    assert plan.poll_seconds == {"a": POLL_SETTLED}


def test_who_is_unreachable_and_why_is_told() -> None:
    seen = observed(replace(SETTLED, silent_since=NOW - 60, silence="GET /v1/worker: 401"))
    found = find(plan_pool(seen, NOW).status, "WorkersReady")
    assert found is not None
    assert found["message"] == "No report from a (GET /v1/worker: 401)."


def test_a_worker_that_has_just_fallen_silent_is_asked_again_soon() -> None:
    seen = observed(replace(SETTLED, silent_since=NOW - 5))
    assert plan_pool(seen, NOW).poll_seconds == {"a": POLL_UNSETTLED}


@pytest.mark.parametrize(
    "gone",
    [
        replace(SETTLED, pod=pod(ready=False)),
        replace(SETTLED, pod=pod(deleting=True)),
        replace(SETTLED, report=report(holding("shapes-1"), draining=True)),
        replace(SETTLED, report=None, silent_since=NOW),
    ],
    ids=["not ready", "deleting", "draining", "never heard of"],
)
def test_a_worker_that_cannot_serve_is_given_nothing(gone: Worker) -> None:
    plan = plan_pool(observed(gone), NOW)
    assert plan.workers == ()
    assert plan.status["models"][0]["resident"] == 0


def test_nothing_is_decided_or_said_before_every_worker_was_asked() -> None:
    status = {"models": [{"resident": 2}]}
    unasked = Worker(pod("b"))
    seen = observed(worker("a"), unasked, pool=replace(pool(), status=status))
    assert plan_pool(seen, NOW) == PoolPlan(status=status, poll_seconds={"b": 0.0})


REFUSED = holding("shapes-1", "Failed", reason="OptionUnsupported", message="no fp8 without a GPU.")
ON_H200 = report(holding("shapes-1"), devices=(Device("NVIDIA-H200"),))


def test_who_cannot_do_what_a_model_asks_and_why_is_told() -> None:
    found = find(plan_pool(observed(worker("a", REFUSED)), NOW).status, "ModelsPlaced")
    assert found is not None
    assert found["message"] == "shapes-1 on cpu: no fp8 without a GPU."


def test_a_model_that_was_found_unsupported_stays_in_the_policy() -> None:
    """Were it taken away, the worker would forget why, and the model be given again, for ever."""
    refused = [{"type": "Ready", "status": "False", "reason": "OptionUnsupported"}, VERIFIED[1]]
    plan = plan_pool(observed(worker("a", REFUSED), models={"shapes-1": model(conditions=refused)}), NOW)
    assert [[entry["model"] for entry in p.policy] for p in plan.workers] == [["shapes-1"]]


def test_one_accelerator_that_can_hold_a_model_is_enough_for_a_pool_that_asks_for_one_copy() -> None:
    able = replace(SETTLED, pod=replace(SETTLED.pod, name="b"), report=ON_H200)
    status = plan_pool(observed(worker("a", REFUSED), able), NOW).status
    assert status["models"][0]["ready"] is True
    assert find(status, "ModelsPlaced") == condition(
        "ModelsPlaced", "True", "ModelsPlaced", "Every model is resident on as many workers as it asks for."
    )


def test_measured_memory_goes_before_the_size_of_the_files() -> None:
    measured = model(performance=[{"accelerator": "cpu", "memory": "7Gi", "loadSeconds": 1.5}])
    plan = plan_pool(observed(worker(), models={"shapes-1": measured}), NOW)
    put = plan.workers[0].steps[0]
    assert isinstance(put, Put)
    assert (put.policy[0]["memoryBytes"], put.policy[0]["loadSeconds"]) == (7 * GIB, 1.5)


def test_accelerators_are_summed_up() -> None:
    one = Device("NVIDIA-H200", 0.61, 40 * GIB, 80 * GIB, 61, 412)
    two = Device("NVIDIA-H200", 0.2, 10 * GIB, 80 * GIB, None, 100)
    seen = observed(replace(SETTLED, report=report(holding("shapes-1"), devices=(one, two))))
    assert plan_pool(seen, NOW).status["accelerator"] == {
        "name": "NVIDIA-H200",
        "count": 2,
        "utilization": 0.4,
        "memoryUsedBytes": 53700000000,
        "memoryTotalBytes": 160 * GIB,
        "temperatureCelsius": 60,
        "powerWatts": 510,
    }


def test_what_no_device_measures_is_absent() -> None:
    seen = observed(replace(SETTLED, report=report(holding("shapes-1"), devices=(Device("MIG"),))))
    assert plan_pool(seen, NOW).status["accelerator"] == {"name": "MIG", "count": 1}
