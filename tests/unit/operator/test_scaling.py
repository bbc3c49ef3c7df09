"""How many workers a pool needs."""

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.plan import scaling
from imagefleet_operator.plan.behavior import Behavior, Limit, Rules
from imagefleet_operator.plan.forecast import Forecast
from imagefleet_operator.plan.scaling import Inputs, Memory, ScalingSpec, decide, learned, surplus, unused

SPEC = ScalingSpec(target_utilization=0.8, start_seconds=57, load_seconds=3)
FREE = Behavior(Rules(), Rules())


def forecast(rate: float, deviation: float = 0.0) -> Forecast:
    return Forecast(rate, deviation, (rate, rate, 0.0, 0.0))


def replicas(spec: ScalingSpec, inputs: Inputs, expected: Forecast, caution: float = 4.0) -> int | None:
    return decide(spec, inputs, expected, Memory(caution=caution), 1000.0)[0].replicas


@pytest.mark.parametrize(
    ("case", "work_left", "ready", "starting", "want"),
    [
        ("nothing waits", 0.0, 5, (), 7),
        ("work waits that five workers cannot do in time", 300.0, 5, (), 10),
        ("those that start will do it: 120 s of three that draw in 20 s", 300.0, 5, (20.0, 20.0, 20.0), 8),
        ("what runs is no reason for more", 75.0, 7, (), 7),
    ],
)
def test_workers_needed(
    case: str, work_left: float, ready: int, starting: tuple[float, ...], want: int
) -> None:
    inputs = Inputs(work_left, ready, starting)
    assert replicas(SPEC, inputs, forecast(4.0, 2.5)) == want, case


def test_surplus_is_what_cannot_be_done_within_the_lead() -> None:
    assert surplus(SPEC, Inputs(300.0, 5), forecast(4.0)) == 165.0
    assert surplus(SPEC, Inputs(0.0, 5), forecast(4.0)) == 0.0


@pytest.mark.parametrize(
    ("start", "wait", "want"), [(57.0, 30.0, 7), (57.0, 60.0, 5), (57.0, 90.0, 5), (237.0, 30.0, 12)]
)
def test_headroom_is_for_what_arrives_before_new_workers_can_begin_it(
    start: float, wait: float, want: int
) -> None:
    spec = ScalingSpec(target_utilization=0.8, start_seconds=start, load_seconds=3, wait_seconds=wait)
    assert replicas(spec, Inputs(0.0, 5), forecast(4.0, 2.5)) == want


@pytest.mark.parametrize(
    ("age", "reason"),
    [(None, scaling.METRICS_ABSENT), (60.1, scaling.METRICS_STALE)],
    ids=["absent", "stale"],
)
def test_without_news_there_is_no_opinion_and_nothing_is_learned(age: float | None, reason: str) -> None:
    before = Memory(caution=1.5)
    decision, memory = decide(SPEC, Inputs(0.0, 5, age=age, started=9, late=9), forecast(50.0), before, 0.0)
    assert (decision.replicas, decision.reason) == (None, reason)
    assert memory == before


@pytest.mark.parametrize(
    ("inputs", "expected", "want", "reason"),
    [
        (Inputs(0.0, 4, idle=(9.0, 9.0)), forecast(4.0), 5, scaling.DEMAND),
        (Inputs(900.0, 2), forecast(0.0), 12, scaling.BACKLOG),
        (Inputs(0.0, 5, idle=(9.0,) * 5), forecast(1.6), 2, scaling.IDLE),
        (Inputs(80.0, 5, idle=(9.0,)), forecast(1.6), 4, scaling.IDLE),
        (Inputs(80.0, 2), forecast(1.6), 2, scaling.STEADY),
        (Inputs(0.0, 3, idle=(9.0,) * 3), forecast(500.0), 100, scaling.BOUNDED),
    ],
    ids=["more arrives", "more waits", "not needed", "only the idle one goes", "as needed", "most"],
)
def test_decisions_say_why(inputs: Inputs, expected: Forecast, want: int, reason: str) -> None:
    spec = ScalingSpec(target_utilization=0.8, start_seconds=57, load_seconds=3, behavior=FREE)
    decision, _ = decide(spec, inputs, expected, Memory(caution=0.0), 0.0)
    assert (decision.replicas, decision.reason) == (want, reason)
    assert f"{want} workers" in decision.message
    assert decision.figures["rate"] == expected.rate


def test_behavior_that_holds_a_burst_back_is_named() -> None:
    slow = Behavior(Rules(policies=(Limit("Pods", 1, 60),)), Rules())
    spec = ScalingSpec(behavior=slow)
    decision, _ = decide(spec, Inputs(0.0, 2), forecast(30.0), Memory(), 0.0)
    assert (decision.replicas, decision.reason) == (3, scaling.LIMITED)


def test_caution_rises_with_each_late_request_and_falls_slowly() -> None:
    assert learned(SPEC, 3.0, Inputs(0.0, 1, started=25, late=1)) == pytest.approx(3.03875)
    assert learned(SPEC, 3.0, Inputs(0.0, 1, started=1000, late=9)) == pytest.approx(3.0)
    assert learned(SPEC, 0.0, Inputs(0.0, 1, started=100)) == 0.0
    assert learned(SPEC, 5.9, Inputs(0.0, 1, started=100, late=100)) == scaling.CAUTION_MOST


def test_a_pool_that_may_goes_to_zero_and_comes_back_with_the_first_request() -> None:
    spec = ScalingSpec(min_replicas=0, behavior=FREE)
    quiet = Inputs(0.0, 2, idle=(700.0, 700.0), quiet=700.0)
    assert unused(spec, quiet)
    decision, _ = decide(spec, quiet, forecast(0.0, 1.0), Memory(), 0.0)
    assert (decision.replicas, decision.reason) == (0, scaling.UNUSED)
    assert replicas(spec, Inputs(20.0, 0), forecast(0.0)) == 1
    assert not unused(ScalingSpec(min_replicas=1), quiet)


rates = st.floats(0, 1e4, allow_nan=False)
seconds = st.floats(0, 1e6, allow_nan=False)


@given(
    bounds=st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted),
    inputs=st.builds(
        Inputs,
        work_left=seconds,
        ready=st.integers(0, 80),
        starting=st.lists(st.floats(0, 100), max_size=5).map(tuple),
        quiet=seconds,
        started=st.integers(0, 100),
    ),
    expected=st.builds(forecast, rates, rates),
    limit=st.builds(Limit, st.sampled_from(["Pods", "Percent"]), st.integers(1, 100), st.just(60.0)),
)
def test_replicas_are_never_outside_the_bounds(
    bounds: list[int], inputs: Inputs, expected: Forecast, limit: Limit
) -> None:
    low, high = bounds
    behavior = Behavior(Rules(policies=(limit,)), Rules(300.0, (limit,)))
    spec = ScalingSpec(min_replicas=low, max_replicas=high, behavior=behavior)
    decision, memory = decide(spec, inputs, expected, Memory(), 0.0)
    assert decision.replicas is not None
    assert low <= decision.replicas <= high
    assert 0 <= memory.caution <= scaling.CAUTION_MOST


@given(
    ready=st.integers(0, 60),
    idle=st.integers(0, 60),
    work=seconds,
    expected=st.builds(forecast, rates, rates),
)
def test_no_worker_with_work_is_asked_to_go(ready: int, idle: int, work: float, expected: Forecast) -> None:
    idle = min(idle, ready)
    spec = ScalingSpec(behavior=FREE)
    decision, _ = decide(spec, Inputs(work, ready, idle=(0.0,) * idle), expected, Memory(), 0.0)
    assert decision.replicas is not None
    assert decision.replicas >= ready - idle


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), mean=st.floats(0.1, 30), swing=st.floats(0, 3))
def test_the_number_does_not_swing_whatever_the_load(seed: int, mean: float, swing: float) -> None:
    """After workers were added none goes for a stabilization window, so two turns take at least that long."""
    random, memory, have = Random(seed), Memory(), 1
    directions, step, hours = [], 5.0, 2
    for k in range(int(hours * 3600 / step)):
        expected = forecast(mean * random.lognormvariate(0, swing), random.random())
        inputs = Inputs(random.random() * 100, have, idle=(100.0,) * have)
        decision, memory = decide(ScalingSpec(), inputs, expected, memory, k * step)
        assert decision.replicas is not None
        if decision.replicas != have:
            directions.append(math.copysign(1, decision.replicas - have))
        have = decision.replicas
    turns = sum(a != b for a, b in pairwise(directions))
    assert turns <= 2 * hours * 3600 / ScalingSpec().behavior.scale_down.stabilization_window_seconds + 1
