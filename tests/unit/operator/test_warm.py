"""How many warm workers there are at which time, and what they hold."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator import api
from imagefleet_operator.plan.capacity import is_warm
from imagefleet_operator.plan.capacity_types import WarmSpec, WarmWindow
from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.policy import Annotate, Put
from imagefleet_operator.plan.pool import plan_pool
from imagefleet_operator.plan.types import Worker
from imagefleet_operator.plan.warm import holds, next_change, warm_replicas
from imagefleet_operator.store.scaling_records import warm_record

from tests.unit.operator.make import NOW, holding, observed, pool, worker

WORKDAYS = frozenset(range(5))
OFFICE = WarmWindow(WORKDAYS, 8 * 60, 18 * 60, 3)
NIGHTS = WarmWindow(frozenset({0}), 22 * 60, 2 * 60, 2)


def at(text: str) -> float:
    """2024-01-01 was a Monday."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "time", "want"),
    [
        (OFFICE, "2024-01-01T07:59:59", False),
        (OFFICE, "2024-01-01T08:00:00", True),
        (OFFICE, "2024-01-05T17:59:59", True),
        (OFFICE, "2024-01-05T18:00:00", False),
        (OFFICE, "2024-01-06T12:00:00", False),
        (NIGHTS, "2024-01-01T21:59:00", False),
        (NIGHTS, "2024-01-01T22:00:00", True),
        (NIGHTS, "2024-01-02T01:59:59", True),
        (NIGHTS, "2024-01-02T02:00:00", False),
        (NIGHTS, "2024-01-01T01:00:00", False),
        (NIGHTS, "2024-01-02T23:00:00", False),
    ],
)
def test_a_window_holds_on_its_days_and_the_night_after_them(
    window: WarmWindow, time: str, want: bool
) -> None:
    assert holds(window, at(time)) is want


def test_the_largest_window_that_holds_decides_else_the_usual_number() -> None:
    small = replace(OFFICE, replicas=1)
    warm = WarmSpec(2, windows=(small, OFFICE))
    assert warm_replicas(warm, at("2024-01-01T12:00")) == 3
    assert warm_replicas(replace(warm, windows=(small,)), at("2024-01-01T12:00")) == 1
    assert warm_replicas(warm, at("2024-01-06T12:00")) == 2


@given(st.integers(0, 1439), st.integers(0, 1440), st.floats(0, 2e9))
def test_nothing_changes_before_it_is_looked_at_again(start: int, end: int, now: float) -> None:
    warm = WarmSpec(0, windows=(WarmWindow(WORKDAYS, start, end, 1),))
    wait = next_change(warm, now)
    assert wait is not None
    assert 0 < wait <= 86_400
    if start != end:
        assert warm_replicas(warm, now) == warm_replicas(warm, now + max(0.0, wait - 0.001))


def test_a_schedule_is_read_from_the_spec() -> None:
    day: dict[str, Any] = {"name": "day", "days": ["Tue"], "from": "07:30", "to": "24:00", "replicas": 4}
    night = {"name": "night", "from": "22:00", "to": "06:00", "replicas": 1}
    found = warm_record(api.WarmPool.model_validate({"weights": "HostMemory", "schedule": [day, night]}))
    every = frozenset(range(7))
    windows = (WarmWindow(frozenset({1}), 450, 1440, 4), WarmWindow(every, 1320, 360, 1))
    assert found == WarmSpec(1, on_accelerator=False, windows=windows)


def policies(warm: WarmSpec, *workers: Worker) -> dict[str, tuple[Any, ...]]:
    """What each worker is told, by its name."""
    plan = plan_pool(observed(*workers, pool=pool("a", "b", replicas=1, warm=warm)), NOW)
    return {p.worker.pod.name: p.steps for p in plan.workers}


def test_a_warm_worker_is_to_hold_what_one_more_worker_would_and_is_hidden() -> None:
    steps = policies(WarmSpec(), worker("w", role=Role.WARM))["w"]
    (put,) = (step for step in steps if isinstance(step, Put))
    assert [(e["model"], e["pinned"]) for e in put.policy] == [("a", True), ("b", True)]
    assert not any(isinstance(step, Annotate) and step.placement for step in steps)


def test_copies_on_warm_workers_are_not_those_that_the_pool_asks_for() -> None:
    warm = worker("w", holding("a"), holding("b"), role=Role.WARM)
    found = plan_pool(observed(warm, pool=pool("a", replicas=1, warm=WarmSpec())), NOW).status
    assert found["models"][0]["resident"] == 0


def test_one_with_host_memory_reads_files_and_loads_nothing() -> None:
    steps = policies(WarmSpec(on_accelerator=False), worker("w", role=Role.WARM))["w"]
    (put,) = (step for step in steps if isinstance(step, Put))
    assert [(e["model"], e["pinned"], e["preload"]) for e in put.policy] == [
        ("a", False, True),
        ("b", False, True),
    ]


@pytest.mark.parametrize(
    ("held", "want"),
    [
        ((), False),
        ((holding("a"),), True),
        ((holding("a"), holding("b", "Loading")), False),
        ((holding("a", "Absent", pinned=False),), False),
        ((holding("a", "Absent", pinned=False, in_host_memory=True),), True),
    ],
    ids=["nothing yet", "loaded", "not all", "not read", "read"],
)
def test_a_worker_is_warm_when_it_holds_what_it_should(held: tuple[Any, ...], want: bool) -> None:
    assert is_warm(worker("w", *held)) is want
    assert not is_warm(replace(worker("w"), report=None))
