"""What gateways say of the demand, added up."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.capacity_types import ModelLoad
from imagefleet_operator.store.figures import InvalidFiguresError
from imagefleet_operator.store.loads import GONE_SECONDS, Loads, Route, Said, read_loads

POOL = ("studio", "pictures")
ROUTE: Route = (*POOL, "shapes-1")
BODY = {
    "namespace": "studio",
    "pool": "pictures",
    "model": "shapes-1",
    "held": 2,
    "running": 1,
    "arrivedWorkSeconds": 12.5,
    "arrived": 9,
    "started": 7,
    "late": 1,
    "heldWorkSeconds": 3.5,
    "oldestHeldSeconds": 4.0,
    "secondsSinceArrival": 0.5,
}
DEMAND = ModelLoad(12.5, 9, 7, 1, held=2, running=1, held_seconds=3.5, oldest_seconds=4.0)


def test_a_gateways_demand_is_read() -> None:
    assert read_loads({"models": [BODY]}) == {ROUTE: Said(DEMAND, 0.5)}
    assert read_loads({"names": []}) == {}


@pytest.mark.parametrize("value", [None, "1", -1, math.nan, math.inf, True, 1e300], ids=repr)
def test_what_no_number_can_be_counts_nothing(value: Any) -> None:
    numbers = set(BODY) - {"namespace", "pool", "model"}
    body = BODY | dict.fromkeys(numbers, value)
    assert read_loads({"models": [body]}) == {ROUTE: Said(ModelLoad())}


@pytest.mark.parametrize("body", [[], {"models": 1}, {"models": [{"pool": "p"}]}], ids=repr)
def test_what_holds_no_demand_is_no_answer(body: Any) -> None:
    with pytest.raises(InvalidFiguresError):
        read_loads(body)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loads(clock: Clock) -> Loads:
    return Loads(clock)


def says(loads: Loads, gateway: str, since: float | None = None, **fields: Any) -> set[Any]:
    return loads.put(gateway, {ROUTE: Said(ModelLoad(**fields), since)})


def test_what_came_before_we_listened_does_not_count(loads: Loads) -> None:
    says(loads, "a", arrived_seconds=500.0, arrived=100)
    says(loads, "a", arrived_seconds=503.0, arrived=101)
    found = loads.of(*POOL).sum
    assert (found.arrived_seconds, found.arrived) == (3.0, 1)


def test_gateways_are_added_up_by_model(loads: Loads) -> None:
    for gateway in ("a", "b"):
        says(loads, gateway)
        says(loads, gateway, arrived_seconds=2.0, held=1, held_seconds=1.5, oldest_seconds=7.0, running=3)
    assert loads.of(*POOL).models == {
        "shapes-1": ModelLoad(4.0, held=2, running=6, held_seconds=3.0, oldest_seconds=7.0)
    }


def test_a_gateway_that_starts_anew_begins_at_zero_again(loads: Loads) -> None:
    says(loads, "a")
    says(loads, "a", arrived_seconds=10.0, started=5, late=2)
    says(loads, "a", arrived_seconds=1.0, started=1)
    found = loads.of(*POOL).sum
    assert (found.arrived_seconds, found.started, found.late) == (11.0, 6, 2)


def test_a_gateway_that_has_gone_takes_nothing_back_but_what_it_held(loads: Loads) -> None:
    says(loads, "a")
    says(loads, "a", arrived_seconds=10.0, held=3)
    loads.drop("a")
    found = loads.of(*POOL).sum
    assert (found.arrived_seconds, found.held) == (10.0, 0)


def test_a_model_that_is_asked_for_first_counts_from_the_first_request(loads: Loads) -> None:
    loads.put("a", {})
    says(loads, "a", arrived_seconds=2.0)
    assert loads.of(*POOL).sum.arrived_seconds == 2.0


def test_requests_that_begin_to_wait_are_news_once(loads: Loads) -> None:
    assert says(loads, "a", held=1) == {POOL}
    assert says(loads, "a", held=2) == set()
    assert says(loads, "a", held=0) == set()
    assert says(loads, "a", held=1) == {POOL}


def test_how_old_the_news_is(loads: Loads, clock: Clock) -> None:
    assert loads.of(*POOL).age is None
    says(loads, "a")
    clock.now += 20
    says(loads, "b")
    clock.now += 5
    found = loads.of(*POOL)
    assert (found.age, found.partial) == (5.0, True)
    clock.now += GONE_SECONDS
    says(loads, "b")
    assert not loads.of(*POOL).partial, "one that is silent for so long serves nobody"


def test_a_pool_is_quiet_since_the_last_request_to_any_gateway(loads: Loads, clock: Clock) -> None:
    clock.now += 10
    assert loads.of(*POOL).quiet_seconds == 10.0
    says(loads, "a", since=400.0)
    says(loads, "b", since=30.0)
    says(loads, "a", since=400.0)
    assert loads.of(*POOL).quiet_seconds == 30.0
    clock.now += 5
    says(loads, "b", since=None, arrived_seconds=1.0)
    assert loads.of(*POOL).quiet_seconds == 0.0


def test_a_pool_that_has_gone_is_forgotten(loads: Loads) -> None:
    says(loads, "a")
    says(loads, "a", arrived_seconds=10.0)
    loads.forget_pool(*POOL)
    assert loads.of(*POOL).sum.arrived_seconds == 0.0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.sampled_from(["on", "anew", "gone"]))))
def test_whatever_gateways_do_each_request_counts_once(events: list[tuple[str, int, str]]) -> None:
    """A gateway that starts anew is noticed by counters that fell, so it has to have counted less than before."""
    loads, counters, total = Loads(), {"a": 0, "b": 0}, 0
    for gateway in counters:
        says(loads, gateway)
    for gateway, more, what in events:
        if what == "gone":
            loads.drop(gateway)
            loads.put(gateway, {})
            counters[gateway] = 0
        fell = what == "anew" and more < counters[gateway]
        counters[gateway] = more if fell else counters[gateway] + more
        total += more
        says(loads, gateway, arrived=counters[gateway])
    assert loads.of(*POOL).sum.arrived == total
