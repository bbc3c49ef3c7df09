import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_runtime.worker.footprint import MOST_POINTS, Footprint
from imagefleet_runtime.worker.messages import SizeProfile

MB = 10**6
Peaks = tuple[tuple[int, int], ...]


def profile(peaks: Peaks, side: int = 1000) -> SizeProfile:
    return SizeProfile(side, side, 0.1, (), peaks)


def footprint(*peaks: tuple[int, int], weights: int | None = 7000 * MB) -> Footprint:
    """Of pictures of one megapixel."""
    return Footprint(weights, [profile(peaks)])


WORKED = ((1, 10000 * MB), (4, 10600 * MB))

PEAKS = {
    "what was measured is what is expected": (WORKED, 1000, 4, 10600),
    "the worked example: 0.2 GB for each megapixel on 9.8 GB": (WORKED, 1000, 11, 12000),
    "a larger picture counts as so many smaller ones": (WORKED, 2000, 1, 10600),
    "from one point, a line from the weights": (((1, 10000 * MB),), 1000, 2, 13000),
    "peaks below the weights do not count downwards": (((1, 6000 * MB),), 1000, 2, 7000),
    "a curve that bends upwards: a line from the weights through the steepest point": (
        ((1, 7100 * MB), (4, 9000 * MB)),
        1000,
        8,
        11000,
    ),
}


@pytest.mark.parametrize(("peaks", "side", "batch", "want"), PEAKS.values(), ids=PEAKS.keys())
def test_the_peak_of_a_batch(peaks: Peaks, side: int, batch: int, want: int) -> None:
    assert footprint(*peaks).peak(side, side, batch) == pytest.approx(want * MB)


points = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 16), st.integers(0, 10**10)), min_size=1, max_size=8
)


@given(points, st.integers(0, 10**10))
def test_no_measured_point_lies_above_the_line(measured: list[tuple[int, int, int]], weights: int) -> None:
    known = Footprint(weights, [])
    for side, batch, peak in measured:
        known.observe(side, 100, batch, peak)
    for side, batch, peak in measured:
        # The same pixels in a batch of 100, which was not measured itself: only the line can tell.
        told = known.peak(side * batch, 1, 100)
        assert told is not None
        assert told >= peak * (1 - 1e-9) - 1


@given(points, st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 16))
def test_more_pixels_never_need_less(
    measured: list[tuple[int, int, int]], width: int, more: int, batch: int
) -> None:
    known = Footprint(0, [])
    for side, together, peak in measured:
        known.observe(side, 100, together, peak)
    less, most = known.peak(width, 101, batch), known.peak(width + more, 101, batch)
    assert less is not None
    assert most is not None
    assert less <= most + 1


def test_without_a_measurement_there_is_no_opinion() -> None:
    unknown = Footprint(None, [])
    assert unknown.peak(512, 512, 1) is None
    assert unknown.fits(512, 512, 1, 0)
    assert unknown.most_together(512, 512, 8, 0) == 8


def test_a_drawing_that_held_more_raises_the_expectation_and_one_that_held_less_does_not() -> None:
    known = footprint(*WORKED)
    known.observe(1000, 1000, 1, 11000 * MB)
    known.observe(1000, 1000, 4, 9000 * MB)
    assert (known.peak(1000, 1000, 1), known.peak(1000, 1000, 4)) == (11000 * MB, 10600 * MB)


@pytest.mark.parametrize(
    ("limit", "want"), [(20000, 8), (11000, 6), (10600, 4), (10300, 2), (10000, 1), (5000, 1)]
)
def test_as_many_are_drawn_together_as_fit(limit: int, want: int) -> None:
    """One is always left: to refuse it is not decided here."""
    assert footprint(*WORKED).most_together(1000, 1000, 8, limit * MB) == want


def test_where_memory_ran_out_as_many_are_not_drawn_together_again() -> None:
    known = footprint(*WORKED)
    known.ran_out(1000, 1000, 4)
    limit = 10**12
    assert known.most_together(1000, 1000, 8, limit) == 3
    assert known.most_together(2000, 1000, 8, limit) == 3, "nor larger ones"
    assert known.most_together(500, 500, 8, limit) == 8
    known.ran_out(2000, 1000, 1)
    assert not known.fits(2000, 1000, 1, limit)
    assert not known.fits(2000, 2000, 1, limit)
    assert known.fits(1000, 1000, 1, limit)


SIZES = {
    "the largest square": ((2000, 2000), 8, 10400, (1728, 1728)),
    "the same shape, as far as multiples allow": ((2000, 1000), 8, 10000, (1416, 704)),
    "multiples of what the pipeline draws": ((2000, 2000), 64, 10400, (1728, 1728)),
    "a narrow one": ((64, 64000), 64, 10000, None),
    "nothing fits": ((2000, 2000), 8, 5000, None),
}


@pytest.mark.parametrize(("size", "multiple", "limit", "want"), SIZES.values(), ids=SIZES.keys())
def test_the_largest_size_that_fits(
    size: tuple[int, int], multiple: int, limit: int, want: tuple[int, int] | None
) -> None:
    assert footprint(*WORKED).largest_size(*size, multiple, limit * MB) == want


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16, 64]), st.integers(7000, 12000), points)
def test_a_size_that_is_named_fits_and_is_smaller(
    columns: int, rows: int, multiple: int, limit: int, measured: list[tuple[int, int, int]]
) -> None:
    known = footprint(*WORKED)
    for side, batch, peak in measured:
        known.observe(side * multiple, multiple, batch, peak)
    width, height = columns * multiple, rows * multiple
    named = known.largest_size(width, height, multiple, limit * MB)
    if named is not None:
        assert known.fits(*named, 1, limit * MB)
        assert named[0] < width
        assert named[1] <= height
        assert named[0] % multiple == named[1] % multiple == 0


def test_callers_cannot_fill_the_memory_with_sizes() -> None:
    known = footprint(*WORKED)
    for side in range(1, MOST_POINTS + 10):
        known.observe(side, 1, 1, 7000 * MB + side)
    last = known.peak(MOST_POINTS + 9, 1, 1)
    assert last is not None
    assert last != 7000 * MB + MOST_POINTS + 9, "it is told by the line"
