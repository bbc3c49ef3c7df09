"""Reading what a gateway counted, and adding up what several did."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.observe import observe_pool
from imagefleet_operator.plan.rollout_types import Arm, Budget, Moments, NameFigures, Served
from imagefleet_operator.store.figures import Entry, InvalidFiguresError, read_figures
from imagefleet_operator.store.ledger import FRESH_SECONDS, Ledger
from imagefleet_operator.store.store import Store

from tests.unit.operator.make import pool

ENTRY: Entry = ("studio", "pictures", "shapes")
OTHER: Entry = ("studio", "pictures", "others")
ARM = {
    "model": "shapes-2", "requests": 50, "errors": 2, "outOfMemory": 1, "checked": 50, "unsafe": 3,
    "latency": {"count": 2, "sum": -4.0, "squares": 8.0}, "quality": {"count": 50, "sum": 45.5, "squares": 42.0},
}  # fmt: skip
SHORT = {"requests": 100, "failed": 1, "slow": 2, "checked": 10, "unsafe": 1}
LONG = {**SHORT, "requests": 900}
SERVED = {
    "model": "shapes-1",
    "requests": 1000,
    "pictures": 1200,
    "first": 1763800000.0,
    "last": 1763803600.0,
}


def answer(**fields: Any) -> dict[str, Any]:
    name = {"namespace": "studio", "pool": "pictures", "name": "shapes", "window": "w", **fields}
    return {"pod": "gateway-1", "models": [], "names": [name]}


def read(**fields: Any) -> NameFigures:
    return read_figures(answer(**fields))[ENTRY]


def test_figures_are_read_as_the_contract_has_them() -> None:
    budget = [{"model": "shapes-1", "short": SHORT, "long": LONG}]
    assert read(arms=[ARM], budget=budget, served=[SERVED]) == NameFigures(
        window="w",
        arms={"shapes-2": Arm(50, 2, 1, 50, 3, Moments(2, -4.0, 8.0), Moments(50, 45.5, 42.0))},
        short={"shapes-1": Budget(100, 1, 2, 10, 1)},
        long={"shapes-1": Budget(900, 1, 2, 10, 1)},
        served={"shapes-1": Served(1000, 1200, 1763800000.0, 1763803600.0)},
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": float("nan")}, {"requests": -1}, {"requests": 1.5}, {"requests": True}, {"requests": "50"},
        {"requests": 1e300}, {"errors": None}, {"errors": 51}, {"outOfMemory": 3},
    ],
    ids=str,
)  # fmt: skip
def test_an_arm_that_cannot_be_is_no_opinion_and_the_others_count(wrong: dict[str, Any]) -> None:
    found = read(arms=[{**ARM, **wrong}, {**ARM, "model": "shapes-1"}]).arms
    assert list(found) == ["shapes-1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"unsafe": 51}, {"unsafe": None}, {"checked": -1},
    ],
    ids=str,
)  # fmt: skip
def test_checks_that_cannot_be_are_none(wrong: dict[str, Any]) -> None:
    arm = read(arms=[{**ARM, **wrong}]).arms["shapes-2"]
    assert (arm.requests, arm.checked, arm.unsafe) == (50, 0, 0)


@pytest.mark.parametrize(
    "sums",
    [
        None, [], "3", {}, {"count": 2, "sum": 4.0},
        {"count": 2, "sum": 4.0, "squares": 7.9},
        {"count": 0, "sum": 0.0, "squares": -1.0},
        {"count": 2, "sum": float("inf"), "squares": 8.0},
        {"count": -2, "sum": 4.0, "squares": 8.0},
    ],
    ids=str,
)  # fmt: skip
def test_sums_that_no_numbers_have_are_none(sums: Any) -> None:
    assert read(arms=[{**ARM, "latency": sums}]).arms["shapes-2"].latency == Moments()


@given(st.lists(st.floats(-20, 20), max_size=50))
def test_sums_of_any_numbers_are_taken(values: list[float]) -> None:
    squares = sum(value * value for value in values)
    sums = {"count": len(values), "sum": sum(values), "squares": squares}
    assert read(arms=[{**ARM, "latency": sums}]).arms["shapes-2"].latency.count == len(values)


@pytest.mark.parametrize("wrong", [{"failed": 99}, {"slow": -1}, {"requests": None}], ids=str)
def test_a_budget_that_cannot_be_is_no_opinion(wrong: dict[str, Any]) -> None:
    found = read(budget=[{"model": "shapes-1", "short": {**SHORT, **wrong}, "long": LONG}])
    assert (found.short, list(found.long)) == ({}, ["shapes-1"])


@pytest.mark.parametrize("wrong", [{"first": 0}, {"last": 1.0}, {"pictures": -1}], ids=str)
def test_what_cannot_have_been_served_is_no_opinion(wrong: dict[str, Any]) -> None:
    assert read(served=[{**SERVED, **wrong}]).served == {}


def test_a_gateway_that_counts_nothing_yet_has_no_opinion() -> None:
    assert read_figures({"pod": "gateway-1", "models": []}) == {}


@pytest.mark.parametrize(
    "body",
    [None, [], 3, {"names": 3}, {"names": [{}]}, {"names": ["x"]}, answer(arms=[3]), answer(budget=[{}])],
)
def test_what_holds_no_figures_is_refused(body: Any) -> None:
    with pytest.raises(InvalidFiguresError):
        read_figures(body)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counted(
    requests: int, window: str = "w", first: float = 10.0, last: float = 20.0
) -> dict[Entry, NameFigures]:
    """What a gateway says that has had so many requests."""
    budget, served = {"shapes-1": Budget(requests)}, {"shapes-1": Served(requests, requests, first, last)}
    return {ENTRY: NameFigures(window, {"shapes-1": Arm(requests)}, budget, budget, served)}


def requests_of(found: NameFigures | None) -> tuple[int, int, int]:
    """In arms, budget and served."""
    assert found is not None
    arm, budget = found.arms.get("shapes-1", Arm()), found.short.get("shapes-1", Budget())
    return arm.requests, budget.requests, found.served["shapes-1"].requests


def test_gateways_add_up() -> None:
    ledger = Ledger(Clock())
    ledger.put("a", counted(3, first=10.0, last=20.0))
    ledger.put("b", counted(4, first=5.0, last=12.0))
    found = ledger.of(ENTRY, "w")
    assert requests_of(found) == (7, 7, 7)
    assert found is not None
    assert found.served["shapes-1"] == Served(7, 7, 5.0, 20.0)
    assert ledger.of(OTHER, "w") is None


def test_arms_of_another_window_do_not_count() -> None:
    ledger = Ledger(Clock())
    ledger.put("late", counted(3, window="before"))
    ledger.put("b", counted(4))
    assert requests_of(ledger.of(ENTRY, "w")) == (4, 7, 7)


def test_a_gateway_that_is_silent_has_no_say_but_what_it_served_stays_served() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.put("silent", counted(3))
    clock.now += FRESH_SECONDS
    ledger.put("b", counted(4))
    assert requests_of(ledger.of(ENTRY, "w")) == (7, 7, 7)
    clock.now += 0.1
    assert requests_of(ledger.of(ENTRY, "w")) == (4, 4, 7)


def test_what_a_gateway_served_stays_served_when_it_goes_or_starts_anew() -> None:
    ledger = Ledger(Clock())
    ledger.put("a", counted(3))
    ledger.put("a", counted(5))
    assert requests_of(ledger.of(ENTRY, "w"))[2] == 5
    ledger.put("a", counted(2, first=30.0, last=40.0))
    assert requests_of(ledger.of(ENTRY, "w")) == (2, 2, 7)
    ledger.put("a", {})
    assert requests_of(ledger.of(ENTRY, "w")) == (0, 0, 7)
    ledger.put("a", counted(1, first=50.0, last=50.0))
    ledger.drop("a")
    assert requests_of(ledger.of(ENTRY, "w")) == (0, 0, 8)


def test_only_news_are_news() -> None:
    ledger = Ledger(Clock())
    assert ledger.put("a", counted(3)) == {("studio", "pictures")}
    assert ledger.put("a", counted(3)) == set()
    assert ledger.put("a", {}) == {("studio", "pictures")}


def test_a_pool_that_has_gone_is_forgotten() -> None:
    ledger = Ledger(Clock())
    ledger.put("a", counted(3))
    ledger.drop("a")
    ledger.forget_pool("studio", "pictures")
    assert ledger.of(ENTRY, "w") is None


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.booleans()), max_size=30))
def test_what_was_served_never_shrinks(turns: list[tuple[str, int, bool]]) -> None:
    """Each gateway goes on counting, or starts anew (True) with a later first request."""
    ledger, totals, process, served = Ledger(Clock()), {"a": 0, "b": 0}, {"a": 1.0, "b": 1.0}, 0
    for gateway, more, anew in turns:
        if anew:
            totals[gateway], process[gateway] = 0, process[gateway] + 1
        totals[gateway] += more
        served += more
        ledger.put(gateway, counted(totals[gateway], first=process[gateway], last=99.0))
        assert requests_of(ledger.of(ENTRY, "w"))[2] == served


def test_a_pools_plan_gets_the_figures_of_its_entries_windows() -> None:
    store = Store()
    parent = pool("shapes", "others", status={"models": [{"name": "shapes", "window": "w"}]})
    figures = {("ns", "thumbs", entry): made for (_, _, entry), made in counted(3).items()}
    store.figures.put("a", figures)
    found = observe_pool(store, parent, (), {}).figures
    assert list(found) == ["shapes"]
    assert found["shapes"].arms == {"shapes-1": Arm(3)}
