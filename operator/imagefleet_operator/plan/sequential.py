"""Tests that may be looked at after every request: evidence that holds at whatever moment one stops.

Rates are judged by e-processes, exact for any counts and any division of the traffic. For a hypothesis H and any
prior over the rates, E = (likelihood of what was counted, averaged over the prior) / (its largest likelihood under H)
is at most a martingale that begins at 1, so under H it *ever* reaches 1/a with a chance of at most a (Ville 1939; the
ratio with the maximum below is universal inference, Wasserman, Ramdas and Balakrishnan 2020, section 8). All
functions return ln E.

Means are judged by asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021, proposition
B.1).
"""

from math import exp, expm1, inf, lgamma, log, log1p, sqrt

PRIOR_BADS = 0.5
PRIOR_GOODS = (0.5, 50.0)
"""The prior of a rate of bad outcomes: half Beta(0.5, 0.5) (Jeffreys), half Beta(0.5, 50), whose mean is 1 %. Rates
of failures are mostly small; with the second half, evidence for a small rate costs about two nats less."""

HALVINGS = 30
"""Of the interval in which the likeliest rate lies, to 1e-9 of it."""


def log_marginal(bad: int, total: int) -> float:
    """ln of the likelihood of ``bad`` of ``total`` in a given order, averaged over the prior.

    Formula: B(a + bad, b + total - bad) / B(a, b) for Beta(a, b), and the mean of the two halves. Worked example: 1
    of 1 is ln((0.5 + 0.5 / 50.5) / 2) = -1.3667.
    """
    halves = [
        _log_beta(PRIOR_BADS + bad, goods + total - bad) - _log_beta(PRIOR_BADS, goods)
        for goods in PRIOR_GOODS
    ]
    top = max(halves)
    return top + log(sum(exp(half - top) for half in halves) / len(halves))


def evidence_above(bad: int, total: int, limit: float) -> float:
    """ln E against "the rate is at most ``limit``".

    Formula: ``log_marginal(bad, total)`` - ln(limit^bad (1 - limit)^(total - bad)); not above 0 where the share is
    within the limit.
    Worked example: 3 of 3 with limit 0.05 is -1.8563 + 8.9872 = 7.1309.
    """
    return log_marginal(bad, total) - max(
        _log_likelihood(bad, total, limit), _log_likelihood(bad, total, min(limit, bad / total))
    )


def evidence_worse(canary: tuple[int, int], stable: tuple[int, int]) -> float:
    """ln E against "the canary's rate is at most the stable's"; each side is (bad, total), totals at least 1.

    Formula: ln m(canary) + ln m(stable) - ln of the largest likelihood with the canary's rate at most the stable's:
    both at the shared rate (bad of both / total of both) where the canary's share is the larger. Worked example: 3 of
    3 against 0 of 57 is 9.0834; -inf where the canary's share is not the larger.
    """
    (bad, total), (bad_stable, total_stable) = canary, stable
    if bad * total_stable <= bad_stable * total:
        return -inf
    shared = (bad + bad_stable) / (total + total_stable)
    averaged = log_marginal(bad, total) + log_marginal(bad_stable, total_stable)
    return averaged - _log_likelihood(bad + bad_stable, total + total_stable, shared)


def evidence_within(canary: tuple[int, int], stable: tuple[int, int], margin: float) -> float:
    """ln E against "the canary's rate is above the stable's by ``margin`` or more"; each side is (bad, total), totals
    at least 1.

    Formula: ln m(both together) - max over p of ln(L(canary; p + margin) L(stable; p)). The average is over one rate
    for both: evidence gathers where they are alike. Worked example: 0 of 108 against 0 of 2052 with margin 0.05 is
    3.0275, just above ln 20; -inf where the canary's share is above the stable's by the margin.
    """
    (bad, total), (bad_stable, total_stable) = canary, stable
    if bad / total - bad_stable / total_stable >= margin:
        return -inf
    p = _likeliest(canary, stable, margin)
    apart = _log_likelihood(bad, total, p + margin) + _log_likelihood(bad_stable, total_stable, p)
    return log_marginal(bad + bad_stable, total + total_stable) - apart


def mean_radius(variance: float, degrees: int, scale: float, chance: float) -> float:
    """How far an estimate may be off on one side, at any time, with that chance of ever being further off.

    ``variance`` is the estimate's own (sum of s^2/n), ``scale`` the size of difference that matters (there the bound
    is narrowest).
    Formula: z^2 = 2 (1 + v) ln(1 + sqrt(1 + 1/v) / (2 chance)) with v = variance / scale^2, the one-sided normal
    mixture; the difference of two means is a Brownian motion in its information 1/variance however the traffic is
    divided (Jennison and Turnbull 1997). As the variance is estimated, t^2 = degrees (exp(z^2 / degrees) - 1) takes
    the place of z^2: the same likelihood ratio for Student's statistic (Lai 1976). Worked example: variance 0.0001,
    scale 0.05, chance 0.01: v = 0.04, z^2 = 11.53, radius 0.0340 with endless degrees, 0.0361 with 49, 0.0484 with 9.
    """
    v = variance / scale**2
    squared = 2 * (1 + v) * log1p(sqrt(1 + 1 / v) / (2 * chance))
    if squared > 100 * degrees:
        return inf
    return sqrt(variance * degrees * expm1(squared / degrees))


def _likeliest(canary: tuple[int, int], stable: tuple[int, int], margin: float) -> float:
    """The stable's rate p for which p and p + margin together are likeliest, 0 to 1 - margin.

    ln L is concave in p: the interval in which its slope turns is halved again and again. One end of it is the answer
    where the slope never turns.
    """
    if margin >= 1:
        return 0.0
    (bad, total), (bad_stable, total_stable) = canary, stable
    low, high = 0.0, 1 - margin
    for _ in range(HALVINGS):
        p = (low + high) / 2
        slope = (
            bad / (p + margin)
            - (total - bad) / (1 - p - margin)
            + bad_stable / p
            - (total_stable - bad_stable) / (1 - p)
        )
        low, high = (p, high) if slope > 0 else (low, p)
    return (low + high) / 2


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _log_likelihood(bad: int, total: int, rate: float) -> float:
    """ln(rate^bad (1 - rate)^(total - bad)), with 0^0 = 1."""
    return _times_log(bad, rate) + _times_log(total - bad, 1 - rate)


def _times_log(count: int, rate: float) -> float:
    if count == 0:
        return 0.0
    return count * log(rate) if rate > 0 else -inf
