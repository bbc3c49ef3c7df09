"""Whether a canary is worse than the stable model, from what gateways counted of both in the same window.

``judge`` may be asked after every request: all its tests are anytime-valid (``sequential``). For each metric with a
tolerance d, and harm = how much worse the canary is (the rate of bad outcomes, the mean of ln(latency) or the mean
score; above 0 is worse):

- Failed: the lower confidence bound of the harm is above 0 and the estimate above d / 2. An equal canary ever gets
  there with a chance of at most ``FALSE_ABORT`` = 1 % in a whole rollout: it is divided over the metrics and the
  windows.
- Passed: both sides have ``min_requests`` and the upper bound of the harm is below d. A canary with harm d or more
  ever gets there with a chance of at most ``MISS`` = 5 %. That is not divided: a canary passes only where all its
  metrics do (Berger 1982, the intersection-union test).
- else Inconclusive.

| metric | counted | test | its chances |
| --- | --- | --- | --- |
| errorRate, outOfMemoryRate | requests | e-process of two rates | exact |
| safetyPassRate | pictures checked | e-process of two rates | exact for pictures that do not depend on each other |
| latency | ln(s per megapixel-step) | normal mixture, Student's variance | asymptotic; shown by simulation |
| qualityScore | scores | normal mixture, Student's variance | asymptotic; shown by simulation |

A metric of which either side has nothing is no opinion: it has no finding, and does not hold a rollout back. One that
has too little is Inconclusive. No finding at all is Inconclusive.

Worked examples, with the defaults and three windows: a canary that failed 3 of 3 beside a stable with 0 of 57 is
Failed; one that failed 0 of 108 beside 0 of 2052 is Passed, at 0 of 107 it is not yet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import exp, isfinite, log

from imagefleet_operator.plan.rollout_types import AnalysisSpec, Arm, Metric, Moments
from imagefleet_operator.plan.sequential import evidence_above, evidence_within, evidence_worse, mean_radius

FALSE_ABORT = 0.01
"""The chance that an equal canary is ever found worse, in a whole rollout."""

MISS = 0.05
"""The chance that a canary which is worse by a tolerance or more ever passes an analysis."""

MIN_MEASURED = 10
"""Of each side before means are compared at all: a normal approximation of fewer is none."""

UNSEEN_WORSE, UNSEEN_WITHIN = 0.25, 1.0
"""Added to the sum of squared deviations, for what was not seen yet: as if one more value had been 0.5 or 1 away
(Waudby-Smith and Ramdas 2023, section 3.2, add the first to scores of 0 to 1). Otherwise a few equal values would
have no spread at all. A canary passes as if its next picture scored 0: 60 scores of 1 do not yet show that fewer than
5 % are 0."""

LARGEST = 700.0
"""Of a mean: exp of more is no float. NaN and infinity are not within it."""

FLOOR_ALARM = 0.0001
"""The chance of an alarm for a model at its floor, for one series of pictures. Ten times less than what is promised:
the windows in which it is asked for overlap."""

FLOOR_CHECKED = 8
"""Pictures before an alarm: those of one request share their prompt, and four bad ones of one prompt say little of
the next."""


class Outcome(StrEnum):
    """What an analysis found."""

    PASSED = "Passed"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one metric. ``stable`` and ``canary`` are in its own unit: rates and scores 0 to 1, seconds
    per megapixel-step (of latency, the geometric mean)."""

    metric: Metric
    outcome: Outcome
    stable: float | None
    canary: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """All findings, in the order of ``Metric``, and what follows from them together."""

    outcome: Outcome
    findings: tuple[Finding, ...]

    @property
    def message(self) -> str:
        """Of the finding that decided; of all that passed where all did."""
        if self.outcome is Outcome.PASSED:
            return "The canary is no worse than the stable model: " + ", ".join(
                f.metric for f in self.findings
            )
        deciding = (finding.message for finding in self.findings if finding.outcome is self.outcome)
        return next(deciding, "Nothing has been counted of both models yet")


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one metric is judged by."""

    tolerance: float
    least: int
    """Counted on each side before it passes."""
    chance: float
    """Of being found worse where it is equal."""


@dataclass(frozen=True, slots=True)
class _Compared:
    """One metric of both sides."""

    stable: float
    canary: float
    counts: tuple[int, int]
    """Of the stable and of the canary."""
    outcome: Outcome


def judge(spec: AnalysisSpec, stable: Arm, canary: Arm, *, windows: int) -> Judgement:
    """Judge a canary by all metrics that have a tolerance.

    ``windows`` is how many windows the rollout has (its SetWeight steps): the chance of a false abort is divided over
    them.
    """
    chance = FALSE_ABORT / max(1, windows) / max(1, len(spec.tolerances))
    findings = tuple(
        _finding(metric, compared)
        for metric in Metric
        if metric in spec.tolerances
        and (
            compared := _compare(
                metric, stable, canary, _Limits(spec.tolerances[metric], spec.min_requests, chance)
            )
        )
    )
    return Judgement(_together([finding.outcome for finding in findings]), findings)


def below_floor(passed: int, checked: int, floor: float) -> bool:
    """Whether the pass rate is certainly under the floor: the e-process of one rate, with a chance of a false alarm
    of at most ``FLOOR_ALARM``. Without a floor (0) there is none; a floor of 1 allows no bad picture.

    Worked examples: 0 of 8 at 0.95 is; 0 of 7 is too few to say; 95 of 100 at 0.95 is not; 80 of 100 at 0.95 is.
    """
    if checked < FLOOR_CHECKED:
        return False
    return evidence_above(checked - passed, checked, 1 - floor) >= -log(FLOOR_ALARM)


def _together(outcomes: list[Outcome]) -> Outcome:
    if Outcome.FAILED in outcomes:
        return Outcome.FAILED
    if not outcomes or Outcome.INCONCLUSIVE in outcomes:
        return Outcome.INCONCLUSIVE
    return Outcome.PASSED


_BADS: Mapping[Metric, Callable[[Arm], tuple[int, int]]] = {
    Metric.ERROR_RATE: lambda arm: (arm.errors, arm.requests),
    Metric.OUT_OF_MEMORY_RATE: lambda arm: (arm.out_of_memory, arm.requests),
    Metric.SAFETY_PASS_RATE: lambda arm: (arm.unsafe, arm.checked),
}
"""Bad outcomes, and of how many."""

_MOMENTS: Mapping[Metric, Callable[[Arm], Moments]] = {
    Metric.LATENCY: lambda arm: arm.latency,
    Metric.QUALITY_SCORE: lambda arm: arm.quality,
}


def _compare(metric: Metric, stable: Arm, canary: Arm, limits: _Limits) -> _Compared | None:
    """None where either side has nothing, or what it has is no number."""
    if metric in _BADS:
        bads = _BADS[metric]
        return _compare_rates(metric, bads(stable), bads(canary), limits)
    moments = _MOMENTS[metric]
    return _compare_means(metric, moments(stable), moments(canary), limits)


def _compare_rates(
    metric: Metric, stable: tuple[int, int], canary: tuple[int, int], limits: _Limits
) -> _Compared | None:
    if not _counted(*stable) or not _counted(*canary):
        return None
    counts = stable[1], canary[1]
    shares = stable[0] / stable[1], canary[0] / canary[1]
    outcome = _outcome(
        shares[1] - shares[0],
        counts,
        limits,
        worse=lambda: evidence_worse(canary, stable) >= -log(limits.chance),
        within=lambda: evidence_within(canary, stable, limits.tolerance) >= -log(MISS),
    )
    own = (1 - shares[0], 1 - shares[1]) if metric is Metric.SAFETY_PASS_RATE else shares
    return _Compared(*own, counts, outcome)


def _compare_means(metric: Metric, stable: Moments, canary: Moments, limits: _Limits) -> _Compared | None:
    if not _measured(stable) or not _measured(canary):
        return None
    counts = stable.count, canary.count
    means = stable.total / stable.count, canary.total / canary.count
    own = (exp(means[0]), exp(means[1])) if metric is Metric.LATENCY else means
    if min(counts) < MIN_MEASURED:
        return _Compared(*own, counts, Outcome.INCONCLUSIVE)
    harm = means[1] - means[0] if metric is Metric.LATENCY else means[0] - means[1]

    def radius(chance: float, unseen: float) -> float:
        # The larger spread for both: a few canary requests that happen to be alike must not look certain.
        spread = max(_variance(stable, unseen), _variance(canary, unseen))
        variance = spread * (1 / stable.count + 1 / canary.count)
        return mean_radius(variance, min(counts) - 1, limits.tolerance, chance)

    outcome = _outcome(
        harm,
        counts,
        limits,
        worse=lambda: harm > radius(limits.chance, UNSEEN_WORSE),
        within=lambda: harm + radius(MISS, UNSEEN_WITHIN) < limits.tolerance,
    )
    return _Compared(*own, counts, outcome)


def _counted(bad: int, total: int) -> bool:
    return total > 0 and 0 <= bad <= total


def _measured(moments: Moments) -> bool:
    return moments.count > 0 and abs(moments.total) <= LARGEST * moments.count and isfinite(moments.squares)


def _variance(moments: Moments, unseen: float) -> float:
    """Of one value, with a sum of squared deviations for what was not seen yet."""
    deviations = max(0.0, moments.squares - moments.total**2 / moments.count)
    return (deviations + unseen) / (moments.count - 1)


def _outcome(
    harm: float,
    counts: tuple[int, int],
    limits: _Limits,
    *,
    worse: Callable[[], bool],
    within: Callable[[], bool],
) -> Outcome:
    """``worse``: the harm is certainly above 0; ``within``: it is certainly below the tolerance. Asked only where it
    matters."""
    if harm > limits.tolerance / 2 and worse():
        return Outcome.FAILED
    if min(counts) >= limits.least and within():
        return Outcome.PASSED
    return Outcome.INCONCLUSIVE


_WORDS = {
    Outcome.FAILED: "is worse",
    Outcome.PASSED: "is no worse",
    Outcome.INCONCLUSIVE: "is not certain yet",
}


def _finding(metric: Metric, compared: _Compared) -> Finding:
    of_stable, of_canary = compared.counts
    message = (
        f"{metric} {_WORDS[compared.outcome]}: canary {_told(metric, compared.canary)} ({of_canary} counted), "
        f"stable {_told(metric, compared.stable)} ({of_stable} counted)"
    )
    return Finding(metric, compared.outcome, compared.stable, compared.canary, message)


def _told(metric: Metric, value: float) -> str:
    """With its unit, for people."""
    if metric is Metric.LATENCY:
        return f"{value:.3g} s per megapixel-step"
    if metric is Metric.QUALITY_SCORE:
        return f"{value:.3f}"
    return f"{100 * value:.3g} %"
