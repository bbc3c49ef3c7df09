"""The most workers that a budget allows.

A limit holds whatever happens next: a worker costs something for as long as it takes to end, and nobody ends it while
the operator is away. So a worker may be there only while that much is left.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, inf

from imagefleet_operator.plan.spend import DAY
from imagefleet_operator.plan.spend_types import BudgetSpec, Spend

PAUSE_SECONDS = 60.0
"""The operator may be away for this long (a new leader, a restart, an API server that does not answer) without the
limit being exceeded."""
REACT_SECONDS = 15.0
"""From our write until the pod is told to end, and from its end until that is known."""
RISE = 1.5
"""A paced number of workers rises by one only when there is enough for one and a half more: it would go up and down
otherwise."""
_EPSILON = 1e-6
"""Of sums of seconds."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of a pool, as far as their cost is concerned."""

    units: int
    """Accelerators of each."""
    grace: float
    """Seconds that a worker may take to end."""
    staying: int
    """Those that are there or have been asked for, and are not told to end."""
    leaving: tuple[float, ...] = ()
    """When each that is told to end will have ended, in seconds since the epoch."""
    ceiling: int | None = None
    """That in force since earlier today, None where none is."""
    overlap: int = 1
    """Pods that there may be for each worker: 2 where one on a spot node takes over from one on demand."""

    @property
    def ending(self) -> float:
        """Seconds that a worker still costs once the operator wants it to end."""
        return self.grace + REACT_SECONDS


def ceiling(budget: BudgetSpec, spend: Spend, fleet: Fleet, now: float) -> int | None:
    """The most workers that may be asked for; None where only tenants have limits.

    A ceiling that has fallen does not rise again on the same day, or workers would come and go: those of ``throttle``
    may, for its pace leaves room. Worked example: 3,600 s a day, 2,400 s of them spent, one accelerator each, a grace
    of 45 s (60 s to end, 60 s of absence): of 10 workers 10 may stay, for 10 x 120 = 1,200 s are left.
    """
    if budget.limit is None:
        return None
    most = affordable(budget.limit, spend, fleet, now) // fleet.overlap
    before = fleet.ceiling
    if before is not None and (before == 0 or budget.on_exhausted != "throttle"):
        most = min(most, before)
    if budget.on_exhausted == "throttle" and spend.seconds >= budget.reduce_at * budget.limit:
        most = min(most, _paced(budget.limit, spend, fleet, now))
    return most


def affordable(limit: float, spend: Spend, fleet: Fleet, now: float) -> int:
    """The most workers with which neither today's limit nor tomorrow's can be exceeded, though the operator be away.

    What a worker costs after midnight is tomorrow's. Worked examples, with the figures of ``ceiling``: with 1,000 s
    left and 10 workers, 6: 10 x 60 s to end, and 6 x 60 s of absence are 960 s. Without any worker, 8.
    """
    left_today = spend.start + DAY - now
    leaves = [max(0.0, until - now) for until in fleet.leaving]
    stay = fleet.ending + PAUSE_SECONDS
    today = _most(
        (limit - spend.seconds) / fleet.units - sum(min(cost, left_today) for cost in leaves),
        fleet.staying,
        min(fleet.ending, left_today),
        min(stay, left_today),
    )
    tomorrow = _most(
        limit / fleet.units - sum(_over(leaves, left_today)),
        fleet.staying,
        max(0.0, fleet.ending - left_today),
        max(0.0, stay - left_today),
    )
    return min(today, tomorrow)


def _over(costs: Iterable[float], left: float) -> Iterable[float]:
    return (max(0.0, cost - left) for cost in costs)


def _most(left: float, staying: int, end: float, stay: float) -> int:
    """How many of ``staying``, or more, may stay, so that ``stay`` seconds for each of them and ``end`` seconds for
    each of the others are ``left``.

    Worked examples: ``_most(1000, 10, 60, 120)`` is 6, ``_most(1300, 10, 60, 120)`` 10, ``_most(500, 10, 60, 120)`` 0.
    """
    left += _EPSILON
    if left < staying * end:
        return 0
    if left < staying * stay:
        return floor((left - staying * end) / (stay - end))
    return _UNLIMITED if stay <= 0 else min(_UNLIMITED, floor(left / stay))


_UNLIMITED = 2**31 - 1
"""The most that a number of replicas can be."""


def _paced(limit: float, spend: Spend, fleet: Fleet, now: float) -> int:
    """So many workers that what is left lasts until midnight; one while anything is.

    Worked example: 7,200 s left at 22:00 with one accelerator each: 1 worker; 14,400 s: 2.
    """
    left_today = max(1.0, spend.start + DAY - now)
    pace = max(0.0, limit - spend.seconds) / fleet.units / left_today
    before = fleet.ceiling
    if before is not None and 0 < before < pace < before + RISE:
        return before
    return max(1, floor(pace + _EPSILON))


def safe_seconds(budget: BudgetSpec, spend: Spend, fleet: Fleet) -> float:
    """For how long at least the workers there are can all stay: when to look again. ``inf`` where nothing limits
    them."""
    if budget.limit is None or not fleet.staying + len(fleet.leaving):
        return inf
    reserve = fleet.staying * (fleet.ending + PAUSE_SECONDS) + len(fleet.leaving) * fleet.ending
    spare = (budget.limit - spend.seconds) / fleet.units - reserve
    return max(0.0, spare) / (fleet.staying + len(fleet.leaving))
