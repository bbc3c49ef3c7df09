"""Counts over a sliding window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway.windows import Budget, Window

WINDOWS = st.tuples(st.sampled_from([1.0, 10.0, 60.0]), st.integers(1, 60))
COUNTS = st.builds(
    Budget,
    requests=st.integers(0, 9),
    failed=st.integers(0, 9),
    slow=st.integers(0, 9),
    checked=st.integers(0, 9),
    unsafe=st.integers(0, 9),
)
STEPS = st.lists(st.tuples(st.floats(0, 700), COUNTS), max_size=30)


def fields(counts: Budget) -> list[int]:
    return [getattr(counts, name) for name in counts.__struct_fields__]


@pytest.mark.parametrize(
    ("at", "want"),
    [
        pytest.param(0.0, 1, id="at once"),
        pytest.param(290.0, 1, id="to the last bucket"),
        pytest.param(299.9, 1, id="to the end of the window"),
        pytest.param(300.0, 0, id="and no longer"),
    ],
)
def test_a_count_stays_in_a_window_of_five_minutes(at: float, want: int) -> None:
    window = Window(10.0, 30)
    window.add(Budget(requests=1), 0.0)
    assert window.sums(at).requests == want


def test_a_bucket_leaves_as_a_whole() -> None:
    window = Window(10.0, 30)
    window.add(Budget(requests=1), 9.9)
    assert window.sums(299.9).requests == 1
    assert window.sums(300.0).requests == 0, "290.1 seconds later: 3 % early at most"


def test_a_clock_that_goes_back_loses_nothing() -> None:
    window = Window(10.0, 30)
    window.add(Budget(requests=1), 500.0)
    window.add(Budget(requests=1), 100.0)
    assert window.sums(100.0).requests == 2
    assert window.sums(799.9).requests == 2
    assert window.sums(800.0).requests == 0


@given(WINDOWS, STEPS, st.floats(0, 700))
def test_sums_are_those_of_the_counts_whose_buckets_are_in_the_window(
    size: tuple[float, int], steps: list[tuple[float, Budget]], wait: float
) -> None:
    seconds, buckets = size
    window, now = Window(seconds, buckets), 0.0
    added: list[tuple[int, Budget]] = []
    for pause, counts in steps:
        now += pause
        window.add(counts, now)
        added.append((int(now // seconds), counts))
    now += wait
    oldest = int(now // seconds) - buckets
    within = [fields(Budget()), *(fields(counts) for number, counts in added if number > oldest)]
    sums = fields(window.sums(now))
    assert sums == [sum(column) for column in zip(*within, strict=True)]
    assert all(0 <= part <= sum(fields(c)[i] for _, c in added) for i, part in enumerate(sums))


@given(WINDOWS, STEPS)
def test_a_window_keeps_no_more_buckets_than_it_has(
    size: tuple[float, int], steps: list[tuple[float, Budget]]
) -> None:
    window, now = Window(*size), 0.0
    for pause, counts in steps:
        now += pause
        window.add(counts, now)
        assert len(window) <= size[1]
