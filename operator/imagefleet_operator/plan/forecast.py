"""How much work will arrive while a worker starts, learned as it comes; nothing of the future is known.

Four guesses of the rate (GPU-seconds a second, which is the number of busy workers): the mean of a fast window, of a
slow one, of the same time of day before, and of the same time of week before. The forecast is a weighted sum of
them, with the weights that would have been best lately (least squares with forgetting: Ljung 1999, *System
Identification*, section 11.2). So a steady load is forecast by its slow mean, and a restless one follows its fast
one, without a person's doing. What the forecast missed gives its spread: a multiple of the square root of the rate,
since work that arrives at random spreads so.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

PHASES = 48
"""Of a day: half an hour each, as long as habits are sharp."""
RECENT = 0.5
"""Weight of the last day (week) in the daily (weekly) pattern against all before."""
MEMORY_SECONDS = 7_200.0
"""How long a guess' errors count: the weights follow within two hours."""
FIRST = (0.5, 0.5, 0.0, 0.0)
"""Weights before anything was learned. Patterns have to prove themselves."""
TRUST = 50.0
"""How much FIRST counts, in outcomes at a rate of one busy worker: some minutes' worth."""
SPREAD_SECONDS = 10_800.0
"""How long misses of the forecast count for its spread: bursts come a few times in that."""
QUIET = 1.0
"""Busy workers. Added to the rate for the spread: the next caller comes unannounced, however quiet it is."""
SPREAD_BEFORE = 1.0
"""Variance over rate, in GPU-seconds a second, before anything was learned: that of single requests of 60 s at
random in a minute. What was learned outweighs it after SPREAD_SECONDS / 50."""
PRIOR = 0.02


@dataclass(frozen=True, slots=True)
class Forecast:
    """Work to come, in busy workers: the mean, and its standard deviation."""

    rate: float
    deviation: float
    guesses: tuple[float, ...]
    """Fast, slow, daily, weekly; 0 where nothing is known."""


@dataclass(slots=True)
class _Pattern:
    """Mean rates by phase of a period."""

    period: float
    phases: int
    rates: dict[int, float] = field(default_factory=dict)
    phase: int = -1
    seconds: float = 0.0

    def add(self, now: float, seconds: float) -> None:
        """Work that arrived by ``now``."""
        phase = self._phase(now)
        if phase != self.phase:
            self._close()
            self.phase = phase
        self.seconds += seconds

    def at(self, time: float) -> float | None:
        """The rate at that time in the periods before; None where there was none."""
        return self.rates.get(self._phase(time))

    def _phase(self, time: float) -> int:
        return int(time % self.period * self.phases / self.period)

    def _close(self) -> None:
        # The first phase is not known from its begin, and its rate too low: it errs for one period at most.
        if self.phase >= 0:
            rate = self.seconds / (self.period / self.phases)
            before = self.rates.get(self.phase, rate)
            self.rates[self.phase] = RECENT * rate + (1 - RECENT) * before
        self.seconds = 0.0


class _Weights:
    """Weights of guesses by least squares over what was lately. What was long ago fades, back towards FIRST."""

    def __init__(self) -> None:
        size = len(FIRST)
        self.values = list(FIRST)
        self._products = [[0.0] * size for _ in range(size)]
        self._with_outcome = [0.0] * size

    def sum(self, guesses: Sequence[float]) -> float:
        """The forecast, at least 0."""
        return max(0.0, sum(w * g for w, g in zip(self.values, guesses, strict=True)))

    def learn(self, guesses: Sequence[float], came: float, forget: float) -> None:
        """Take over one outcome; what came before counts ``forget`` (0 to 1) as much.

        The outcome counts by 1 / rate, as its variance grows with the rate.
        """
        weight = 1 / (QUIET + sum(guesses) / len(guesses))
        known = range(len(guesses))
        for i in known:
            row = self._products[i]
            self._with_outcome[i] = forget * self._with_outcome[i] + weight * guesses[i] * came
            for k in known:
                row[k] = forget * row[k] + weight * guesses[i] * guesses[k]
        matrix = [[*row, t] for row, t in zip(self._products, self._with_outcome, strict=True)]
        for i in known:
            matrix[i][i] += TRUST
            matrix[i][-1] += TRUST * FIRST[i]
        self.values = _solved(matrix)


def _solved(matrix: list[list[float]]) -> list[float]:
    """Gauss and Jordan. No pivoting: with TRUST on its diagonal the matrix is positive definite."""
    size = len(matrix)
    for i in range(size):
        pivot = matrix[i][i]
        matrix[i] = [x / pivot for x in matrix[i]]
        for k in range(size):
            if k != i and (factor := matrix[k][i]):
                matrix[k] = [x - factor * y for x, y in zip(matrix[k], matrix[i], strict=True)]
    return [row[-1] for row in matrix]


class Forecaster:
    """What was learned of a pool's demand. Changed by ``observe`` alone; time and work are its arguments.

    ``lead`` is how far ahead it looks: the seconds from a decision to a worker that draws.
    """

    def __init__(self, lead: float, fast: float = 60.0, slow: float = 600.0, day: float = 86_400.0) -> None:
        self.lead, self.fast, self.slow = lead, fast, slow
        self._times: list[float] = []
        self._sums: list[float] = []
        self._patterns = (_Pattern(day, PHASES), _Pattern(7 * day, 7 * PHASES))
        self._made: deque[tuple[float, Forecast]] = deque()
        self._weights = _Weights()
        self._missed, self._level = SPREAD_BEFORE * PRIOR, PRIOR
        self.last = Forecast(0.0, math.sqrt(SPREAD_BEFORE * QUIET), (0.0,) * len(FIRST))

    def observe(self, now: float, seconds: float) -> Forecast:
        """Take over the work that arrived since the last time, and look ahead."""
        step = now - self._times[-1] if self._times else 0.0
        self._times.append(now)
        self._sums.append((self._sums[-1] if self._sums else 0.0) + seconds)
        for pattern in self._patterns:
            pattern.add(now, seconds)
        self._learn(now, step)
        self._forget(now)
        self.last = self._look(now)
        self._made.append((now, self.last))
        return self.last

    def rate(self, window: float) -> float:
        """Mean rate of the last ``window`` seconds."""
        if not self._times:
            return 0.0
        at = bisect_right(self._times, self._times[-1] - window)
        return (self._sums[-1] - (self._sums[at - 1] if at else 0.0)) / window

    def _look(self, now: float) -> Forecast:
        guesses = [self.rate(self.fast), self.rate(self.slow)]
        guesses += [pattern.at(now + self.lead) or 0.0 for pattern in self._patterns]
        rate = self._weights.sum(guesses)
        spread = self._missed / self._level
        return Forecast(rate, math.sqrt(spread * (rate + QUIET)), tuple(guesses))

    def _learn(self, now: float, step: float) -> None:
        """Compare what was forecast a lead ago with what arrived since."""
        due = None
        while self._made and self._made[0][0] <= now - self.lead:
            due = self._made.popleft()[1]
        if due is None:
            return
        came = self.rate(self.lead)
        forget = math.exp(-step / MEMORY_SECONDS)
        self._weights.learn(due.guesses, came, forget)
        share = min(1.0, step / SPREAD_SECONDS)
        level = due.rate + QUIET
        self._missed += share * ((due.rate - came) ** 2 + SPREAD_BEFORE * PRIOR - self._missed)
        self._level += share * (level + PRIOR - self._level)

    def _forget(self, now: float) -> None:
        """Drop what no window reaches; in blocks, as each drop copies the rest."""
        if len(self._times) > 64 and self._times[len(self._times) // 2] < now - max(self.slow, self.lead):
            half = len(self._times) // 2
            del self._times[:half], self._sums[:half]
