"""What follows of a budget: states, ceilings, what status and conditions say, and what is news."""

from dataclasses import replace
from math import floor
from typing import Any

import pytest
from imagefleet_operator.plan.budget import plan_budget, unrecorded
from imagefleet_operator.plan.budget_story import budget_story
from imagefleet_operator.plan.policy import placement_text
from imagefleet_operator.plan.pool import plan_pool
from imagefleet_operator.plan.spend import DAY, spend_status
from imagefleet_operator.plan.spend_types import BudgetSpec, Spend
from imagefleet_operator.plan.status import write_delay
from imagefleet_operator.plan.types import Json, PoolObserved, Worker
from imagefleet_operator.plan.workers import WorkerDefaults, workers_spec

from tests.unit.operator import make

BEGAN = floor(make.NOW / DAY) * DAY
NOON = BEGAN + DAY / 2
RESETS = "2023-11-15T00:00:00Z"
HOURS = 3_600.0
PLACED = placement_text({"shapes-1": True})
BUDGET = BudgetSpec(limit=100 * HOURS, alert_at=("0.5", "0.8"), tenants={"studio": 10 * HOURS})


def worker(name: str, **pod: Any) -> Worker:
    made = make.worker(name, make.holding("shapes-1"))
    return replace(made, pod=replace(made.pod, scheduled_at=BEGAN, placement=PLACED, **pod))


def observed(
    hours: float,
    *workers: Worker,
    budget: BudgetSpec = BUDGET,
    replicas: int = 2,
    told: Json | None = None,
    tenants: dict[str, float] | None = None,
    in_flight: dict[str, float] | None = None,
    **spec: Any,
) -> PoolObserved:
    """A pool at noon that has spent so many GPU-hours; ``told`` is what status.budget says."""
    known = {w.pod.name: "Holding" for w in workers}
    spend = Spend(BEGAN, NOON, hours * HOURS, tenants=tenants or {}, in_flight=in_flight or {}, workers=known)
    status: Json = {"spend": spend_status(spend, budget)} | ({"budget": told} if told else {})
    parent = make.pool("shapes-1", replicas=replicas, budget=budget, status=status, **spec)
    state = make.deployment(len(workers), desired=len(workers))
    return make.observed(*workers, pool=parent, deployment=state)


TWO = (worker("a"), worker("b"))
# What two workers cost until they have ended, and while the operator is away: 2 x (330 + 15 + 60) s.
RESERVE = 2 * 405 / HOURS


@pytest.mark.parametrize(
    ("hours", "action", "want_state", "want_replicas"),
    [
        (10, "stop", "Within", 2),
        (90, "stop", "Within", 2),
        (90, "degrade", "Degraded", 2),
        (90, "throttle", "Throttled", 1),
        (87, "throttle", "Throttled", 1),
        (70, "throttle", "Within", 2),
        (100 - RESERVE + 0.01, "stop", "Throttled", 1),
        (99.99, "stop", "Exhausted", 0),
        (99.99, "degrade", "Exhausted", 0),
        (99.99, "throttle", "Exhausted", 0),
    ],
)
def test_states(hours: float, action: str, want_state: str, want_replicas: int) -> None:
    budget = replace(BUDGET, on_exhausted=action)
    plan = plan_budget(observed(hours, *TWO, budget=budget), NOON)
    assert plan is not None
    assert (plan.state, plan.replicas) == (want_state, want_replicas)
    assert plan.verdict.ok is (want_state == "Within")


def test_a_pool_without_a_budget_has_none() -> None:
    assert plan_budget(make.observed(), NOON) is None
    assert not unrecorded(make.observed())


def test_a_ceiling_that_was_told_holds_for_the_day_and_the_limit() -> None:
    told = {"state": "Throttled", "ceiling": 1, "limitGpuHours": 100.0, "message": ""}
    raised = told | {"limitGpuHours": 50.0}
    cases = ((told, NOON, 1), (raised, NOON, 2), (told, NOON + DAY, 2))
    for before, now, want in cases:
        plan = plan_budget(observed(90, *TWO, told=before), now)
        assert plan is not None
        assert plan.replicas == want


def test_what_a_status_says_of_a_budget() -> None:
    plan = plan_budget(observed(99.99, *TWO), NOON)
    assert plan is not None
    assert plan.status["budget"] == {
        "state": "Exhausted",
        "ceiling": 0,
        "limitGpuHours": 100.0,
        "message": "99 % of 100 GPU-hours a day are used up, and what is left is kept for what workers cost while they "
        f"end: no worker until {RESETS}.",
        "alerts": ["0.5", "0.8"],
        "tenants": [{"name": "studio", "state": "Within"}],
    }
    within = plan_budget(observed(60, *TWO), NOON)
    assert within is not None
    assert within.status["budget"]["alerts"] == ["0.5"]
    assert "ceiling" not in within.status["budget"]


def test_a_limit_that_no_worker_fits_into_says_so() -> None:
    plan = plan_budget(observed(0, budget=BudgetSpec(limit=36.0)), NOON)
    assert plan is not None
    assert (plan.state, plan.replicas) == ("Exhausted", 0)
    assert "costs up to 0.113 hours until it has ended" in plan.message


def test_workers_without_accelerator_spend_worker_hours() -> None:
    plan = plan_budget(observed(10, worker("a"), accelerator_count=0), NOON + 3_600)
    assert plan is not None
    assert plan.spend.seconds == pytest.approx(11 * HOURS)
    assert "11 % of 100 worker-hours a day" in plan.message


@pytest.mark.parametrize(
    ("drawn", "in_flight", "action", "want"),
    [
        (7.9, 0, "degrade", "Within"),
        (7.9, 0.2, "degrade", "Degraded"),
        (9, 0, "stop", "Within"),
        (9, 0, "throttle", "Within"),
        (9, 1, "stop", "Exhausted"),
        (10, 0, "degrade", "Exhausted"),
    ],
    ids=["within", "under way counts", "stop takes nothing before", "nor throttle", "under way", "drawn"],
)
def test_tenants(drawn: float, in_flight: float, action: str, want: str) -> None:
    made = observed(20, *TWO, budget=replace(BUDGET, on_exhausted=action))
    plan = plan_budget(made, NOON)
    assert plan is not None
    spend = replace(plan.spend, tenants={"studio": drawn * HOURS}, in_flight={"studio": in_flight * HOURS})
    assert replace(plan, spend=spend).tenants == {"studio": want}


def test_the_deployment_gets_no_more_workers_than_the_budget_allows() -> None:
    spec = workers_spec(observed(99.99, *TWO), WorkerDefaults("img"), NOON)
    assert spec is not None
    assert spec.replicas == 0


def test_a_pool_that_is_used_up_is_not_ready_and_says_until_when() -> None:
    made = observed(99.99)
    status = plan_pool(made, NOON).status
    found = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert found["Ready"] == ("False", "BudgetExhausted")
    assert found["WithinBudget"] == ("False", "BudgetExhausted")
    assert found["WorkersReady"] == ("False", "BudgetExhausted")
    (ready,) = (c for c in status["conditions"] if c["type"] == "Ready")
    assert RESETS in ready["message"]


def test_a_pool_with_fewer_workers_is_ready_with_these_and_says_why() -> None:
    told = {"state": "Throttled", "ceiling": 1, "limitGpuHours": 100.0, "message": ""}
    status = plan_pool(observed(90, worker("a"), told=told, replicas=2), NOON).status
    found = {c["type"]: c for c in status["conditions"]}
    assert found["Ready"]["status"] == "True"
    assert "1 workers instead of 2" in found["WorkersReady"]["message"]
    assert (found["WithinBudget"]["status"], found["WithinBudget"]["reason"]) == ("False", "BudgetThrottled")


def test_what_is_spent_is_told_though_a_worker_has_not_been_asked() -> None:
    silent = replace(worker("new"), report=None)
    plan = plan_pool(observed(10, silent), NOON + 60)
    assert plan.poll_seconds == {"new": 0.0}
    assert plan.status["spend"]["gpuHours"] == pytest.approx(10 + 60 / HOURS)


def test_a_pod_is_recorded_before_anything_ends_it() -> None:
    known = observed(10, *TWO)
    assert not unrecorded(known)
    assert unrecorded(replace(known, workers=(*known.workers, worker("new"))))


def test_the_passes_come_closer_near_the_limit() -> None:
    def again(hours: float) -> float:
        plan = plan_budget(observed(hours, *TWO), NOON)
        assert plan is not None
        return plan.again

    assert again(10) == 30
    assert again(100 - RESERVE - 0.01) == pytest.approx(36 / 2 / 4)
    assert again(100) == 1


def status(state: str, *alerts: str, period: str = "2026-11-28", **tenants: str) -> Json:
    told = [{"name": name, "state": found} for name, found in tenants.items()]
    return {
        "budget": {"state": state, "message": "So it is.", "alerts": list(alerts), "tenants": told},
        "spend": {"period": period},
    }


@pytest.mark.parametrize(
    ("old", "new", "want"),
    [
        ({}, {}, []),
        ({}, status("Within"), []),
        ({}, status("Within", "0.5"), ["BudgetAlert"]),
        (status("Within", "0.5"), status("Within", "0.5"), []),
        (status("Within", "0.5"), status("Within", "0.5", "0.8"), ["BudgetAlert"]),
        (status("Within", "0.5"), status("Within", "0.5", period="2026-11-29"), ["BudgetAlert"]),
        (status("Within"), status("Throttled"), ["BudgetThrottled"]),
        (status("Degraded"), status("Exhausted"), ["BudgetExhausted"]),
        (status("Exhausted"), status("Within", period="2026-11-29"), ["BudgetRestored"]),
        (status("Within", studio="Within"), status("Within", studio="Exhausted"), ["TenantExhausted"]),
        (status("Within", studio="Exhausted"), status("Within", studio="Within"), ["TenantRestored"]),
        (status("Within"), status("Within", studio="Degraded"), ["TenantDegraded"]),
        (status("Exhausted"), {}, []),
    ],
)
def test_news(old: Json, new: Json, want: list[str]) -> None:
    assert [news.reason for news in budget_story(old, new)] == want


def test_an_alert_is_told_once_a_day() -> None:
    (first,) = budget_story({}, status("Within", "0.5"))
    (next_day,) = budget_story({}, status("Within", "0.5", period="2026-11-29"))
    assert first.since != next_day.since
    assert first.note.startswith("50 % of today's budget were reached")


def test_numbers_of_a_budget_are_written_seldom_and_all_else_at_once() -> None:
    plan, later = (plan_budget(observed(10, *TWO), NOON + t) for t in (0.0, 5.0))
    assert plan is not None
    assert later is not None
    assert write_delay(plan.status, later.status, 10.0) == 50.0
    gone = plan_budget(observed(10, worker("a")), NOON)
    assert gone is not None
    assert write_delay(plan.status, gone.status, 1.0) == 0.0
    out = plan_budget(observed(99.99, *TWO), NOON)
    assert out is not None
    assert write_delay(plan.status, out.status, 1.0) == 0.0
