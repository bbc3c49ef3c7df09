"""Whether a canary is worse, from counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.analysis import Outcome, below_floor, judge
from imagefleet_operator.plan.rollout_types import AnalysisSpec, Arm, Metric, Moments

PASSED, FAILED, INCONCLUSIVE = Outcome.PASSED, Outcome.FAILED, Outcome.INCONCLUSIVE
SPEC = AnalysisSpec()
WINDOWS = 3


def values(count: int, mean: float, deviation: float) -> Moments:
    """Moments of values with that mean and standard deviation."""
    return Moments(count, count * mean, count * mean**2 + (count - 1) * deviation**2)


def seconds(count: int, median: float) -> Arm:
    """Of the noise of a busy worker: ln varies by 0.4."""
    return Arm(latency=values(count, math.log(median), 0.4))


def scores(count: int, mean: float, deviation: float = 0.13) -> Arm:
    return Arm(quality=values(count, mean, deviation))


NARRATIVE = {
    "a canary that fails everything is found out within three requests at 5 percent": (
        Arm(57), Arm(3, errors=3), FAILED,
    ),
    "and within eight where each side has half of the traffic": (Arm(8), Arm(8, errors=8), FAILED),
    "two failures of two beside nothing are too few": (Arm(2), Arm(2, errors=2), INCONCLUSIVE),
    "an equal canary passes once 5 points more would have shown": (Arm(2052), Arm(108), PASSED),
    "and not one request before": (Arm(2033), Arm(107), INCONCLUSIVE),
    "both fail alike": (Arm(4000, errors=200), Arm(1000, errors=50), PASSED),
    "a canary that fails less often passes": (Arm(2000, errors=200), Arm(200, errors=2), PASSED),
    "5 points more failures": (Arm(3800, errors=19), Arm(200, errors=11), FAILED),
    "more failures than stable, but by less than half of what is allowed": (
        Arm(100_000, errors=500), Arm(100_000, errors=2500), PASSED,
    ),
    "out of memory counts of its own": (Arm(57), Arm(3, out_of_memory=3), FAILED),
    "unsafe pictures": (Arm(checked=57), Arm(checked=3, unsafe=3), FAILED),
    "twice as slow": (seconds(304, 0.011), seconds(16, 0.022), FAILED),
    "a little slower than stable, and certainly so, is allowed": (
        seconds(20_000, 0.011), seconds(20_000, 0.0121), PASSED,
    ),
    "as fast as stable": (seconds(950, 0.011), seconds(50, 0.011), PASSED),
    "faster than stable": (seconds(950, 0.011), seconds(50, 0.008), PASSED),
    "as fast as stable in too few requests": (seconds(931, 0.011), seconds(49, 0.011), INCONCLUSIVE),
    "ten times as slow in nine requests is not compared": (seconds(100, 0.011), seconds(9, 0.11), INCONCLUSIVE),
    "constant latencies that are twice as high": (
        Arm(latency=values(10, -4.0, 0)), Arm(latency=values(10, -4.0 + math.log(2), 0)), FAILED,
    ),
    "5 points worse pictures": (scores(3040, 0.93), scores(160, 0.88), FAILED),
    "pictures as good as stable's": (scores(1900, 0.93), scores(100, 0.93), PASSED),
    "perfect scores, but few of them: the next may be 0": (scores(60, 1, 0), scores(60, 1, 0), INCONCLUSIVE),
    "perfect scores": (scores(82, 1, 0), scores(82, 1, 0), PASSED),
    "nothing counted": (Arm(), Arm(), INCONCLUSIVE),
    "a canary that nobody asked yet": (Arm(1000, errors=3), Arm(), INCONCLUSIVE),
    "no stable model to compare with": (Arm(), Arm(1000, errors=3), INCONCLUSIVE),
    "figures that are no numbers": (
        Arm(latency=Moments(50, math.nan, 1.0)), Arm(latency=Moments(50, 0.0, math.inf)), INCONCLUSIVE,
    ),
    "more failures than requests are no figure": (Arm(10, errors=20), Arm(10), INCONCLUSIVE),
}  # fmt: skip


@pytest.mark.parametrize(("stable", "canary", "want"), NARRATIVE.values(), ids=NARRATIVE)
def test_the_verdict(stable: Arm, canary: Arm, want: Outcome) -> None:
    found = judge(SPEC, stable, canary, windows=WINDOWS)
    assert found.outcome is want, found.message


GOOD = Arm(200, checked=200, latency=values(200, -4.5, 0.4), quality=values(200, 0.93, 0.13))
EQUAL = (GOOD, GOOD)


def worse(metric: Metric) -> Arm:
    """As ``GOOD``, but certainly worse by one metric."""
    return {
        Metric.ERROR_RATE: replace(GOOD, errors=100),
        Metric.OUT_OF_MEMORY_RATE: replace(GOOD, out_of_memory=100),
        Metric.SAFETY_PASS_RATE: replace(GOOD, unsafe=100),
        Metric.LATENCY: replace(GOOD, latency=values(200, -3.5, 0.4)),
        Metric.QUALITY_SCORE: replace(GOOD, quality=values(200, 0.5, 0.13)),
    }[metric]


def test_all_metrics_are_judged_in_their_order() -> None:
    found = judge(SPEC, *EQUAL, windows=WINDOWS)
    assert [finding.metric for finding in found.findings] == list(Metric)
    assert found.outcome is PASSED
    assert found.message == (
        "The canary is no worse than the stable model: "
        "errorRate, outOfMemoryRate, safetyPassRate, latency, qualityScore"
    )


@pytest.mark.parametrize("metric", Metric)
def test_one_metric_that_is_worse_fails_the_canary_and_says_so(metric: Metric) -> None:
    found = judge(SPEC, GOOD, worse(metric), windows=WINDOWS)
    assert found.outcome is FAILED
    assert found.message.startswith(f"{metric} is worse: ")
    assert [finding.metric for finding in found.findings if finding.outcome is FAILED] == [metric]


@pytest.mark.parametrize("metric", Metric)
def test_a_metric_without_tolerance_is_not_judged(metric: Metric) -> None:
    tolerances = {other: SPEC.tolerances[other] for other in Metric if other is not metric}
    found = judge(AnalysisSpec(tolerances), GOOD, worse(metric), windows=WINDOWS)
    assert found.outcome is PASSED
    assert metric not in [finding.metric for finding in found.findings]


@pytest.mark.parametrize("silent", ["stable", "canary"])
def test_a_metric_that_one_side_has_nothing_of_is_no_opinion(silent: str) -> None:
    without = replace(GOOD, checked=0, quality=Moments())
    sides = {"stable": GOOD, "canary": GOOD, silent: without}
    found = judge(SPEC, sides["stable"], sides["canary"], windows=WINDOWS)
    assert found.outcome is PASSED
    assert [finding.metric for finding in found.findings] == [
        Metric.ERROR_RATE, Metric.OUT_OF_MEMORY_RATE, Metric.LATENCY,
    ]  # fmt: skip


def test_a_metric_with_too_little_holds_the_canary_back() -> None:
    found = judge(SPEC, GOOD, replace(GOOD, quality=values(12, 0.93, 0.13)), windows=WINDOWS)
    assert found.outcome is INCONCLUSIVE
    assert (
        found.message
        == "qualityScore is not certain yet: canary 0.930 (12 counted), stable 0.930 (200 counted)"
    )


def test_without_anything_counted_there_is_no_finding() -> None:
    found = judge(SPEC, Arm(), Arm(), windows=WINDOWS)
    assert found.findings == ()
    assert found.message == "Nothing has been counted of both models yet"


def test_findings_are_in_the_metrics_own_units() -> None:
    canary = replace(GOOD, errors=10, unsafe=20, latency=values(200, math.log(0.02), 0.4))
    found = {finding.metric: finding for finding in judge(SPEC, GOOD, canary, windows=WINDOWS).findings}
    assert found[Metric.ERROR_RATE].canary == 0.05
    assert found[Metric.SAFETY_PASS_RATE].stable == 1
    assert found[Metric.SAFETY_PASS_RATE].canary == 0.9
    assert found[Metric.LATENCY].canary == pytest.approx(0.02)
    assert found[Metric.QUALITY_SCORE].canary == pytest.approx(0.93)
    assert "canary 0.02 s per megapixel-step (200 counted)" in found[Metric.LATENCY].message
    assert "canary 90 % (200 counted)" in found[Metric.SAFETY_PASS_RATE].message


def test_both_sides_need_the_requests_that_are_asked_for() -> None:
    asked = replace(SPEC, min_requests=500)
    enough, few = seconds(500, 0.011), seconds(499, 0.011)
    assert judge(asked, enough, enough, windows=WINDOWS).outcome is PASSED
    assert judge(asked, few, enough, windows=WINDOWS).outcome is INCONCLUSIVE
    assert judge(asked, enough, few, windows=WINDOWS).outcome is INCONCLUSIVE


def test_more_windows_and_more_metrics_ask_for_more_evidence() -> None:
    stable, canary = Arm(8), Arm(8, errors=8)
    assert judge(SPEC, stable, canary, windows=100).outcome is INCONCLUSIVE
    alone = AnalysisSpec({Metric.ERROR_RATE: 0.05})
    assert judge(alone, Arm(6), Arm(6, errors=6), windows=1).outcome is FAILED
    assert judge(SPEC, Arm(6), Arm(6, errors=6), windows=1).outcome is INCONCLUSIVE


def test_a_rollout_that_only_mirrors_is_one_window() -> None:
    assert judge(SPEC, Arm(8), Arm(8, errors=8), windows=0).outcome is FAILED


@st.composite
def moments(draw: st.DrawFn) -> Moments:
    few = draw(st.lists(st.floats(-5, 1), max_size=4))
    times = draw(st.integers(1, 100))
    return Moments(len(few) * times, sum(few) * times, sum(value**2 for value in few) * times)


@st.composite
def arms(draw: st.DrawFn) -> Arm:
    requests, checked = draw(st.integers(0, 2000)), draw(st.integers(0, 2000))
    errors = draw(st.integers(0, requests))
    return Arm(
        requests, errors, draw(st.integers(0, errors)), checked, draw(st.integers(0, checked)),
        draw(moments()), draw(moments()),
    )  # fmt: skip


@given(arms())
def test_a_canary_with_the_same_figures_as_stable_never_fails(arm: Arm) -> None:
    assert judge(SPEC, arm, arm, windows=WINDOWS).outcome is not FAILED


@given(arms(), arms())
def test_of_two_models_at_most_one_is_worse_by_the_same_metric(one: Arm, other: Arm) -> None:
    verdicts = [judge(SPEC, *sides, windows=WINDOWS).findings for sides in ((one, other), (other, one))]
    for there, back in zip(*verdicts, strict=True):
        assert (there.outcome, back.outcome) != (FAILED, FAILED)


@given(arms(), arms(), st.integers(0, 500))
def test_more_failures_of_the_canary_never_make_it_pass(stable: Arm, canary: Arm, more: int) -> None:
    failing = replace(canary, requests=canary.requests + more, errors=canary.errors + more)
    spec = AnalysisSpec({Metric.ERROR_RATE: 0.05})
    before, after = (judge(spec, stable, arm, windows=WINDOWS).outcome for arm in (canary, failing))
    assert not (before is FAILED and after is PASSED)


def _looked_at(stable: list[float], canary: list[float]) -> list[tuple[Arm, Arm]]:
    """Both sides' scores after each of the canary's, of which stable has as many."""
    sums = np.cumsum([stable, np.square(stable), canary, np.square(canary)], axis=1).T.tolist()
    return [
        (Arm(quality=Moments(count, a, aa)), Arm(quality=Moments(count, b, bb)))
        for count, (a, aa, b, bb) in enumerate(sums, start=1)
    ]


@pytest.mark.parametrize(("worse_by", "wrong"), [(0.0, FAILED), (0.05, PASSED)])
def test_scores_looked_at_after_every_request_seldom_lead_to_the_wrong_verdict(
    worse_by: float, wrong: Outcome
) -> None:
    rng = np.random.default_rng(0)
    spec = AnalysisSpec({Metric.QUALITY_SCORE: 0.05})

    def verdict() -> Outcome:
        flawed = [rng.random(600) < 0.2 + worse_by / 0.3 * canary for canary in (False, True)]
        for stable, canary in _looked_at(*((1 - 0.3 * flaw).tolist() for flaw in flawed)):
            outcome = judge(spec, stable, canary, windows=1).outcome
            if outcome is not INCONCLUSIVE:
                return outcome
        return INCONCLUSIVE

    found = [verdict() for _ in range(100)]
    assert found.count(wrong) <= 2
    assert found.count(FAILED if wrong is PASSED else PASSED) >= 95


@pytest.mark.parametrize(
    ("passed", "checked", "floor", "want"),
    [
        (0, 8, 0.95, True),
        (0, 7, 0.95, False),
        (95, 100, 0.95, False),
        (80, 100, 0.95, True),
        (90, 100, 0.95, False),
        (100, 100, 0.95, False),
        (1000, 1000, 1.0, False),
        (999, 1000, 1.0, True),
        (0, 1000, 0.0, False),
        (0, 0, 0.95, False),
    ],
)
def test_a_pass_rate_under_its_floor(passed: int, checked: int, floor: float, want: bool) -> None:
    assert below_floor(passed, checked, floor) is want


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.5, 0.999))
def test_more_passed_pictures_raise_no_alarm(passed: int, unsafe: int, floor: float) -> None:
    if below_floor(passed + 1, passed + unsafe + 1, floor):
        assert below_floor(passed, max(8, passed + unsafe), floor)


def test_a_model_at_its_floor_is_not_alarmed_about() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        unsafe = np.cumsum(rng.random(1000) < 0.05).tolist()
        assert not any(below_floor(count - bad, count, 0.95) for count, bad in enumerate(unsafe, start=1))
