import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.messages import SizeProfile
from imagefleet_runtime.worker.throughput import MOST_SIZES, RETRY_AFTER, TRIAL_REPORTS, StepTimes

Curve = dict[int, float]


def profile(curve: Curve, width: int = 512, height: int = 512) -> SizeProfile:
    return SizeProfile(width, height, 0.1, tuple(curve.items()), ())


def times(curve: Curve) -> StepTimes:
    return StepTimes([profile(curve)])


BEST = {
    "the worked example: four gain 4 % over two": ({1: 0.10, 2: 0.12, 4: 0.23}, 2),
    "a batch that costs no more": ({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, 8),
    "a batch that gains nothing": ({1: 0.1, 2: 0.2, 4: 0.4}, 1),
    "a batch that loses": ({1: 0.1, 2: 0.3}, 1),
    "one that does not gain may have been held up": ({1: 0.1, 2: 0.2, 4: 0.2}, 4),
    "a gain of exactly 5 %": ({1: 1.05, 2: 2.0}, 2),
    "nothing but one measured": ({1: 0.1}, 1),
    "nothing measured": ({}, 1),
    "what is no duration says nothing": ({1: 0.1, 2: math.nan, 4: 0.1}, 4),
}


@pytest.mark.parametrize(("curve", "want"), BEST.values(), ids=BEST.keys())
def test_the_best_batch_is_the_largest_that_gains(curve: Curve, want: int) -> None:
    assert times(curve).best_batch(512, 512) == want


@pytest.mark.parametrize(
    ("batch", "want"),
    [
        (1, 1.0),
        (2, 1.2),
        (3, 1.75),  # halfway between two and four
        (4, 2.3),
        (8, 4.6),  # beyond what was measured, no more gain
    ],
)
def test_how_much_slower_a_batch_is(batch: int, want: float) -> None:
    assert times({1: 0.10, 2: 0.12, 4: 0.23}).slowdown(512, 512, batch) == pytest.approx(want)


def test_a_larger_size_fills_the_device_as_so_many_smaller_pictures_do() -> None:
    known = times({1: 0.1, 2: 0.1, 4: 0.2, 8: 0.4})
    # 1024x512 is two pictures of 512x512: two of them cost what four cost, twice as much as two.
    assert known.slowdown(1024, 512, 2) == pytest.approx(2.0)
    assert known.best_batch(1024, 512) == 1
    assert known.best_batch(512, 512) == 2


def test_a_smaller_size_gains_what_the_smallest_measured_one_does() -> None:
    known = times({1: 0.1, 2: 0.1, 4: 0.2})
    assert known.slowdown(256, 256, 2) == 1.0
    assert known.best_batch(256, 256) == 2


def test_a_size_is_judged_by_the_largest_measured_one_below_it() -> None:
    known = StepTimes([profile({1: 0.1, 2: 0.1}), profile({1: 0.3, 2: 0.6}, 1024, 1024)])
    assert known.slowdown(1024, 512, 2) == pytest.approx(2.0)  # of 512x512: four cost twice what two cost
    assert known.best_batch(1024, 1024) == 1
    assert known.best_batch(512, 512) == 2


def test_without_any_measurement_a_batch_is_no_gain() -> None:
    assert StepTimes([]).slowdown(512, 512, 4) == 4.0
    assert StepTimes([]).gain(512, 512, 4) == 1.0


def test_steps_correct_what_was_measured_at_load() -> None:
    known = times({1: 0.1, 2: 0.1})
    for _ in range(60):
        known.observe(512, 512, 2, 0.2)
    assert known.slowdown(512, 512, 2) == pytest.approx(2.0, rel=0.01)
    # The best one stays: others on the machine may have slowed it down, as they would a picture alone.
    assert known.best_batch(512, 512) == 2


def test_a_batch_is_worth_what_it_is_in_like_conditions() -> None:
    """Loaded on a busy machine, and one picture was drawn alone when the others had left."""
    known = times({1: 0.2, 2: 0.2})
    for _ in range(60):
        known.observe(512, 512, 1, 0.1)
    assert known.slowdown(512, 512, 2) == pytest.approx(2.0, rel=0.01)
    assert known.best_batch(512, 512) == 2


def _drawn_at_full_load(known: StepTimes, seconds: Curve, reports: int) -> list[int]:
    """The batches of so many reports, where callers fill whatever is allowed and a step takes ``seconds``."""
    batches = []
    for _ in range(reports):
        batches.append(known.best_batch(512, 512))
        known.observe(512, 512, batches[-1], seconds[batches[-1]])
    return batches


def test_company_is_judged_by_the_shortest_steps() -> None:
    loaded_beside_another_model = times({1: 0.2, 2: 0.21})
    for batch, seconds in ((1, 0.1), (2, 0.15), (1, 0.4), (2, 0.3)):
        loaded_beside_another_model.observe(512, 512, batch, seconds)
    assert loaded_beside_another_model.undisturbed_slowdown(512, 512, 2) == pytest.approx(1.5)
    assert loaded_beside_another_model.undisturbed_slowdown(512, 512, 1) == 1.0


@pytest.mark.parametrize(
    ("loaded", "since", "want"),
    [
        pytest.param({1: 0.2, 2: 0.3}, {2: 0.15}, 1.5, id="the worked example: nobody was drawn alone since"),
        pytest.param({1: 0.1, 2: 0.15}, {2: 0.3}, 1.5, id="other work came later"),
        pytest.param({1: 0.2, 2: 0.3, 4: 0.5}, {4: 0.25}, 1.5, id="by a larger batch"),
        pytest.param({1: 0.2, 2: 0.3}, {1: 0.12, 2: 0.15}, 1.25, id="both were drawn since"),
        pytest.param({1: 0.1, 4: 0.3}, {2: 0.15}, 1.5, id="a batch that was not measured at load"),
    ],
)
def test_what_was_measured_beside_another_model_is_judged_by_what_was_drawn_since(
    loaded: Curve, since: Curve, want: float
) -> None:
    known = times(loaded)
    for batch, seconds in since.items():
        known.observe(512, 512, batch, seconds)
    assert known.undisturbed_slowdown(512, 512, 2) == pytest.approx(want)


def test_a_batch_that_was_measured_badly_at_load_is_found_out() -> None:
    truth = {1: 0.10, 2: 0.12, 4: 0.16, 8: 0.24}
    known = times({1: 0.10, 2: 0.12, 4: 0.50, 8: 0.90})
    batches = _drawn_at_full_load(known, truth, 2 * (RETRY_AFTER + TRIAL_REPORTS))
    assert batches[0] == 2
    assert known.best_batch(512, 512) == 8
    assert batches.index(4) == RETRY_AFTER


def test_batches_that_gain_nothing_are_tried_in_turn_and_given_up() -> None:
    truth = {1: 0.10, 2: 0.12, 4: 0.24, 8: 0.48}
    known = times(truth)
    batches = _drawn_at_full_load(known, truth, 2 * (RETRY_AFTER + TRIAL_REPORTS))
    assert [batches.count(batch) for batch in (2, 4, 8)] == [2 * RETRY_AFTER, TRIAL_REPORTS, TRIAL_REPORTS]
    assert known.best_batch(512, 512) == 2


def test_a_trial_that_nobody_fills_ends_as_well() -> None:
    known = times({1: 0.10, 2: 0.12, 4: 0.24})
    _drawn_at_full_load(known, {2: 0.12}, RETRY_AFTER)
    assert known.best_batch(512, 512) == 4
    for _ in range(TRIAL_REPORTS):
        known.observe(512, 512, 3, 0.18)
    assert known.best_batch(512, 512) == 2
    assert known.seconds(512, 512, 4) == 0.24


def test_without_full_load_nothing_is_tried() -> None:
    known = times({1: 0.10, 2: 0.12, 4: 0.24})
    for _ in range(2 * RETRY_AFTER):
        known.observe(512, 512, 1, 0.10)
    assert known.best_batch(512, 512) == 2


def test_a_single_stall_changes_little() -> None:
    known = times({1: 0.1, 2: 0.1})
    known.observe(512, 512, 1, 300.0)
    assert known.seconds(512, 512, 1) == pytest.approx(0.1 + 0.1 * 0.2)


def test_a_step_between_the_measured_batches_makes_no_new_rung() -> None:
    """Three may gain little over two where four gain much: four is still compared with two."""
    known = times({1: 0.10, 2: 0.12, 4: 0.20})
    known.observe(512, 512, 3, 0.171)
    assert known.best_batch(512, 512) == 4


def test_a_size_that_was_met_is_judged_by_itself() -> None:
    known = times({1: 0.1, 2: 0.1})
    known.observe(1024, 1024, 1, 0.4)
    known.observe(1024, 1024, 2, 0.6)
    assert known.slowdown(1024, 1024, 2) == pytest.approx(1.5)


def test_callers_cannot_fill_the_memory_with_sizes() -> None:
    known = times({1: 0.1, 2: 0.1})
    for side in range(8, 8 * (MOST_SIZES + 3), 8):
        known.observe(side, 8, 1, 0.1)
    assert known.seconds(8, 8, 1) is None
    assert known.seconds(8 * (MOST_SIZES + 2), 8, 1) == 0.1
    assert known.seconds(512, 512, 1) == 0.1


curves = st.lists(st.floats(0.001, 10), min_size=1, max_size=5).map(
    lambda seconds: {2**power: value for power, value in enumerate(seconds)}
)


@given(curves, st.integers(8, 4096), st.integers(8, 4096), st.integers(1, 32))
def test_a_batch_is_never_faster_than_one_picture(curve: Curve, width: int, height: int, batch: int) -> None:
    known = times(curve)
    assert known.slowdown(width, height, batch) >= 1.0
    assert known.best_batch(width, height) in curve
