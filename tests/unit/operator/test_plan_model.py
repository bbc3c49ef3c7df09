"""The plan of a model: when its files are checked, and what is said of them."""

import json
from dataclasses import replace

import pytest
from imagefleet_operator.plan.cluster_types import JobState, Pod, Trouble
from imagefleet_operator.plan.conditions import REASONS, find
from imagefleet_operator.plan.model import plan_model
from imagefleet_operator.plan.types import Copy, Json, ModelObserved, Refusal, SourceSpec

from tests.unit.operator.make import DIGEST, NOW, VERIFIED, described, holding, model, pod, unverified

GOOD = {"ok": True, "digest": DIGEST, "bytes": 42, "files": 3, "className": "StableDiffusionPipeline"}
WRONG = {"ok": False, "reason": "DigestMismatch", "message": "it is sha256:cd", "digest": "sha256:cd"}
JOB = "shapes-1-verify-1"
PIXEL = {"pixel": SourceSpec("s3://loras/pixel")}
OTHER_DIGEST = SourceSpec("file:///models/shapes-1", "/models/shapes-1", digest="sha256:other")


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
        ("Cached", "False", "NoCopies"),
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
        ("Cached", "False"),
    ]


def test_the_adapters_that_were_found_good_are_told_with_their_digests() -> None:
    found = {**GOOD, "adapters": [{"name": "pixel", "digest": "sha256:p", "bytes": 7, "note": "x"}]}
    wanted = described(model(ready=False), adapters=PIXEL)
    seen = unverified(reported(found), model=wanted, job=JobState(complete=True))
    plan = plan_model(seen, NOW)
    assert plan.status["adapters"] == [{"name": "pixel", "digest": "sha256:p", "bytes": 7}]
    again = plan_model(unverified(model=replace(wanted, status=plan.status)), NOW + 3600)
    assert not again.verify
    assert again.status == plan.status


@pytest.mark.parametrize(
    "adapters", [None, [], [{"name": "pixel"}], [{"name": "ink", "digest": "d"}], ["pixel"], "pixel"]
)
def test_a_good_report_without_an_adapter_of_the_spec_is_not_believed(adapters: object) -> None:
    wanted = described(model(ready=False), adapters=PIXEL)
    plan = plan_model(unverified(reported({**GOOD, "adapters": adapters}), model=wanted, job=JobState()), NOW)
    found = find(plan.status, "Verified")
    assert found is not None
    assert found["reason"] == "VerificationPending"


@pytest.mark.parametrize(
    ("secrets", "want"),
    [
        ((None, None), "401 (the spec names no Secret: make one"),
        (("hub", None), "401 (credentials are read from Secret hub of namespace ns)"),
        (("hub", "bucket"), "401 (credentials are read from Secret bucket, hub of namespace ns)"),
    ],
)
def test_a_source_that_refuses_is_told_with_the_secrets_that_there_should_be(
    secrets: tuple[str | None, str | None], want: str
) -> None:
    own, lora = secrets
    source = SourceSpec("hf://a/b@c", secret=own)
    found = described(model(ready=False), source=source, adapters={"x": SourceSpec("s3://b/x", secret=lora)})
    denied = reported({"ok": False, "reason": "AccessDenied", "message": "401"})
    status = plan_model(unverified(denied, model=found, job=JobState(complete=True)), NOW).status
    verified = find(status, "Verified")
    assert verified is not None
    assert verified["message"].startswith(want)


CHECKING = pod("v", ready=False, pool="", model="shapes-1", job=JOB)


@pytest.mark.parametrize(
    ("source", "pods", "want"),
    [
        (SourceSpec("s3://weights/a"), [CHECKING], "The files are being fetched and checked."),
        (SourceSpec("file:///a", "/a"), [CHECKING], "The files are being checked."),
        (
            SourceSpec("file:///a", "/a"),
            [],
            f"The check's pod is not there yet; where this lasts, `kubectl describe job {JOB}` says why.",
        ),
        (
            SourceSpec("file:///a", "/a"),
            [replace(CHECKING, trouble=Trouble("WorkersUnschedulable", "0/3"))],
            "0/3",
        ),
    ],
    ids=["fetching", "reading", "its pod is refused", "no node for its pod"],
)
def test_while_files_are_checked_a_model_says_how_far_that_is(
    source: SourceSpec, pods: list[Pod], want: str
) -> None:
    found = described(model(ready=False), source=source)
    status = plan_model(unverified(*pods, model=found, job=JobState()), NOW).status
    verified = find(status, "Verified")
    assert verified is not None
    assert verified["message"] == want


def test_a_verified_model_is_not_checked_again_when_its_job_has_gone() -> None:
    status = plan_model(unverified(reported(GOOD), job=JobState(complete=True)), NOW).status
    later = unverified(model=replace(model(), generation=2, status=status))
    plan = plan_model(later, NOW + 3600)
    assert not plan.verify
    assert plan.status["digest"] == DIGEST
    assert plan.status["observedGeneration"] == 2


def test_a_digest_that_is_not_the_specs_does_not_count_as_verified() -> None:
    status = plan_model(unverified(reported(GOOD), job=JobState(complete=True)), NOW).status
    other = replace(described(model(ready=False), source=OTHER_DIGEST), status=status)
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
            unverified(reported({**WRONG, "reason": "AccessDenied"}), job=JobState(complete=True)),
            False,
            "AccessDenied",
            True,
            id="the source refuses",
        ),
        pytest.param(
            unverified(reported({**WRONG, "reason": "FetchFailed"}), job=JobState(complete=True)),
            False,
            "FetchFailed",
            False,
            id="the network failed, which waiting may mend",
        ),
        pytest.param(
            unverified(model=replace(model(ready=False), status=failed_before("FetchFailed"))),
            True,
            "FetchFailed",
            False,
            id="fetched again after a while",
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


def test_copies_stand_while_not_every_worker_was_asked() -> None:
    known = {"available": 3, "total": 3, "failed": 0}
    cached = {"type": "Cached", "status": "True", "reason": "Cached", "message": "3 of 3 workers hold it."}
    before = model(copies=known, conditions=[*VERIFIED, cached])
    status = plan_model(unverified(model=before, copies=None), NOW).status
    assert status["copies"] == known
    now = find(status, "Cached")
    assert now is not None
    assert now.items() >= {key: cached[key] for key in ("status", "reason", "message")}.items()


NO_FP8 = holding("shapes-1", "Failed", reason="OptionUnsupported", message="no fp8.")
TRYING = holding("shapes-1", "Loading")
ABOUT_TO = holding("shapes-1", "Absent")
UNTRIED = holding("shapes-1", "Absent", pinned=False)
HELD = holding("shapes-1")


def after(*rounds: list[Copy] | None) -> Json:
    """The status after each round's copies were seen, one round after the other."""
    status: Json = model().status
    for copies in rounds:
        seen = unverified(
            model=replace(model(), status=status), copies=None if copies is None else tuple(copies)
        )
        status = plan_model(seen, NOW).status
    return status


@pytest.mark.parametrize(
    ("rounds", "want"),
    [
        pytest.param([[Copy(True, NO_FP8, "cpu")]], "OptionUnsupported", id="the only accelerator cannot"),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu"), Copy(True, HELD, "H200")]], "Ready", id="another pool's can"
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu"), Copy(False, UNTRIED, "H200")]],
            "Ready",
            id="another has not tried yet",
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu"), Copy(True, None, "H200")]], "Ready", id="another was not told yet"
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu"), Copy(True, NO_FP8, "T4")]], "OptionUnsupported", id="none can"
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu")], [Copy(True, TRYING, "cpu")]],
            "OptionUnsupported",
            id="it tries again",
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu")], [Copy(True, ABOUT_TO, "cpu")]],
            "OptionUnsupported",
            id="it is about to try again",
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu")], [Copy(True, HELD, "cpu")]], "Ready", id="a newer worker can"
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu")], [Copy(False, UNTRIED, "cpu")]],
            "Ready",
            id="a newer worker has not tried: on demand it would never be asked to",
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu")], None], "OptionUnsupported", id="the operator has just started"
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu")], []], "OptionUnsupported", id="no worker is there for a while"
        ),
        pytest.param(
            [[Copy(True, NO_FP8, "cpu")], [], [Copy(True, TRYING, "H200")]],
            "Ready",
            id="it moves to another pool",
        ),
        pytest.param(
            [[Copy(True, HELD, "cpu"), Copy(True, NO_FP8, "cpu")]],
            "Ready",
            id="one worker of a kind can, so the other's image is another",
        ),
    ],
)
def test_a_model_is_ready_where_any_accelerator_may_do_what_it_asks(
    rounds: list[list[Copy] | None], want: str
) -> None:
    status = after(*rounds)
    ready, stalled = find(status, "Ready"), find(status, "Stalled")
    assert ready is not None
    assert (ready["reason"], ready["status"]) == (want, str(want == "Ready"))
    assert (stalled is None) is (want == "Ready")
    assert find(status, "Reconciling") is None
    assert after(*rounds, rounds[-1]) == status


def test_which_accelerator_cannot_do_what_a_model_asks_is_told_although_it_is_served() -> None:
    status = after([Copy(True, NO_FP8, "cpu"), Copy(True, HELD, "H200")])
    ready = find(status, "Ready")
    assert ready is not None
    assert ready["message"].endswith("Not on every accelerator: cpu: no fp8.")
    assert status["performance"] == [{"accelerator": "cpu", "unsupported": "no fp8."}]


def test_a_job_that_exists_is_never_made_again() -> None:
    assert not plan_model(unverified(job=JobState(complete=True)), NOW).verify
