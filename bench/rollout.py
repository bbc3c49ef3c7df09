"""Rollouts: how often the analysis is wrong, by simulation (`ROLLOUTS=` sets how many per case), and on the whole fleet
how fast callers are back at the stable model and how exact their shares are.

`false_abort_rate` is the share of equal canaries that are aborted; its baseline is what is promised, at most 1 %.
`false_abort_rate_noise` is the share where an equal one measures 10 % slower all the time, by the machine's doing: no
promise holds for it, and it says how little of that a measurement may have in it.
`miss_rate_*` is the share of bad canaries that are promoted, `miss_rate` that of all; their baseline is the 5 % that
is promised. What is neither waits, and is held back by `onInconclusive: Pause`: `*_undecided`.
`switch_seconds` is from an abort to the last picture that any caller got of the canary, the longest of five; baseline:
the 2 s that are promised. `split_error` is the largest error of a share in points, over 1,000 requests at two gateways
at 5 and at 50 %; baseline: 1.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from statistics import median

import numpy as np
from imagefleet_operator.plan.analysis import FALSE_ABORT, MISS, Outcome
from imagefleet_operator.plan.rollout_types import AnalysisSpec

from bench._rollout_measured import measured
from bench._rollout_simulated import Ended, Model, rollout
from bench.report import figure, progress
from shapes.evaluate import Accuracy

ROLLOUTS = int(os.environ.get("ROLLOUTS", "2000"))
SEED = 0


@dataclass(frozen=True)
class Case:
    """A kind of canary, and the outcome that would be wrong for it."""

    name: str
    canary: Model
    wrong: Outcome
    figure: str
    promised: float


CASES = (
    Case("equal", Model(), Outcome.FAILED, "false_abort_rate", FALSE_ABORT),
    Case("noise", Model(slower=1.1), Outcome.FAILED, "false_abort_rate_noise", FALSE_ABORT),
    Case("slow", Model(slower=2), Outcome.PASSED, "miss_rate_slow", MISS),
    Case("slow_by_a_quarter", Model(slower=1.25), Outcome.PASSED, "miss_rate_slow_by_a_quarter", MISS),
    Case("quality", Model(score_loss=0.05), Outcome.PASSED, "miss_rate_quality", MISS),
    Case("errors", Model(errors=0.055), Outcome.PASSED, "miss_rate_errors", MISS),
)


def simulated() -> None:
    """Simulate and print every case, and the misses of all bad canaries together."""
    missed = 0
    for case in CASES:
        rng = np.random.default_rng(SEED)
        wrong = report(case, [rollout(case.canary, AnalysisSpec(), rng) for _ in range(ROLLOUTS)])
        missed += wrong if case.wrong is Outcome.PASSED else 0
    bad_cases = sum(case.wrong is Outcome.PASSED for case in CASES)
    share("miss_rate", missed, bad_cases * ROLLOUTS, MISS)


def report(case: Case, ended: list[Ended]) -> int:
    """Print how often the case went wrong, and how long its verdicts took. How many went wrong."""
    outcomes = Counter(each.outcome for each in ended)
    share(case.figure, outcomes[case.wrong], len(ended), case.promised)
    figure(f"{case.name}_undecided", outcomes[Outcome.INCONCLUSIVE] / len(ended), "ratio")
    decided = [each.canary_requests for each in ended if each.outcome is not Outcome.INCONCLUSIVE]
    if decided:
        figure(f"{case.name}_canary_requests", median(decided), "requests")
    progress(f"{case.name}: {dict(outcomes)} of {len(ended)} rollouts")
    return outcomes[case.wrong]


def share(name: str, wrong: int, count: int, promised: float) -> None:
    """Print a share and its 95 % interval."""
    measured = Accuracy(wrong, count)
    low, high = measured.interval()
    figure(name, measured.share, "ratio", promised)
    figure(f"{name}_low", max(0.0, low), "ratio")  # of none it is 0 but for rounding
    figure(f"{name}_high", high, "ratio")


def main() -> None:
    """All parts."""
    simulated()
    measured()


if __name__ == "__main__":
    main()
