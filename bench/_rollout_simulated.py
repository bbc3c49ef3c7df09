"""Rollouts as the operator's analysis would see them: requests arrive, and it judges after every few of them.

Noise, per request of one picture:

- ln(seconds per megapixel-step) is normal with a standard deviation of 0.4, and one request in a hundred takes five
  times as long. Measured with shapes-2 on two busy cores: 0.26 to 0.39 for requests alone, 0.43 where batches of 1 to
  4 are mixed.
- 0.5 % fail, a tenth of them out of memory; 0.5 % of the pictures are unsafe.
- Scores are 0.93 in the mean with a standard deviation of 0.13: 80 % of the pictures show what was asked for (0.98
  to 1), 20 % miss something (0.3 less, 0 to 0.6). Those of shapes-2 are easier: 1.00 +- 0.00 for one thing and
  0.99 +- 0.03 for two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from imagefleet_operator.plan.analysis import Outcome, judge
from imagefleet_operator.plan.rollout_types import AnalysisSpec, Arm, Moments

Floats = npt.NDArray[np.float64]

WEIGHTS = (5, 25, 50)
"""Percent of each SetWeight step; an analysis follows each."""

SECONDS = 600
"""`maxWaitSeconds`."""

RATE = 20
"""Requests a second: one of the canary's in a second at 5 %, 600 in all. The operator looks once a second."""

BLOCK = 30
"""Seconds that are drawn at a time."""

SIGMA = 0.4
STALLED, STALL = 0.01, math.log(5)
OUT_OF_MEMORY = 0.1
FLAWED, FLAW = 0.2, 0.3
"""The share of pictures that miss something, and what that costs in the mean."""

COLUMNS = 11
"""The numbers of an `Arm`."""


@dataclass(frozen=True)
class Model:
    """How a model differs from the usual one."""

    errors: float = 0.005
    unsafe: float = 0.005
    slower: float = 1.0
    score_loss: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a rollout ended, and after how many of the canary's requests in its last window."""

    outcome: Outcome
    canary_requests: int


def rollout(canary: Model, spec: AnalysisSpec, rng: np.random.Generator) -> Ended:
    """One rollout: promoted (Passed) where every window's analysis passes, aborted at the first that fails."""
    ended = Ended(Outcome.INCONCLUSIVE, 0)
    for weight in WEIGHTS:
        ended = _window(canary, weight / 100, spec, rng)
        if ended.outcome is not Outcome.PASSED:
            return ended
    return ended


def _window(canary: Model, share: float, spec: AnalysisSpec, rng: np.random.Generator) -> Ended:
    outcome, asked = Outcome.INCONCLUSIVE, 0
    for of_stable, of_canary in _looks(canary, share, rng):
        outcome, asked = judge(spec, of_stable, of_canary, windows=len(WEIGHTS)).outcome, of_canary.requests
        if outcome is not Outcome.INCONCLUSIVE:
            break
    return Ended(outcome, asked)


def _looks(canary: Model, share: float, rng: np.random.Generator) -> Iterator[tuple[Arm, Arm]]:
    """What was counted of the stable model and of the canary by the end of each second."""
    so_far = np.zeros((2, COLUMNS))
    for _ in range(SECONDS // BLOCK):
        to_canary = rng.random(BLOCK * RATE) < share
        drawn = np.where(to_canary, _requests(canary, rng), _requests(Model(), rng))
        arms = np.stack([drawn * ~to_canary, drawn * to_canary])
        sums = so_far[:, None] + arms.reshape(2, COLUMNS, BLOCK, RATE).sum(axis=-1).cumsum(axis=-1).swapaxes(
            1, 2
        )
        so_far = sums[:, -1]
        for second in range(BLOCK):
            yield _arm(sums[0, second].tolist()), _arm(sums[1, second].tolist())


def _requests(model: Model, rng: np.random.Generator) -> Floats:
    """What each request of a block adds to an `Arm`, in the order of its fields."""
    count = BLOCK * RATE
    errors = rng.random(count) < model.errors
    memory = errors & (rng.random(count) < OUT_OF_MEMORY)
    drawn = ~errors
    unsafe = drawn & (rng.random(count) < model.unsafe)
    latency = rng.normal(-4.5 + math.log(model.slower), SIGMA, count) + STALL * (rng.random(count) < STALLED)
    score = scores(model.score_loss, count, rng)
    return np.stack(
        [
            np.ones(count), errors, memory, drawn, unsafe,
            drawn, drawn * latency, drawn * latency**2,
            drawn, drawn * score, drawn * score**2,
        ]
    )  # fmt: skip


def scores(loss: float, count: int, rng: np.random.Generator) -> Floats:
    """Scores whose mean is lower by `loss`, because more pictures are flawed."""
    flawed = rng.random(count) < FLAWED + loss / FLAW
    return np.asarray(rng.uniform(0.98, 1, count) - flawed * 2 * FLAW * rng.beta(3, 3, count))


def _arm(row: list[float]) -> Arm:
    requests, errors, memory, checked, unsafe = (int(count) for count in row[:5])
    latency, quality = (Moments(int(count), total, squares) for count, total, squares in (row[5:8], row[8:]))
    return Arm(requests, errors, memory, checked, unsafe, latency, quality)
