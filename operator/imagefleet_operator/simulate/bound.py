"""What nobody could do with less: a lower bound on GPU-hours, for those who know the future.

Give every second t of a worker that can draw a price y(t) >= 0, such that no worker can earn more than it costs:

    for all s < e:  integral of y from s to e  <=  S + (e - s)

S is what a worker is held before it can draw (start and first load). A worker that can draw from s to e holds S + (e
- s), and earns the prices of the seconds in which it draws, at most the integral. So all workers together hold at
least what all requests pay. A request of c seconds that starts in time pays at least the least integral of y over
[x, x + c] with x from its arrival to ``wait`` seconds later; one that may start late pays at least (1 - SLOPE) c.
Which ones are late is the clairvoyant's choice: the bound takes those off for which that is worth most. That holds
for every y, for workers that come and go at will, any routing, and loads that cost nothing: it is a bound, whatever
is known.

y = 1 gives the busy hours. Better: y = 1 + p' with 0 <= p <= S and p' >= -SLOPE; the condition holds since p(e) -
p(s) <= S. p rises while demand is there (a worker earns its start back) and falls before. The request then pays c +
min(p(x + c) - p(x)), and p is found by subgradient steps: it rises where requests end and falls where they begin.
"""

from bisect import bisect_left, bisect_right, insort
from math import inf

from imagefleet_operator.simulate.trace import Trace

SLOPE = 0.5
"""How fast p may fall. 1 is the most; less lets those that are late pay more."""
ROUNDS = 160
POINTS = 20_000
"""Of the grid, as far as its steps are then 5 to 15 s."""
STEP = 3.0
"""Seconds that p moves in the first rounds where one request more ends than begins; later ones are smaller."""
CHECK = 20
"""Rounds between two evaluations: any p gives a bound, and the best one counts."""


class _Potential:
    """p: linear between grid points ``step`` seconds apart."""

    def __init__(self, start: float, points: int, step: float, most: float) -> None:
        self.start, self.step, self.most = start, step, most
        self.values = [most / 2] * points

    def at(self, time: float) -> float:
        """p(time)."""
        place = (time - self.start) / self.step
        k = int(place)
        low = self.values[k]
        return low + (place - k) * (self.values[k + 1] - low)

    def move(self, direction: list[float], by: float) -> None:
        """A step, then back into the bounds: half from raising what comes later, half from lowering what came
        before."""
        moved = [v + by * d for v, d in zip(self.values, direction, strict=True)]
        fall = SLOPE * self.step
        later, before = moved[:], moved[:]
        for k in range(1, len(moved)):
            later[k] = max(later[k], later[k - 1] - fall)
        for k in range(len(moved) - 2, -1, -1):
            before[k] = min(before[k], before[k + 1] + fall)
        self.values = [min(max((a + b) / 2, 0.0), self.most) for a, b in zip(later, before, strict=True)]


def lower_bound(trace: Trace, spare_seconds: float, wait: float = 30.0, objective: float = 0.99) -> float:
    """GPU-seconds that any policy holds which starts a share of ``objective`` within ``wait`` seconds.

    ``spare_seconds`` is S of the module's proof. At least the seconds of all requests. Worked example: one request
    of 20 s and S of 60 s: between 20 s and the 80 s that one worker holds.
    """
    if not trace:
        return 0.0
    busy = sum(r.seconds for r in trace)
    step = min(max((trace[-1].arrival - trace[0].arrival) / POINTS, 5.0), 15.0)
    margin = max(wait + max(r.seconds for r in trace), spare_seconds / SLOPE) + 2 * step
    start = trace[0].arrival - margin
    potential = _Potential(
        start, int((trace[-1].arrival + 2 * margin - start) / step) + 2, step, spare_seconds
    )
    late = int(len(trace) * (1 - objective) + 1e-9)
    best, momentum = 0.0, [0.0] * len(potential.values)
    for k in range(ROUNDS):
        if k % CHECK == CHECK - 1:
            best = max(best, _worth(trace, potential, wait, late))
        direction = _direction(trace, potential, wait)
        momentum = [0.9 * m + 0.1 * d for m, d in zip(momentum, direction, strict=True)]
        potential.move(momentum, STEP / (1 + k / 30) ** 0.5)
    return busy + best


def best_fit(trace: Trace, spare_seconds: float, wait: float = 30.0) -> float:
    """GPU-seconds of a schedule that knows the future and starts all in time: what can be done with no less than
    ``lower_bound`` is between the two.

    Each request, in order of arrival, goes to the worker that is free last of those that can begin it in time. Where
    even that one would have been idle for longer than a start costs, it has ended, and a new one begins. Worked
    example: requests of 20 s at 0 s and 50 s and S of 60 s: 60 + 20 + 30 + 20 = 130; the second at 110 s: 160.
    """
    free: list[float] = []
    held = 0.0
    for request in trace:
        del free[: bisect_left(free, request.arrival - spare_seconds)]
        place = bisect_right(free, request.arrival + wait)
        free_at = free.pop(place - 1) if place else -inf
        held += min(max(0.0, request.arrival - free_at), spare_seconds) + request.seconds
        insort(free, max(request.arrival, free_at) + request.seconds)
    return held


def _direction(trace: Trace, potential: _Potential, wait: float) -> list[float]:
    """Where p should rise (requests end) and fall (they begin), if each begins when it is cheapest."""
    direction = [0.0] * len(potential.values)
    values, start, step = potential.values, potential.start, potential.step
    starts = range(int(wait / step) + 1)
    for request in trace:
        begin = int((request.arrival - start) / step + 0.5)
        length = int(request.seconds / step + 0.5)
        at = min((values[begin + k + length] - values[begin + k], begin + k) for k in starts)[1]
        direction[at + length] += 1
        direction[at] -= 1
    return direction


def _worth(trace: Trace, potential: _Potential, wait: float, late: int) -> float:
    """What requests pay beyond their seconds, ``late`` of them at their least. Exact: p is linear between grid
    points, so the least is where a begin or an end meets one, or at the earliest or latest begin."""
    paid = [_paid(r.arrival, r.seconds, potential, wait) for r in trace]
    lost = sorted((p + SLOPE * r.seconds for p, r in zip(paid, trace, strict=True)), reverse=True)
    return sum(paid) - sum(lost[:late])


def _paid(arrival: float, seconds: float, potential: _Potential, wait: float) -> float:
    begins = [arrival, arrival + wait]
    for first, shift in ((arrival, 0.0), (arrival + seconds, seconds)):
        place = int((first - potential.start) / potential.step) + 1
        while (begin := potential.start + place * potential.step - shift) < arrival + wait:
            begins.append(begin)
            place += 1
    return min(potential.at(b + seconds) - potential.at(b) for b in begins)
