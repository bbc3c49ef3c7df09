"""The plan of a model: when its files are checked, and what is said of them."""

import json
from dataclasses import replace

import pytest
from imagefleet_operator.plan.conditions import REASONS, find
from imagefleet_operator.plan.model import performances, plan_model
from imagefleet_operator.plan.types import (
    Copy,
    JobState,
    Json,
    ModelObserved,
    ModelReport,
    Pod,
    Refusal,
    Trouble,
)

from tests.unit.operator.make import DIGEST, NOW, holding, model, pod, unverified

GOOD = {"ok": True, "digest": DIGEST, "bytes": 42, "files": 3, "className": "StableDiffusionPipeline"}
WRONG = {"ok": False, "reason": "DigestMismatch", "message": "it is sha256:cd", "digest": "sha256:cd"}
JOB = "shapes-1-verify-1"


def reported(result: object, job: str = JOB) -> Pod:
    text = result if isinstance(result, str) else json.dumps(result)
    return pod("v", ready=False, pool="", model="shapes-1", job=job, result=text)


def failed_before(reason: str = "DigestMismatch") -> Json:
    return plan_model(
        unverified(reported({**WRONG, "reason": reason}), job=JobState(complete=True)), NOW
    ).status


def test_a_new_model_is_checked() -> None:
    plan = plan_model(unverified(), NOW)
    assert plan.verify
    assert [(c["type"], c["status"], c["reason"]) for c in plan.status["conditions"]] == [
        ("Ready", "False", "VerificationPending"),
        ("Verified", "False", "VerificationPending"),
        ("Reconciling", "True", "Progressing"),
    ]


def test_good_files_make_a_model_ready_with_what_was_found() -> None:
    plan = plan_model(unverified(reported(GOOD), job=JobState(complete=True)), NOW)
    assert not plan.verify
    assert {key: plan.status[key] for key in ("digest", "bytes", "className", "copies")} == {
        "digest": DIGEST,
        "bytes": 42,
        "className": "StableDiffusionPipeline",
        "copies": {"available": 0, "total": 0, "failed": 0},
    }
    assert [(c["type"], c["status"]) for c in plan.status["conditions"]] == [
        ("Ready", "True"),
        ("Verified", "True"),
    ]


def test_a_verified_model_is_not_checked_again_when_its_job_has_gone() -> None:
    status = plan_model(unverified(reported(GOOD), job=JobState(complete=True)), NOW).status
    later = unverified(model=replace(model(), generation=2, status=status))
    plan = plan_model(later, NOW + 3600)
    assert not plan.verify
    assert plan.status["digest"] == DIGEST
    assert plan.status["observedGeneration"] == 2


def test_a_digest_that_is_not_the_specs_does_not_count_as_verified() -> None:
    status = plan_model(unverified(reported(GOOD), job=JobState(complete=True)), NOW).status
    found = model(ready=False)
    assert found.spec is not None
    other = replace(found, spec=replace(found.spec, digest="sha256:other"), status=status)
    assert plan_model(unverified(model=other), NOW).verify


@pytest.mark.parametrize(
    ("seen", "verify", "reason", "stalled"),
    [
        pytest.param(unverified(job=JobState()), False, "VerificationPending", False, id="the job runs"),
        pytest.param(
            unverified(reported(WRONG), job=JobState(complete=True)),
            False,
            "DigestMismatch",
            True,
            id="wrong digest",
        ),
        pytest.param(
            unverified(reported(WRONG, job="older")),
            True,
            "VerificationPending",
            False,
            id="another job's result",
        ),
        pytest.param(
            unverified(reported("Traceback"), job=JobState(failed="BackoffLimitExceeded")),
            False,
            "VerificationFailed",
            True,
            id="the check could not be done",
        ),
        pytest.param(
            unverified(reported({"ok": False, "reason": "Whatever"}), job=JobState()),
            False,
            "VerificationPending",
            False,
            id="a result that means nothing",
        ),
        pytest.param(
            unverified(reported({"ok": True}), job=JobState()),
            False,
            "VerificationPending",
            False,
            id="a good result without a digest",
        ),
        pytest.param(
            unverified(pod(trouble=Trouble("WorkersUnschedulable", "no claim")), job=JobState()),
            False,
            "VerificationPending",
            False,
            id="no place to check it",
        ),
        pytest.param(
            unverified(refusals=(Refusal("ChildRejected", "quota"),)),
            False,
            "ChildRejected",
            True,
            id="job refused",
        ),
        pytest.param(
            unverified(model=replace(model(ready=False), status=failed_before())),
            True,
            "DigestMismatch",
            True,
            id="checked again after a while, the old finding stands",
        ),
        pytest.param(
            unverified(model=replace(model(ready=False), status=failed_before()), job=JobState()),
            False,
            "DigestMismatch",
            True,
            id="the old finding stands while it is checked again",
        ),
        pytest.param(
            unverified(model=replace(model(ready=False), spec=None, error="spec.source: missing")),
            False,
            "SpecInvalid",
            True,
            id="the spec cannot be read",
        ),
    ],
)
def test_findings(seen: ModelObserved, verify: bool, reason: str, stalled: bool) -> None:
    plan = plan_model(seen, NOW)
    ready = find(plan.status, "Ready")
    assert ready is not None
    assert (plan.verify, ready["status"], ready["reason"]) == (verify, "False", reason)
    assert reason in REASONS
    assert (find(plan.status, "Stalled") is not None) is stalled
    assert (find(plan.status, "Reconciling") is not None) is not stalled
    assert "digest" not in plan.status


def test_a_failing_model_writes_the_same_status_round_after_round() -> None:
    status = failed_before()
    for job in (None, JobState()):
        again = unverified(model=replace(model(ready=False), status=status), job=job)
        assert plan_model(again, NOW + 600).status == status


def test_copies_are_counted_over_all_pools() -> None:
    copies = (
        Copy(True, holding("shapes-1"), "cpu"),
        Copy(True, None, "cpu"),
        Copy(False, holding("shapes-1", pinned=False), "cpu"),
        Copy(False, holding("shapes-1", "Absent", pinned=False), "cpu"),
        Copy(True, holding("shapes-1", "Failed"), "cpu"),
    )
    plan = plan_model(unverified(model=model(), copies=copies), NOW)
    assert plan.status["copies"] == {"available": 2, "total": 4, "failed": 1}


def test_copies_stand_while_not_every_worker_was_asked() -> None:
    known = {"available": 3, "total": 3, "failed": 0}
    assert plan_model(unverified(model=model(copies=known), copies=None), NOW).status["copies"] == known


def measured(step: float | None, load: float | None = None, memory: int | None = None) -> Copy:
    report = ModelReport("m", "Resident", True, "", "", "", memory, step, load)
    return Copy(True, report, "NVIDIA-H200")


@pytest.mark.parametrize(
    ("old", "copies", "want"),
    [
        pytest.param([], [measured(None)], [], id="nothing measured"),
        pytest.param(
            [],
            [measured(0.0111, 1.71, 7838315315), measured(0.0119), measured(0.5)],
            [
                {
                    "accelerator": "NVIDIA-H200",
                    "secondsPerMegapixelStep": 0.012,
                    "loadSeconds": 1.7,
                    "memory": "7.3Gi",
                }
            ],
            id="medians",
        ),
        pytest.param(
            [{"accelerator": "NVIDIA-H200", "secondsPerMegapixelStep": 0.012}],
            [measured(0.0125)],
            [{"accelerator": "NVIDIA-H200", "secondsPerMegapixelStep": 0.012}],
            id="noise",
        ),
        pytest.param(
            [{"accelerator": "cpu", "loadSeconds": 3.0}],
            [measured(0.02)],
            [
                {"accelerator": "NVIDIA-H200", "secondsPerMegapixelStep": 0.02},
                {"accelerator": "cpu", "loadSeconds": 3.0},
            ],
            id="what nobody measures now stays",
        ),
    ],
)
def test_performance(old: list[Json], copies: list[Copy], want: list[Json]) -> None:
    assert performances(old, copies) == want
    assert performances(want, copies) == want


def test_a_job_that_exists_is_never_made_again() -> None:
    assert not plan_model(unverified(job=JobState(complete=True)), NOW).verify
