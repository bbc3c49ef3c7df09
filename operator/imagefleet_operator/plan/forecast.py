"""How much work will arrive while a worker starts, learned as it comes; nothing of the future is known.

Four guesses of the rate (GPU-seconds a second, which is the number of busy workers): the mean of a fast window, of a
slow one, of the same time of day before, and of the same time of week before. The forecast is a weighted sum of them, with
the weights that would have been best lately (recursive least squares with forgetting: Ljung 1999, *System Identification*,
section 11.2). So a steady load is forecast by its slow mean, and a restless one follows its fast one, without a person's
doing. What the forecast missed gives its spread: a multiple of the square root of the rate, since work that arrives at
random spreads so.
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
TRUST = 50.0
"""How much the weights before anything was learned count, in squared busy workers: a minute's worth at one worker."""
SPREAD_SECONDS = 3_600.0
"""How long misses of the forecast count for its spread."""
QUIET = 0.5
"""Busy workers. Added to the rate for the spread: the next caller comes unannounced, however quiet it is."""
SMALL = 5.0
"""The least that what was learned counts, as TRUST."""
SPREAD_BEFORE = 1.0
"""Variance over rate, in GPU-seconds a second, before anything was learned: that of single requests of 60 s at random in
a minute. What was learned outweighs it after SPREAD_SECONDS / 50."""
PRIOR = 0.02


@dataclass(frozen=True, slots=True)
class Forecast:
    """Work to come, in busy workers: the mean, and its standard deviation."""

    rate: float
    deviation: float
    guesses: tuple[float, ...]
    """Fast, slow, daily, weekly; those that nothing is known for yet are left out from the end."""


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
    """Weights of guesses by recursive least squares. Unknown guesses are 0 and leave their weight as it is."""

    def __init__(self, first: Sequence[float]) -> None:
        self.values = list(first)
        size = len(first)
        self._inverse = [[1 / TRUST if i == k else 0.0 for k in range(size)] for i in range(size)]

    def sum(self, guesses: Sequence[float]) -> float:
        """The forecast, at least 0."""
        return max(0.0, sum(w * g for w, g in zip(self.values, guesses, strict=False)))

    def learn(self, guesses: Sequence[float], came: float, forget: float) -> None:
        """Take over one outcome; what came before counts ``forget`` (0 to 1) as much.

        The outcome counts by 1 / rate, as its variance grows with the rate.
        """
        known = range(len(guesses))
        keep = forget * (QUIET + sum(guesses) / len(guesses))
        gain = [sum(self._inverse[i][k] * guesses[k] for k in known) for i in known]
        scale = keep + sum(g * x for g, x in zip(gain, guesses, strict=True))
        missed = came - sum(self.values[i] * guesses[i] for i in known)
        for i in known:
            self.values[i] += gain[i] / scale * missed
            for k in known:
                self._inverse[i][k] = (self._inverse[i][k] - gain[i] * gain[k] / scale) / forget
            # Without news uncertainty would grow without bound, and the next news would overturn everything.
            self._inverse[i][i] = min(self._inverse[i][i], 1 / SMALL)


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
        self._weights = {2 + k: _Weights([1 / (2 + k)] * (2 + k)) for k in range(1 + len(self._patterns))}
        self._missed, self._level = SPREAD_BEFORE * PRIOR, PRIOR
        self.last = Forecast(0.0, math.sqrt(SPREAD_BEFORE * QUIET), (0.0, 0.0))

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
        for pattern in self._patterns:
            known = pattern.at(now + self.lead)
            if known is None:
                break
            guesses.append(known)
        rate = self._weights[len(guesses)].sum(guesses)
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
        self._weights[len(due.guesses)].learn(due.guesses, came, forget)
        share = min(1.0, step / SPREAD_SECONDS)
        level = due.rate + QUIET
        self._missed += share * ((due.rate - came) ** 2 + SPREAD_BEFORE * PRIOR - self._missed)
        self._level += share * (level + PRIOR - self._level)

    def _forget(self, now: float) -> None:
        """Drop what no window reaches; in blocks, as each drop copies the rest."""
        if len(self._times) > 64 and self._times[len(self._times) // 2] < now - max(self.slow, self.lead):
            half = len(self._times) // 2
            del self._times[:half], self._sums[:half]
