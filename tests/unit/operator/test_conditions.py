"""Conditions and their transitions."""

import pytest
from imagefleet_operator.plan.conditions import (
    MESSAGE_LIMIT,
    REASONS,
    Transition,
    Verdict,
    merged,
    timestamp,
    transitions,
    truncated,
)
from imagefleet_operator.plan.types import Json

GOOD = Verdict(True, "Ready", "All is well.")
BAD = Verdict(False, "WorkersCrashing", "It crashes.")


def status(**conditions: str) -> Json:
    return {
        "conditions": [
            {"type": t, "status": s, "reason": f"{t}Reason", "message": "m"} for t, s in conditions.items()
        ]
    }


def test_a_new_condition_has_the_time_of_the_pass() -> None:
    (condition,) = merged([], {"Ready": GOOD}, generation=3, now=0)
    assert condition == {
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "All is well.",
        "observedGeneration": 3,
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }


def test_the_time_of_a_condition_moves_with_its_status_alone() -> None:
    old = merged([], {"Ready": BAD}, generation=1, now=0)
    worse = merged(old, {"Ready": Verdict(False, "NoWorkers", "None.")}, generation=2, now=60)
    better = merged(old, {"Ready": GOOD}, generation=2, now=60)
    assert worse[0]["lastTransitionTime"] == timestamp(0)
    assert worse[0]["observedGeneration"] == 2
    assert better[0]["lastTransitionTime"] == timestamp(60)


def test_a_condition_without_a_verdict_is_left_out() -> None:
    old = merged([], {"Stalled": Verdict(True, "ChildRejected", "no")}, 1, 0)
    assert merged(old, {"Stalled": None}, 1, 0) == []


def test_messages_are_one_line_of_bounded_length() -> None:
    assert truncated("two\n  lines") == "two lines"
    long = truncated("x" * 5000)
    assert (len(long), long[-1]) == (MESSAGE_LIMIT, "…")


@pytest.mark.parametrize(
    ("old", "new", "want"),
    [
        pytest.param({}, status(Ready="False", Reconciling="True"), [], id="work begins"),
        pytest.param(
            {}, status(Ready="False", Stalled="True"), ["Stalled=True"], id="stalled from the first"
        ),
        pytest.param({}, status(Ready="True"), ["Ready=True"], id="ready from the first"),
        pytest.param(status(Ready="False"), status(Ready="False"), [], id="nothing changed"),
        pytest.param(status(Ready="False"), status(Ready="True"), ["Ready=True"], id="ready"),
        pytest.param(status(Ready="True"), status(Ready="False"), ["Ready=False"], id="no longer ready"),
        pytest.param(
            status(Ready="False"), status(Ready="False", Stalled="True"), ["Stalled=True"], id="stalled"
        ),
        pytest.param(
            status(Ready="False", Stalled="True"), status(Ready="False"), ["Stalled=False"], id="goes on"
        ),
        pytest.param(
            status(Ready="False", Reconciling="True", WorkersReady="False"),
            status(Ready="False", WorkersReady="True"),
            [],
            id="the others are told by Ready",
        ),
    ],
)
def test_transitions(old: Json, new: Json, want: list[str]) -> None:
    assert [f"{t.kind}={t.status}" for t in transitions(old, new)] == want


def test_stalling_for_the_reason_that_ended_ready_is_told_once() -> None:
    new = {
        "conditions": [
            {"type": kind, "status": value, "reason": "ChildRejected", "message": "no"}
            for kind, value in (("Ready", "False"), ("Stalled", "True"))
        ]
    }
    assert transitions(status(Ready="True"), new) == (Transition("Stalled", "True", "ChildRejected", "no"),)


@pytest.mark.parametrize(
    ("kind", "value", "warning"),
    [
        ("Ready", "True", False),
        ("Ready", "False", True),
        ("Stalled", "True", True),
        ("Stalled", "False", False),
    ],
)
def test_bad_news_is_a_warning(kind: str, value: str, warning: bool) -> None:
    assert Transition(kind, value, "R", "m").warning is warning


def test_every_reason_has_a_sentence() -> None:
    assert all(reason[0].isupper() and sentence.endswith(".") for reason, sentence in REASONS.items())
