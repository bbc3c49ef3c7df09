"""Evidence that may be looked at after every request."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.sequential import (
    evidence_above,
    evidence_within,
    evidence_worse,
    log_marginal,
    mean_radius,
)

SERIES = 400
CHANCE = 0.1
"""Large, so that a few hundred series would show a bound that is crossed more often than it says."""


@pytest.mark.parametrize(("bad", "total", "want"), [(1, 1, -1.3667), (3, 3, -1.8563), (0, 1, -0.2943)])
def test_the_likelihood_averaged_over_the_prior(bad: int, total: int, want: float) -> None:
    assert log_marginal(bad, total) == pytest.approx(want, abs=1e-4)


@given(st.integers(0, 50))
def test_the_averaged_likelihoods_of_all_orders_are_one(total: int) -> None:
    orders = (math.comb(total, bad) * math.exp(log_marginal(bad, total)) for bad in range(total + 1))
    assert sum(orders) == pytest.approx(1)


@pytest.mark.parametrize(
    ("bad", "total", "limit", "want"),
    [(3, 3, 0.05, 7.1309), (1, 100, 0.05, None), (1, 1000, 0.0, math.inf), (0, 1000, 0.0, None)],
)
def test_evidence_that_a_rate_is_above_a_limit(
    bad: int, total: int, limit: float, want: float | None
) -> None:
    found = evidence_above(bad, total, limit)
    assert found <= 0 if want is None else found == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(
    ("canary", "stable", "want"),
    [((3, 3), (0, 57), 9.0834), ((0, 3), (3, 57), -math.inf), ((1, 10), (10, 100), -math.inf)],
)
def test_evidence_that_one_rate_is_above_another(
    canary: tuple[int, int], stable: tuple[int, int], want: float
) -> None:
    assert evidence_worse(canary, stable) == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(
    ("canary", "stable", "margin", "want"),
    [
        ((0, 108), (0, 2052), 0.05, 3.0275),
        ((6, 100), (0, 100), 0.05, -math.inf),
        ((0, 1), (0, 1), 1.0, math.inf),
    ],
)
def test_evidence_that_one_rate_is_within_a_margin_of_another(
    canary: tuple[int, int], stable: tuple[int, int], margin: float, want: float
) -> None:
    assert evidence_within(canary, stable, margin) == pytest.approx(want, abs=1e-4)


@given(st.integers(1, 200), st.integers(1, 200), st.data(), st.floats(0.01, 0.99), st.floats(0.0, 1.0))
def test_the_evidence_is_against_the_likeliest_rates_that_are_a_margin_apart(
    total: int, total_stable: int, data: st.DataObject, margin: float, where: float
) -> None:
    bad, bad_stable = data.draw(st.integers(0, total)), data.draw(st.integers(0, total_stable))
    found = evidence_within((bad, total), (bad_stable, total_stable), margin)
    p = where * (1 - margin)

    def likelihood(bads: int, goods: int, rate: float) -> float:
        return float(rate**bads * (1 - rate) ** goods)

    other = likelihood(bad, total - bad, min(p + margin, 1.0)) * likelihood(
        bad_stable, total_stable - bad_stable, p
    )
    if other > 0:
        against_other = log_marginal(bad + bad_stable, total + total_stable) - math.log(other)
        assert found <= against_other + 1e-6


@pytest.mark.parametrize(("degrees", "want"), [(10**9, 0.0340), (49, 0.0361), (9, 0.0484)])
def test_the_radius_of_a_mean(degrees: int, want: float) -> None:
    assert mean_radius(0.0001, degrees, 0.05, 0.01) == pytest.approx(want, abs=1e-4)


def test_a_mean_of_which_nothing_is_known_has_no_radius() -> None:
    assert mean_radius(1e6, 9, 0.05, 0.01) == math.inf


def _chance(bad: int, total: int, rate: float) -> float:
    """Of so many bad outcomes, the binomial one."""
    return float(math.comb(total, bad) * rate**bad * (1 - rate) ** (total - bad))


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.floats(0, 1))
def test_evidence_against_a_limit_that_holds_is_at_most_one_in_the_mean(
    total: int, limit: float, part: float
) -> None:
    mean = sum(
        _chance(bad, total, part * limit) * math.exp(evidence_above(bad, total, limit))
        for bad in range(total + 1)
    )
    assert mean <= 1 + 1e-9


@given(st.integers(1, 25), st.integers(1, 25), st.floats(0, 1), st.floats(0, 1))
def test_evidence_against_a_canary_that_is_no_worse_is_at_most_one_in_the_mean(
    total: int, total_stable: int, rate: float, part: float
) -> None:
    mean = sum(
        _chance(bad, total, part * rate)
        * _chance(bad_stable, total_stable, rate)
        * math.exp(evidence_worse((bad, total), (bad_stable, total_stable)))
        for bad in range(total + 1)
        for bad_stable in range(total_stable + 1)
    )
    assert mean <= 1 + 1e-9


@given(st.integers(1, 15), st.integers(1, 15), st.floats(0.01, 0.9), st.floats(0, 1))
def test_evidence_for_a_canary_that_is_worse_by_the_margin_is_at_most_one_in_the_mean(
    total: int, total_stable: int, margin: float, where: float
) -> None:
    rate = where * (1 - margin)
    mean = sum(
        _chance(bad, total, rate + margin)
        * _chance(bad_stable, total_stable, rate)
        * math.exp(evidence_within((bad, total), (bad_stable, total_stable), margin))
        for bad in range(total + 1)
        for bad_stable in range(total_stable + 1)
    )
    assert mean <= 1 + 1e-6


def test_a_mean_looked_at_all_the_time_is_seldom_further_off_than_its_radius() -> None:
    rng = np.random.default_rng(0)

    def alarm() -> bool:
        values = rng.normal(0, 1, 1000)
        counts = np.arange(1, 1001)
        means = np.cumsum(values) / counts
        variances = (np.cumsum(values**2) - counts * means**2) / np.maximum(counts - 1, 1)
        return any(
            means[i] > mean_radius(variances[i] / counts[i], int(counts[i]) - 1, 0.2, CHANCE)
            for i in range(9, 1000)
        )

    assert sum(alarm() for _ in range(SERIES)) <= 1.5 * CHANCE * SERIES
