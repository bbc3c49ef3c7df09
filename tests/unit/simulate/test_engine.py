"""The simulated fleet: small runs worked out by hand, and what holds for all."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.plan.scaling import ScalingSpec
from imagefleet_operator.simulate.engine import simulate
from imagefleet_operator.simulate.line import Line
from imagefleet_operator.simulate.policies import Fixed, Ours
from imagefleet_operator.simulate.trace import Request, Trace
from imagefleet_operator.simulate.world import Queue, World

WORLD = World(start_seconds=60, first_load_seconds=10, load_seconds=3, resident=2, estimate_error=0.0)


def requests(*each: tuple[float, str, float]) -> Trace:
    return tuple(Request(*r) for r in each)


def test_the_first_request_waits_for_a_worker_and_its_model() -> None:
    out = simulate(requests((0, "a", 20)), Fixed(1), WORLD)
    assert out.waits == [70.0]
    assert (out.busy, out.loading, out.cold, out.created) == (20.0, 10.0, 1, 1)


def test_one_worker_draws_one_after_the_other() -> None:
    out = simulate(requests((0, "a", 20), (1, "a", 20), (200, "a", 20)), Fixed(1), WORLD)
    assert out.waits == [70.0, 89.0, 0.0]


def test_two_workers_draw_at_once() -> None:
    out = simulate(requests((0, "a", 20), (0, "a", 20)), Fixed(2), WORLD)
    assert out.waits == [70.0, 70.0]


def test_a_third_model_costs_a_load_and_evicts_the_one_asked_for_least() -> None:
    each = requests(
        (0, "a", 20), (100, "a", 20), (200, "b", 20), (300, "c", 20), (400, "a", 20), (500, "b", 20)
    )
    out = simulate(each, Fixed(1), WORLD)
    assert out.waits == [70.0, 0.0, 3.0, 3.0, 0.0, 3.0]
    assert out.loading == 10 + 3 * 3


def test_an_idle_worker_that_holds_the_model_is_preferred() -> None:
    each = requests((0, "a", 20), (0, "b", 20), (200, "a", 20), (300, "b", 20), (400, "a", 20))
    assert simulate(each, Fixed(2), WORLD).waits[2:] == [0.0, 0.0, 0.0]


def test_those_in_time_pass_those_that_are_late_already() -> None:
    each = requests((0, "a", 100), (0, "a", 20), (150, "a", 20))
    assert simulate(each, Fixed(1), WORLD).waits == [70.0, 190.0, 20.0]
    assert simulate(each, Fixed(1), replace(WORLD, queue="fifo")).waits == [70.0, 170.0, 40.0]


def test_in_queues_at_workers_a_new_worker_gets_none_of_what_waits() -> None:
    class Grows(Fixed):
        def decide(self, view: object) -> int:
            return 1 if view.now < 100 else 2  # type: ignore[attr-defined]

    each = requests((0, "a", 200), (80, "a", 10), (81, "a", 10))
    at_gateway = simulate(each, Grows(1), replace(WORLD, queue="fifo"))
    at_workers = simulate(each, Grows(1), replace(WORLD, queue="worker"))
    assert max(at_gateway.waits) == 105 + 60 + 10 + 10 - 81
    assert at_workers.waits[1:] == [190.0, 199.0]


def test_a_line_passes_over_another_model_only_while_there_is_time() -> None:
    trace = requests((0, "a", 5), (1, "b", 5), (2, "b", 5))
    line = Line(trace, 30.0, overdue_last=True)
    for k in range(3):
        line.add(k)
    assert line.take({"b"}, 10.0) == 1
    assert line.take({"b"}, 20.0) == 0
    assert len(line) == 1


def test_a_worker_that_is_nearly_done_takes_what_waits_and_no_longer_what_comes() -> None:
    """It is done at 90 s, and took the late one at 87 s, before the last one came."""
    each = requests((0, "a", 20), (1, "a", 5), (88, "a", 10))
    assert simulate(each, Fixed(1), replace(WORLD, ahead_seconds=3.0)).waits == [70.0, 89.0, 7.0]
    assert simulate(each, Fixed(1), replace(WORLD, ahead_seconds=0.0)).waits == [70.0, 99.0, 2.0]


def test_who_would_start_late_at_a_worker_that_is_nearly_done_counts_as_late() -> None:
    trace = requests((0, "a", 5), (10, "a", 5))
    line = Line(trace, 30.0, overdue_last=True, ahead=3.0)
    line.add(0)
    line.add(1)
    assert line.take({"a"}, 28.0) == 1


def test_a_pool_lasts_as_long_as_its_world() -> None:
    out = simulate(requests((1000, "a", 20)), Fixed(1), replace(WORLD, begin=0.0, end=3600.0))
    assert out.held == pytest.approx(3600.0, abs=Fixed.interval)


traces = st.lists(
    st.tuples(st.floats(0, 3000), st.sampled_from("abcde"), st.floats(0, 120)), min_size=1, max_size=40
).map(lambda each: requests(*sorted(each)))
worlds = st.builds(
    World,
    start_seconds=st.floats(0, 100),
    first_load_seconds=st.floats(0.1, 30),
    load_seconds=st.floats(0.1, 30),
    resident=st.integers(1, 4),
    queue=st.sampled_from(["gateway", "fifo", "worker"]),
    seed=st.integers(0, 9),
)


@settings(max_examples=40, deadline=None)
@given(trace=traces, world=worlds, least=st.integers(0, 3))
def test_every_request_starts_once_and_hours_add_up(trace: Trace, world: World, least: int) -> None:
    out = simulate(trace, Ours(ScalingSpec(min_replicas=least, max_replicas=5)), world)
    assert len(out.waits) == len(trace)
    assert all(0 <= w < float("inf") for w in out.waits)
    assert out.busy == pytest.approx(sum(r.seconds for r in trace))
    assert out.held >= out.busy + out.loading - 1e-6 or out.held == pytest.approx(out.busy + out.loading)
    assert max(n for _, n in out.replicas) <= 5
    assert out.replicas[-1][1] == 0


@settings(max_examples=15, deadline=None)
@given(trace=traces, world=worlds)
def test_the_same_seed_gives_the_same_run(trace: Trace, world: World) -> None:
    first, second = (simulate(trace, Ours(ScalingSpec()), world) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("queue", ["gateway", "fifo", "worker"])
def test_more_workers_wait_less(queue: Queue) -> None:
    trace = requests(*((k * 3.0, "abc"[k % 3], 20.0) for k in range(200)))
    waits = [sum(simulate(trace, Fixed(n), replace(WORLD, queue=queue)).waits) for n in (4, 8, 16)]
    assert waits == sorted(waits, reverse=True)
