import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.calibration import corrected, initial_rate, usable, work_units
from imagefleet_runtime.worker.messages import SizeProfile


@pytest.mark.parametrize(
    ("request_", "rate", "seconds"),
    [
        ((512, 512, 20, 1, 5.0), 0.011, 0.115),  # the worked example
        ((512, 512, 20, 1, 1.0), 0.011, 0.0577),  # guidance of 1 is none
        ((512, 512, 20, 3, 0.0), 0.011, 0.173),
        ((1000, 1000, 1, 1, 0.0), 1.0, 1.0),
    ],
)
def test_cost_is_megapixel_steps_times_rate(
    request_: tuple[int, int, int, int, float], rate: float, seconds: float
) -> None:
    assert work_units(*request_) * rate == pytest.approx(seconds, rel=0.01)


def profile(fixed: float, step: float) -> SizeProfile:
    return SizeProfile(512, 512, fixed, ((1, step), (2, 9.0)), ())


@pytest.mark.parametrize(
    ("measured", "units_per_step", "default_steps", "want"),
    [
        (profile(0.1, 0.1), 0.5, 20, 0.21),  # the worked example
        (profile(0.0, 0.1), 0.5, 4, 0.2),  # no fixed cost: 0.1 s for each step
        (profile(1.0, 0.0), 0.5, 1, 2.0),  # no steps measured: all of it scales
        (profile(0.0, 0.0), 0.5, 20, None),  # the clock gave nothing
        (SizeProfile(512, 512, 0.0, (), ()), 0.5, 20, None),
    ],
)
def test_the_first_rate_is_that_of_the_default_request(
    measured: SizeProfile, units_per_step: float, default_steps: int, want: float | None
) -> None:
    assert initial_rate(measured, units_per_step, default_steps) == (want and pytest.approx(want))


def test_the_first_observation_is_the_rate() -> None:
    assert corrected(None, 2.0, 4.0) == 0.5


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_what_cannot_be_a_duration_is_no_opinion(seconds: float) -> None:
    assert corrected(0.5, seconds, 1.0) == 0.5
    assert usable(seconds) is None


@pytest.mark.parametrize(("seconds", "want"), [(2.0, 1.3), (300.0, 1.6)])  # the worked examples
def test_one_odd_request_moves_the_rate_by_six_tenths_at_most(seconds: float, want: float) -> None:
    assert corrected(1.0, seconds, 1.0) == pytest.approx(want)


@given(st.floats(1e-6, 1e3), st.floats(1e-3, 3.0))
def test_a_wrong_rate_is_within_a_fifth_of_the_change_after_five_requests(
    wrong: float, change: float
) -> None:
    right = wrong * change
    rate: float | None = wrong
    for _ in range(5):
        rate = corrected(rate, right * 2.0, 2.0)
    assert rate is not None
    assert abs(rate - right) <= 0.2 * abs(wrong - right) + 1e-9
