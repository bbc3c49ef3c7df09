"""The lower bound: no policy may ever do with less."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.simulate.bound import best_fit, lower_bound
from imagefleet_operator.simulate.engine import simulate
from imagefleet_operator.simulate.policies import Fixed
from imagefleet_operator.simulate.trace import Request, Trace
from imagefleet_operator.simulate.world import World


def test_one_request_costs_at_least_its_seconds_and_at_most_a_start_more() -> None:
    bound = lower_bound((Request(0.0, "a", 20.0),), 60.0, objective=1.0)
    assert 20 < bound <= 80


def test_two_that_are_far_apart_cost_a_start_each_or_the_time_between() -> None:
    pair = (Request(0.0, "a", 100.0), Request(10_000.0, "a", 100.0))
    assert 250 < lower_bound(pair, 60.0, wait=0.0, objective=1.0) <= 320


def test_nothing_costs_nothing() -> None:
    assert lower_bound((), 60.0) == 0.0


def test_requests_that_may_be_late_lower_it() -> None:
    trace = tuple(Request(k * 500.0, "a", 50.0) for k in range(50))
    strict, lax = (lower_bound(trace, 60.0, objective=o) for o in (1.0, 0.8))
    assert 2500 <= lax < strict


traces = st.lists(st.tuples(st.floats(0, 2000), st.floats(1, 120)), min_size=1, max_size=25).map(
    lambda each: tuple(Request(a, "m", s) for a, s in sorted(each))
)


@settings(max_examples=40, deadline=None)
@given(trace=traces, workers=st.integers(1, 30), load=st.floats(0.5, 20), start=st.floats(0, 80))
def test_no_run_holds_less(trace: Trace, workers: int, load: float, start: float) -> None:
    """Fixed fleets; with requests that come after the workers are ready, all others are late."""
    moved = tuple(Request(r.arrival + 200, r.model, r.seconds) for r in trace)
    world = World(start_seconds=start, first_load_seconds=load, load_seconds=load, begin=0.0)
    out = simulate(moved, Fixed(workers), world)
    objective = out.within(world.wait_seconds)
    assert lower_bound(moved, start + load, world.wait_seconds, objective) <= out.held * (1 + 1e-9)


@pytest.mark.parametrize(("second", "want"), [(50.0, 130.0), (110.0, 160.0), (5.0, 100.0)])
def test_who_knows_the_future_keeps_a_worker_for_as_long_as_a_start_costs(second: float, want: float) -> None:
    pair = (Request(0.0, "a", 20.0), Request(second, "a", 20.0))
    assert best_fit(pair, 60.0) == want


@settings(max_examples=15, deadline=None)
@given(trace=traces, spare=st.floats(0.1, 300), wait=st.floats(0, 60))
def test_a_schedule_holds_no_less_than_the_bound(trace: Trace, spare: float, wait: float) -> None:
    assert lower_bound(trace, spare, wait, 1.0) <= best_fit(trace, spare, wait) * (1 + 1e-9)


@pytest.mark.parametrize("spare", [0.5, 60.0, 600.0])
def test_it_is_never_below_the_busy_time(spare: float) -> None:
    trace = tuple(Request(k * 3.0, "a", 20.0) for k in range(100))
    assert lower_bound(trace, spare) >= 2000.0
