"""What callers want of each model, from gateways' counters."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.capacity_types import ModelLoad
from imagefleet_operator.store.demand import (
    FRESH_SECONDS,
    HALF_LIFE,
    TELL_SECONDS,
    Demands,
    Recent,
    arrived_since,
)
from imagefleet_operator.store.loads import Said

POOL = ("studio", "pictures")
A = (*POOL, "a")


def asked(seconds: float) -> Said:
    """A gateway has counted so many GPU-seconds of a model's work."""
    return Said(ModelLoad(arrived_seconds=seconds))


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [(5.0, 7.0, 2.0), (5.0, 1.0, 1.0), (None, 3.0, 3.0), (5.0, 5.0, None)],
    ids=["it grew", "it began anew", "its first request", "nothing came"],
)
def test_what_came_is_the_difference(before: float | None, after: float, want: float | None) -> None:
    known = {} if before is None else {A: asked(before)}
    assert arrived_since(known, {A: asked(after)}).get(A) == want


def test_half_is_forgotten_every_ten_minutes() -> None:
    assert Recent(8.0, 0.0).now(1200.0) == pytest.approx(2.0)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_gateways_are_added_up_and_begin_where_they_are_first_heard() -> None:
    demands = Demands(Clock())
    for gateway, counts in (("g1", (100.0, 103.0)), ("g2", (50.0, 54.0))):
        for count in counts:
            demands.put(gateway, {A: asked(count)})
    assert demands.of(*POOL) == {"a": 7.0}


def test_nobody_says_anything_before_a_second_answer() -> None:
    demands = Demands(Clock())
    assert demands.of(*POOL) is None
    demands.put("g1", {A: asked(100.0)})
    assert demands.of(*POOL) is None
    demands.put("g1", {A: asked(100.0)})
    assert demands.of(*POOL) == {}, "an idle pool is known to be idle"


def test_a_minute_of_silence_is_no_opinion_and_what_came_is_remembered() -> None:
    clock = Clock()
    demands = Demands(clock)
    demands.put("g1", {})
    demands.put("g1", {A: asked(8.0)})
    clock.now += FRESH_SECONDS + 1
    assert demands.of(*POOL) is None
    clock.now += HALF_LIFE - FRESH_SECONDS - 1
    demands.put("g1", {A: asked(8.0)})
    assert (demands.of(*POOL) or {}).get("a") == pytest.approx(4.0)


def test_what_came_through_a_gateway_that_has_gone_came() -> None:
    demands = Demands(Clock())
    demands.put("g1", {})
    demands.put("g1", {A: asked(8.0)})
    demands.put("g2", {})
    demands.drop("g1")
    assert demands.of(*POOL) == {"a": 8.0}
    demands.drop("g2")
    assert demands.of(*POOL) is None, "there is no gateway any more"


def test_a_new_pool_of_the_same_name_begins_at_nothing() -> None:
    demands = Demands(Clock())
    demands.put("g1", {})
    demands.put("g1", {A: asked(8.0)})
    demands.forget_pool(*POOL)
    assert demands.of(*POOL) == {}


def test_a_pool_is_told_now_and_then() -> None:
    clock = Clock()
    demands = Demands(clock)
    demands.put("g1", {})
    told = []
    for count in (1.0, 2.0, 3.0, 3.0):
        told.append(demands.put("g1", {A: asked(count)}))
        clock.now += TELL_SECONDS / 2
    assert told == [{POOL}, set(), {POOL}, set()]


@given(st.lists(st.tuples(st.sampled_from(["g1", "g2"]), st.floats(0, 100)), max_size=20))
def test_demand_is_never_more_than_what_was_counted(steps: list[tuple[str, float]]) -> None:
    demands, counters = Demands(Clock()), {"g1": 0.0, "g2": 0.0}
    demands.put("g1", {})
    demands.put("g2", {})
    for gateway, came in steps:
        counters[gateway] += came
        demands.put(gateway, {A: asked(counters[gateway])})
    assert (demands.of(*POOL) or {}).get("a", 0.0) <= sum(counters.values()) * (1 + 1e-9)
