"""How fast an entry uses up its error budget: 1 is exactly as fast as the SLO allows.

Formula (Beyer et al., *The Site Reliability Workbook*, 2018, chapter 5): burn rate = share of bad outcomes / share
that the SLO allows. Two budgets burn, and the faster counts: failures, of which 1 - ``success_rate`` is allowed, and
slow answers, of which 5 % is, as the SLO's latency is a 95th percentile. Each is told for a short and a long window,
so that a rollout pauses soon, and not for a blip.

Worked example: of 1000 requests 5 failed and 40 were slow; with a success rate of 0.999 and a latency that is
max(0.005 / 0.001, 0.04 / 0.05) = max(5, 0.8) = 5.
"""

from dataclasses import dataclass
from math import inf

from imagefleet_operator.plan.rollout_types import Budget, Slo

MIN_REQUESTS = 20
"""In the short window: of fewer, one bad answer is already as much as the budget of most SLOs."""

SLOW_ALLOWED = 0.05


@dataclass(frozen=True, slots=True)
class Burn:
    """Burn rates of 5 minutes and of 1 hour. None: no opinion."""

    short: float | None
    long: float | None


def burn(slo: Slo, short: Budget, long: Budget) -> Burn:
    """Both burn rates of an entry; ``short`` and ``long`` are the sums over its models and gateways.

    No opinion without a promise, and while the short window has under ``MIN_REQUESTS``: an hour that was bad says
    nothing of a model that nobody asks now.
    """
    if short.requests < MIN_REQUESTS:
        return Burn(None, None)
    return Burn(_rate(slo, short), _rate(slo, long))


def _rate(slo: Slo, budget: Budget) -> float | None:
    if budget.requests <= 0:
        return None
    rates = []
    if slo.success_rate is not None:
        rates.append(_share_of_budget(budget.failed / budget.requests, 1 - slo.success_rate))
    if slo.latency_p95_seconds is not None:
        rates.append(_share_of_budget(budget.slow / budget.requests, SLOW_ALLOWED))
    return max(rates, default=None)


def _share_of_budget(bad: float, allowed: float) -> float:
    """Where nothing is allowed, the first bad answer is infinitely too much."""
    if allowed > 0:
        return bad / allowed
    return inf if bad > 0 else 0.0
