"""What is learned of a pool's demand."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.plan.forecast import FIRST, MEMORY_SECONDS, Forecaster, _Fit

STEP = 5.0


def fed(forecaster: Forecaster, work: list[float], start: float = 0.0) -> Forecaster:
    for k, seconds in enumerate(work):
        forecaster.observe(start + (k + 1) * STEP, seconds)
    return forecaster


def test_before_any_work_nothing_is_expected_but_something_may_come() -> None:
    first = Forecaster(60.0).last
    assert first.rate == 0.0
    assert first.deviation > 0.5


def test_a_rate_is_the_mean_of_its_window() -> None:
    forecaster = fed(Forecaster(60.0), [10.0] * 120 + [30.0] * 12)
    assert forecaster.rate(60.0) == pytest.approx(6.0)
    assert forecaster.rate(600.0) == pytest.approx((108 * 10 + 12 * 30) / 600)


def test_a_steady_load_is_forecast_by_its_slow_mean() -> None:
    random = Random(1)
    work = [random.expovariate(1 / 20) if random.random() < 0.8 else 0.0 for _ in range(4000)]
    forecaster = fed(Forecaster(60.0), work)
    fast, slow = forecaster._means.weights[:2]
    assert slow > 0.7
    assert fast < 0.3
    assert forecaster.last.rate == pytest.approx(3.2, rel=0.3)


def test_a_load_that_stays_where_it_jumps_to_is_forecast_by_its_fast_mean() -> None:
    random = Random(2)
    levels = [random.choice([0.0, 40.0]) for _ in range(40)]
    forecaster = fed(Forecaster(60.0), [level for level in levels for _ in range(100)])
    fast, slow = forecaster._means.weights[:2]
    assert fast > slow


def test_a_daily_pattern_is_expected_before_it_comes() -> None:
    day = 24 * 600.0
    quiet_then_busy = [0.0] * 1440 + [20.0] * 1440
    forecaster = fed(Forecaster(60.0, day=day), quiet_then_busy * 5)
    # The sixth day is quiet still, and busy within the lead.
    before = fed(forecaster, [0.0] * 1435, start=len(quiet_then_busy) * 5 * STEP)
    assert before.last.guesses[:2] == (0.0, 0.0)
    assert before.last.guesses[2] > 3.0
    assert before.last.rate > 0.5


def test_bursts_widen_the_spread_more_than_a_steady_load_of_the_same_mean() -> None:
    steady = fed(Forecaster(60.0), [10.0] * 2000)
    bursts = fed(Forecaster(60.0), ([0.0] * 95 + [200.0] * 5) * 20)
    assert bursts.last.deviation > 2 * steady.last.deviation


def test_more_may_come_after_a_busy_time_than_in_a_quiet_night() -> None:
    night, evening = [0.0] * 1440, ([0.0] * 35 + [200.0] * 5) * 36
    forecaster = fed(Forecaster(60.0), (night + evening) * 3)
    busy = forecaster.last.deviation
    quiet = fed(forecaster, night, start=(len(night) + len(evening)) * 3 * STEP).last.deviation
    assert busy > 1.5 * quiet


def test_weights_become_those_of_least_squares_and_none_is_negative() -> None:
    fit, against = _Fit((0.5, 0.5), MEMORY_SECONDS), _Fit((0.5, 0.5), MEMORY_SECONDS)
    for k in range(20_000):
        second = 2.0 * (k % 2)
        fit.learn((1.0, second), 2.0 + 2.0 * second, 1.0, STEP)
        against.learn((1.0, second), 2.0 - second, 1.0, STEP)
    assert fit.weights == pytest.approx([2.0, 2.0], rel=0.1)
    assert against.weights[1] == 0.0
    assert against.sum((1.0, 1.0)) == against.weights[0]


@settings(max_examples=30)
@given(work=st.lists(st.floats(0, 1e5), min_size=20, max_size=400), gap=st.floats(0.1, 1e5))
def test_forecasts_are_finite_and_never_negative_whatever_comes(work: list[float], gap: float) -> None:
    forecaster = Forecaster(60.0)
    for k, seconds in enumerate(work):
        expected = forecaster.observe(k * STEP + (gap if k > len(work) / 2 else 0), seconds)
        assert 0 <= expected.rate < math.inf
        assert 0 < expected.deviation < math.inf
    assert len(forecaster._means.weights) == len(FIRST)
