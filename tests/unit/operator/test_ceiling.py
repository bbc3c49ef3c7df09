"""The most workers that a budget allows."""

from dataclasses import replace

import pytest
from imagefleet_operator.plan.ceiling import Fleet, affordable, ceiling, safe_seconds
from imagefleet_operator.plan.spend import DAY
from imagefleet_operator.plan.spend_types import BudgetSpec, Spend

BEGAN = 20_000 * DAY
NOON = BEGAN + DAY / 2
# 60 s to end, and 60 s of the operator's absence.
FLEET = Fleet(units=1, grace=45.0, staying=10)


def spent(seconds: float) -> Spend:
    return Spend(BEGAN, NOON, seconds)


@pytest.mark.parametrize(
    ("left", "fleet", "want"),
    [
        (3_600, FLEET, 30),
        (1_200, FLEET, 10),
        (1_199, FLEET, 9),
        (1_000, FLEET, 6),
        (600, FLEET, 0),
        (0, FLEET, 0),
        (-5, FLEET, 0),
        (1_000, replace(FLEET, staying=0), 8),
        (1_000, replace(FLEET, staying=0, units=8), 1),
        (959, replace(FLEET, staying=0, units=8), 0),
        (1_000, replace(FLEET, staying=0, leaving=(NOON + 50, NOON - 5)), 7),
    ],
)
def test_what_workers_still_cost_is_kept(left: float, fleet: Fleet, want: int) -> None:
    assert affordable(10_000, spent(10_000 - left), fleet, NOON) == want


@pytest.mark.parametrize(
    ("before_midnight", "limit", "left", "want"),
    [
        (3_600, 10_000, 1_200, 10),
        (60, 10_000, 1_200, 20),
        (10, 10_000, 1_200, 90),
        (10, 1_100, 1_100, 10),
        (10, 1_000, 1_000, 8),
        (0.5, 600, 600, 0),
    ],
)
def test_what_workers_cost_after_midnight_is_tomorrows(
    before_midnight: float, limit: float, left: float, want: int
) -> None:
    now = BEGAN + DAY - before_midnight
    assert affordable(limit, spent(limit - left), FLEET, now) == want


BUDGET = BudgetSpec(limit=10_000.0)
THROTTLE = replace(BUDGET, on_exhausted="throttle", reduce_at=0.8)


@pytest.mark.parametrize(
    ("budget", "seconds", "before", "want"),
    [
        (BudgetSpec(tenants={"studio": 1.0}), 0, None, None),
        (BUDGET, 8_800, None, 10),
        (BUDGET, 8_800, 7, 7),
        (BUDGET, 8_800, 0, 0),
        (THROTTLE, 7_999, None, 16),
        (THROTTLE, 8_000, None, 1),
        (THROTTLE, 8_000, 0, 0),
        (THROTTLE, 9_990, None, 0),
    ],
    ids=[
        "only tenants have limits",
        "all that is affordable",
        "what has fallen does not rise",
        "what is used up stays so",
        "no pace before its share",
        "one while anything is left",
        "what is used up stays so at a pace too",
        "none when one cannot be paid",
    ],
)
def test_the_ceiling(budget: BudgetSpec, seconds: float, before: int | None, want: int | None) -> None:
    assert ceiling(budget, spent(seconds), replace(FLEET, ceiling=before), NOON) == want


@pytest.mark.parametrize(
    ("left", "before", "want"),
    [
        (14_400, None, 2),
        (7_200, None, 1),
        (500, None, 1),
        (18_000, 2, 2),
        (26_000, 2, 3),
        (6_000, 2, 1),
    ],
    ids=[
        "two hours for two",
        "one",
        "one though it ends early",
        "no rise for a little more",
        "a rise",
        "a fall",
    ],
)
def test_a_pace_lasts_until_midnight(left: float, before: int | None, want: int) -> None:
    budget = replace(THROTTLE, limit=200_000.0)
    fleet = replace(FLEET, staying=0, ceiling=before)
    assert ceiling(budget, spent(200_000 - left), fleet, BEGAN + DAY - 7_200) == want


def test_it_is_looked_at_again_long_before_workers_must_go() -> None:
    assert safe_seconds(BUDGET, spent(6_800), FLEET) == 200
    assert safe_seconds(BUDGET, spent(9_900), FLEET) == 0
    assert safe_seconds(BudgetSpec(), spent(0), FLEET) == float("inf")
