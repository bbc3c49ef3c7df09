"""How fast an error budget burns."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.burn import Burn, burn
from imagefleet_operator.plan.rollout_types import Budget, Slo

BOTH = Slo(latency_p95_seconds=1.5, success_rate=0.999)
FAILURES = Slo(success_rate=0.999)
LATENCY = Slo(latency_p95_seconds=1.5)


@pytest.mark.parametrize(
    ("slo", "short", "long", "want"),
    [
        pytest.param(BOTH, Budget(1000, 5, 40), Budget(9000, 9, 450), Burn(5, 1), id="the faster one counts"),
        pytest.param(FAILURES, Budget(1000, 1, 900), Budget(1000, 1, 900), Burn(1, 1), id="only failures"),
        pytest.param(LATENCY, Budget(1000, 500, 50), Budget(1000, 500, 25), Burn(1, 0.5), id="only latency"),
        pytest.param(BOTH, Budget(1000), Budget(9000), Burn(0, 0), id="nothing burns"),
        pytest.param(Slo(), Budget(1000, 500), Budget(1000, 500), Burn(None, None), id="nothing was promised"),
        pytest.param(
            Slo(safety_pass_rate=0.99), Budget(100, 50, 0, 100, 100), Budget(100, 50), Burn(None, None),
            id="unsafe pictures are no error budget",
        ),
        pytest.param(BOTH, Budget(20, 20), Budget(20, 20), Burn(1000, 1000), id="everything fails"),
        pytest.param(BOTH, Budget(19, 19), Budget(900, 900), Burn(None, None), id="too few to say"),
        pytest.param(BOTH, Budget(), Budget(900, 900), Burn(None, None), id="nobody asks"),
        pytest.param(BOTH, Budget(20, 20), Budget(), Burn(1000, None), id="no hour known"),
        pytest.param(
            Slo(success_rate=1.0), Budget(20, 1), Budget(20), Burn(math.inf, 0), id="nothing at all may fail"
        ),
    ],
)  # fmt: skip
def test_burn_rates(slo: Slo, short: Budget, long: Budget, want: Burn) -> None:
    found = burn(slo, short, long)
    assert (found.short, found.long) == (_about(want.short), _about(want.long))


def _about(rate: float | None) -> object:
    return None if rate is None else pytest.approx(rate)


@given(st.integers(20, 10_000), st.data())
def test_one_more_failure_never_burns_less(requests: int, data: st.DataObject) -> None:
    failed = data.draw(st.integers(0, requests - 1))
    slow = data.draw(st.integers(0, requests - failed - 1))
    before, after = (burn(BOTH, budget, budget).short for budget in (
        Budget(requests, failed, slow), Budget(requests, failed + 1, slow),
    ))  # fmt: skip
    assert before is not None
    assert after is not None
    assert after >= before
