"""Numbers of a status."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.rounding import settled, significant, stepped


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


@given(st.floats(0.001, 1e9))
def test_the_same_measurement_twice_writes_once(measured: float) -> None:
    first = settled(None, measured, within=0.1, digits=2)
    assert settled(first, measured, within=0.1, digits=2) == first
    stepped_first = stepped(None, measured, step=0.1)
    assert stepped(stepped_first, measured, step=0.1) == stepped_first
