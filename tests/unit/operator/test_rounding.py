"""Numbers of a status."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.rounding import progress, settled, significant, stepped


@pytest.mark.parametrize(("value", "digits", "want"), [(0.011437, 2, 0.011), (0, 2, 0), (12345, 3, 12300)])
def test_significant_digits(value: float, digits: int, want: float) -> None:
    assert significant(value, digits) == want


@pytest.mark.parametrize(
    ("previous", "measured", "want"),
    [
        (0.011, 0.0117, 0.011),
        (0.011, 0.0134, 0.013),
        (None, 0.0134, 0.013),
        (0.011, None, 0.011),
        (None, None, None),
    ],
)
def test_a_number_stays_until_it_is_a_tenth_off(
    previous: float | None, measured: float | None, want: float | None
) -> None:
    assert settled(previous, measured, within=0.1, digits=2) == want


@pytest.mark.parametrize(
    ("previous", "measured", "want"),
    [(0.6, 0.68, 0.6), (0.6, 0.74, 0.7), (None, 0.68, 0.7), (0.6, None, 0.6)],
)
def test_a_number_stays_within_a_step(
    previous: float | None, measured: float | None, want: float | None
) -> None:
    assert stepped(previous, measured, step=0.1) == want


@pytest.mark.parametrize(
    ("done", "total", "want"),
    [(1234, 10_000, 1200), (11_000, 10_000, 10_000), (0, 7, 0), (6, 7, 6), (7, 7, 7)],
)
def test_progress_goes_by_whole_percents(done: int, total: int, want: int) -> None:
    assert progress(done, total) == want


@given(st.integers(1, 2**50), st.lists(st.integers(0, 2**50), min_size=2))
def test_progress_is_told_in_at_most_a_hundred_and_one_steps(total: int, done: list[int]) -> None:
    told = [progress(d, total) for d in sorted(done)]
    assert told == sorted(told)
    assert [100 * t // total for t in told] == [min(100, 100 * d // total) for d in sorted(done)]
    assert all(t <= d for t, d in zip(told, sorted(done), strict=True))


@given(st.floats(0.001, 1e9))
def test_the_same_measurement_twice_writes_once(measured: float) -> None:
    first = settled(None, measured, within=0.1, digits=2)
    assert settled(first, measured, within=0.1, digits=2) == first
    stepped_first = stepped(None, measured, step=0.1)
    assert stepped(stepped_first, measured, step=0.1) == stepped_first
