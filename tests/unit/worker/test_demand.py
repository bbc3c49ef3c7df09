import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.demand import Demand


def test_half_is_forgotten_every_ten_minutes() -> None:
    demand = Demand()
    demand.add(8.0, 100.0)
    assert demand.at(1300.0) == pytest.approx(2.0)
    demand.add(1.0, 1300.0)
    assert demand.at(1300.0) == pytest.approx(3.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), max_size=20))
def test_demand_is_never_more_than_what_was_drawn(drawn: list[tuple[float, float]]) -> None:
    demand, now = Demand(), 0.0
    for seconds, later in drawn:
        now += later
        demand.add(seconds, now)
    assert 0 <= demand.at(now) <= sum(seconds for seconds, _ in drawn) * (1 + 1e-9)
