"""How much work will arrive while a worker starts, learned as it comes; nothing of the future is known.

Four guesses of the rate (GPU-seconds a second, which is the number of busy workers): the mean of a fast window, of a
slow one, of the same time of day before, and of the same time of week before. The forecast is a weighted sum of
them, with the weights that would have been best lately (least squares with forgetting: Ljung 1999, *System
Identification*, section 11.2; none negative). So a steady load is forecast by its slow mean, and a restless one
follows its fast one, without a person's doing.

What the forecast missed gives its spread in the same way: the square of a miss is a weighted sum of 1, the fast and
the slow mean. Work that arrives at random spreads as the root of its rate; callers who come with many requests at once
spread more, and after a busy time more than in a quiet night. The weights say how much.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PHASES = 48
"""Of a day: half an hour each, as long as habits are sharp."""
RECENT = 0.5
"""Weight of the last day (week) in the daily (weekly) pattern against all before."""
MEMORY_SECONDS = 7_200.0
"""How long a guess' errors count: the weights follow within two hours."""
FIRST = (0.5, 0.5, 0.0, 0.0)
"""Weights before anything was learned. Patterns have to prove themselves."""
TRUST = 250.0
"""How much weights before anything was learned count, in seconds at a rate of one busy worker."""
QUIET = 1.0
"""Busy workers, added to the rate where an outcome counts by 1 / rate, as its variance grows with the rate (and that
of its square with the square of the rate)."""
SPREAD_SECONDS = 86_400.0
"""How long misses of the forecast count for its spread: bursts are rare, and a day has its busy hours."""
SPREAD_FIRST = (1.0, 0.5, 0.5)
"""Variance for 1, the fast and the slow mean, before anything was learned, in busy workers: single requests of 60 s at
random in a minute, and the next caller comes unannounced, however quiet it is."""
SPREAD_LEAST = 0.1
"""Variance that is left after the quietest day."""

Learned = Mapping[str, Any]
"""What was learned, as JSON has it."""


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

    def learned(self) -> str:
        """The rates by phase, with a comma between them; nothing for one that is not known."""
        return ",".join(
            f"{self.rates[phase]:.3g}" if phase in self.rates else "" for phase in range(self.phases)
        )

    def restore(self, learned: str) -> None:
        """Take over what ``learned`` gave. Raises ValueError where it is of another form."""
        told = learned.split(",")
        if len(told) != self.phases:
            raise ValueError(f"{len(told)} phases instead of {self.phases}")
        self.rates = {phase: _finite(rate) for phase, rate in enumerate(told) if rate}

    def _phase(self, time: float) -> int:
        return int(time % self.period * self.phases / self.period)

    def _close(self) -> None:
        # The first phase is not known from its begin, and its rate too low: it errs for one period at most.
        if self.phase >= 0:
            rate = self.seconds / (self.period / self.phases)
            before = self.rates.get(self.phase, rate)
            self.rates[self.phase] = RECENT * rate + (1 - RECENT) * before
        self.seconds = 0.0


def _finite(value: str | float) -> float:
    """Raises ValueError where it is no number, or none that can have been learned."""
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{value} was never learned")
    return number


class _Fit:
    """Weights of features, none negative, by least squares over what was lately. What was long ago fades, back towards
    ``first``.

    One round of coordinate descent each time (Franc, Hlaváč and Navara 2005): that is every few seconds, and the best
    weights move little meanwhile. Worked example: where 2 came of features (1, 0) and 6 of (1, 2), again
    and again, the weights become 2 and 2.
    """

    def __init__(self, first: Sequence[float], memory_seconds: float) -> None:
        self.weights = list(first)
        self._first = first
        self._memory = memory_seconds
        self._products = [[0.0] * len(first) for _ in first]
        self._with_outcome = [0.0] * len(first)

    def learned(self) -> list[list[float]]:
        """The weights, and what they follow from, seven significant digits of each number."""
        rows = (self.weights, self._with_outcome, *self._products)
        return [[float(f"{x:.7g}") for x in row] for row in rows]

    def restore(self, learned: Sequence[Sequence[float]]) -> None:
        """Take over what ``learned`` gave. Raises ValueError and TypeError where it is of another form."""
        rows = [[_finite(x) for x in row] for row in learned]
        size = len(self._first)
        if [len(row) for row in rows] != [size] * (size + 2):
            raise ValueError("a fit of other features")
        self.weights, self._with_outcome, *self._products = rows

    def sum(self, features: Sequence[float]) -> float:
        """What is to be expected, at least 0."""
        return sum(w * f for w, f in zip(self.weights, features, strict=True))

    def learn(self, features: Sequence[float], came: float, weight: float, step: float) -> None:
        """Take over what came in the ``step`` seconds since the last time; it counts as much as it is long."""
        forget, weight = math.exp(-step / self._memory), weight * step
        for i, feature in enumerate(features):
            row, by = self._products[i], weight * feature
            self._with_outcome[i] = forget * self._with_outcome[i] + by * came
            for k, other in enumerate(features):
                row[k] = forget * row[k] + by * other
        for i, row in enumerate(self._products):
            others = sum(p * w for p, w in zip(row, self.weights, strict=True)) - row[i] * self.weights[i]
            best = (self._with_outcome[i] + TRUST * self._first[i] - others) / (row[i] + TRUST)
            self.weights[i] = max(0.0, best)


class Forecaster:
    """What was learned of a pool's demand. Changed by ``observe`` alone; time and work are its arguments.

    ``lead`` is how far ahead it looks: the seconds from a decision to a worker that draws.
    """

    def __init__(self, lead: float, fast: float = 60.0, slow: float = 600.0, day: float = 86_400.0) -> None:
        self.lead, self.fast, self.slow = lead, fast, slow
        self._began = 0.0
        self._times: list[float] = []
        self._sums: list[float] = []
        self._patterns = (_Pattern(day, PHASES), _Pattern(7 * day, 7 * PHASES))
        self._made: deque[tuple[float, Forecast]] = deque()
        self._means = _Fit(FIRST, MEMORY_SECONDS)
        self._spread = _Fit(SPREAD_FIRST, SPREAD_SECONDS)
        self.last = self._look(0.0)

    def observe(self, now: float, seconds: float) -> Forecast:
        """Take over the work that arrived since the last time, and look ahead."""
        step = now - self._times[-1] if self._times else 0.0
        if not self._times:
            self._began = now
        self._times.append(now)
        self._sums.append((self._sums[-1] if self._sums else 0.0) + seconds)
        for pattern in self._patterns:
            pattern.add(now, seconds)
        self._learn(now, step)
        self._forget(now)
        self.last = self._look(now)
        self._made.append((now, self.last))
        return self.last

    def expected(self, start: float, end: float) -> float:
        """The largest rate that the daily and the weekly pattern know from that time to that; 0 where neither does."""
        step = self._patterns[0].period / self._patterns[0].phases
        times = [start + n * step for n in range(int((end - start) / step) + 1)] + [end]
        return max(pattern.at(time) or 0.0 for pattern in self._patterns for time in times)

    def learned(self) -> Learned:
        """What a forecaster that starts anew goes on from."""
        return {
            "patterns": [pattern.learned() for pattern in self._patterns],
            "means": self._means.learned(),
            "spread": self._spread.learned(),
        }

    def restore(self, learned: Learned) -> None:
        """Take over what ``learned`` gave. Raises KeyError, TypeError and ValueError where it is of another form; then
        what was learned is lost."""
        for pattern, told in zip(self._patterns, learned["patterns"], strict=True):
            pattern.restore(told)
        self._means.restore(learned["means"])
        self._spread.restore(learned["spread"])

    def rate(self, window: float) -> float:
        """Mean rate of the last ``window`` seconds, or of those since the first was observed, at least ``fast``."""
        if not self._times:
            return 0.0
        window = min(window, max(self.fast, self._times[-1] - self._began))
        at = bisect_right(self._times, self._times[-1] - window)
        return (self._sums[-1] - (self._sums[at - 1] if at else 0.0)) / window

    def _look(self, now: float) -> Forecast:
        patterns = (pattern.at(now + self.lead) or 0.0 for pattern in self._patterns)
        guesses = (self.rate(self.fast), self.rate(self.slow), *patterns)
        variance = max(SPREAD_LEAST, self._spread.sum(_spreading(guesses)))
        return Forecast(self._means.sum(guesses), math.sqrt(variance), guesses)

    def _learn(self, now: float, step: float) -> None:
        """Compare what was forecast a lead ago with what arrived since."""
        due = None
        while self._made and self._made[0][0] <= now - self.lead:
            due = self._made.popleft()[1]
        if due is None:
            return
        came = self.rate(self.lead)
        level = QUIET + sum(due.guesses) / len(due.guesses)
        self._means.learn(due.guesses, came, 1 / level, step)
        self._spread.learn(_spreading(due.guesses), (due.rate - came) ** 2, level**-2, step)

    def _forget(self, now: float) -> None:
        """Drop what no window reaches; in blocks, as each drop copies the rest."""
        if len(self._times) > 64 and self._times[len(self._times) // 2] < now - max(self.slow, self.lead):
            half = len(self._times) // 2
            del self._times[:half], self._sums[:half]


def _spreading(guesses: Sequence[float]) -> tuple[float, float, float]:
    """What the spread depends on: that of the next caller, who comes whatever there was, and how busy it is."""
    return 1.0, guesses[0], guesses[1]
