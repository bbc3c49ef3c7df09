"""What a pool spends: pods' time, whose work it was, and what is remembered between two looks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.spend import DAY, count, day_of, read_spend, spend_status
from imagefleet_operator.plan.spend_types import BudgetSpec, Counted, Hold, Spend

BEGAN = 20_000 * DAY
BUDGET = BudgetSpec(limit=7_200.0, price=2.5, tenants={"studio": 3_600.0})


def hold(pod: str, since: float | None = None, until: float | None = None) -> Hold:
    """Times from the day's beginning."""
    return Hold(pod, *(None if t is None else BEGAN + t for t in (since, until)))


def spend(at: float = 100.0, **fields: object) -> Spend:
    return replace(Spend(BEGAN, BEGAN + at), **fields)  # type: ignore[arg-type]


HOLDING = spend(workers={"a": "Holding", "b": "Holding"}, seconds=50.0)


@pytest.mark.parametrize(
    ("old", "holds", "units", "at", "want"),
    [
        (None, [], 1, 100, 0),
        (None, [hold("a", 40)], 1, 100, 60),
        (None, [hold("a", -500)], 1, 100, 100),
        (None, [hold("a")], 1, 100, 0),
        (None, [hold("a", 40), hold("b", 90)], 8, 100, 560),
        (HOLDING, [hold("a", 0), hold("b", 0)], 1, 110, 70),
        (HOLDING, [hold("a", 0), hold("c", 104)], 1, 110, 76),
        (HOLDING, [], 1, 110, 70),
        (HOLDING, [hold("a", 0, 104), hold("b", 0, 98)], 1, 110, 54),
        (HOLDING, [hold("a", 0), hold("b", 0), hold("late", 95)], 1, 110, 85),
        (spend(workers={"a": "Pending"}), [hold("a", 97)], 1, 110, 13),
        (spend(workers={"a": "Pending"}), [hold("a")], 1, 110, 0),
        (spend(workers={"a": "Pending"}), [], 1, 110, 10),
        (spend(workers={"a": "Ended"}), [hold("a", 0, 90)], 1, 110, 0),
        (spend(workers={"a": "Ended"}), [], 1, 110, 0),
        (HOLDING, [hold("a", 0), hold("b", 0)], 1, 90, 50),
        (HOLDING, [hold("a", 0)], 1, DAY + 30, 60),
        (HOLDING, [], 1, DAY + 30, 60),
    ],
    ids=[
        "without pods",
        "a pod counts from its scheduling",
        "a pod of yesterday counts from midnight",
        "a pod without a node holds nothing",
        "each of its accelerators counts",
        "pods that stay",
        "one that has gone counts up to now, one that came from its scheduling",
        "all have gone while nobody looked",
        "those that ended count to their end",
        "one that had been overlooked counts from its scheduling, not from the last look",
        "one that got its node meanwhile",
        "one that still has none",
        "one that had none and has gone may have had one",
        "one that was counted to its end counts no more",
        "nor when it has gone",
        "a clock that was set back takes nothing back",
        "a new day begins at nothing, a pod that was there counts from midnight",
        "and so does one that has gone",
    ],
)
def test_pods_count_from_their_scheduling_to_their_end(
    old: Spend | None, holds: list[Hold], units: int, at: float, want: float
) -> None:
    assert count(old, holds, units, {}, BEGAN + at).seconds == pytest.approx(want)


def test_where_there_is_no_pod_nothing_changes_until_the_day_does() -> None:
    old = spend(seconds=50.0)
    assert count(old, [], 1, {}, BEGAN + 500) == old
    assert count(old, [], 1, {}, BEGAN + DAY + 5).seconds == 0


def counted(drawn: float, model: str = "shapes-1", tenant: str = "studio", flying: float = 0.0) -> Counted:
    return Counted({(model, tenant): drawn}, {(model, tenant): flying} if flying else {})


def test_what_gateways_counted_before_the_budget_began_is_not_charged() -> None:
    first = count(None, [hold("a", 0)], 1, {"g": counted(40.0)}, BEGAN + 100)
    assert (first.models, first.tenants) == ({}, {})
    then = count(first, [hold("a", 0)], 1, {"g": counted(45.0)}, BEGAN + 110)
    assert (then.models, then.tenants) == ({"shapes-1": 5.0}, {"studio": 5.0})


def test_a_gateway_that_starts_anew_or_falls_silent_loses_nothing_and_counts_nothing_twice() -> None:
    old = spend(seconds=100.0, gateways={"g/1": {("shapes-1", "studio"): 40.0}}, models={"shapes-1": 40.0})
    silent = count(old, [], 1, {}, BEGAN + 101)
    again = count(silent, [], 1, {"g/1": counted(43.0)}, BEGAN + 102)
    anew = count(again, [], 1, {"g/1": counted(43.0), "g/2": counted(2.0)}, BEGAN + 103)
    assert [s.models["shapes-1"] for s in (silent, again, anew)] == [40.0, 43.0, 45.0]


def test_work_is_never_more_than_what_was_held() -> None:
    """Requests that share steps are counted as if each had been drawn alone."""
    old = spend(seconds=0.0, workers={"a": "Holding"})
    counts = {"g": Counted({("shapes-1", "other"): 8.0, ("shapes-2", ""): 12.0})}
    found = count(old, [hold("a", 0)], 1, counts, BEGAN + 110)
    assert found.models == {"shapes-1": pytest.approx(4.0), "shapes-2": pytest.approx(6.0)}
    assert found.tenants == {"other": 8.0}, "copies are nobody's"


def test_what_is_under_way_is_known_by_tenant() -> None:
    counts = {"g": counted(1.0, flying=3.0), "h": counted(1.0, flying=2.0, model="shapes-2")}
    assert count(None, [], 1, counts, BEGAN + 1).in_flight == {"studio": 5.0}


def test_a_new_day_keeps_how_far_gateways_were_counted() -> None:
    old = spend(
        models={"shapes-1": 40.0}, tenants={"studio": 40.0}, gateways={"g": {("shapes-1", "studio"): 40.0}}
    )
    found = count(old, [hold("a", 0)], 1, {"g": counted(42.0)}, BEGAN + DAY + 10)
    assert (found.models, found.tenants) == ({"shapes-1": 2.0}, {"studio": 2.0})


def test_a_status_shares_idle_hours_out_as_the_work_was() -> None:
    found = spend_status(
        spend(seconds=6 * 3_600.0, models={"a": 2 * 3_600.0, "b": 3_600.0}, tenants={"studio": 3_600.0}),
        BUDGET,
    )
    assert (found["gpuHours"], found["busyGpuHours"], found["cost"]) == (6.0, 3.0, 15.0)
    assert found["models"] == [
        {"model": "a", "busyGpuHours": 2.0, "gpuHours": 4.0, "cost": 10.0},
        {"model": "b", "busyGpuHours": 1.0, "gpuHours": 2.0, "cost": 5.0},
    ]
    assert found["tenants"] == [{"name": "studio", "gpuHours": 1.0, "cost": 2.5}]
    assert (found["period"], found["resetsAt"]) == ("2024-10-04", "2024-10-05T00:00:00Z")


def test_a_tenant_that_the_spec_no_longer_names_is_not_told_of() -> None:
    found = spend_status(spend(tenants={"gone": 5.0, "other": 1.0, "studio": 2.0}), BUDGET)
    assert [tenant["name"] for tenant in found["tenants"]] == ["other", "studio"]


amounts = st.dictionaries(st.sampled_from(["studio", "other"]), st.floats(0, 1e6).map(lambda s: round(s, 3)))


@given(
    at=st.floats(0, DAY - 1),
    seconds=st.floats(0, 1e7),
    tenants=amounts,
    workers=st.dictionaries(st.text("abc", min_size=1), st.sampled_from(["Pending", "Holding", "Ended"])),
)
def test_what_is_written_is_what_is_read(
    at: float, seconds: float, tenants: dict[str, float], workers: dict[str, str]
) -> None:
    written = spend(at, seconds=seconds, tenants=tenants, workers=workers, gateways={"g": {("m", ""): 1.5}})
    found = read_spend({"spend": spend_status(written, BUDGET)})
    assert found is not None
    assert (found.start, found.workers, found.gateways) == (written.start, workers, written.gateways)
    assert found.counted_at == pytest.approx(written.counted_at, abs=1e-5)
    assert found.seconds == pytest.approx(seconds, abs=1e-5)
    assert found.tenants == {name: pytest.approx(work, abs=1e-5) for name, work in tenants.items()}


def test_a_day_begins_at_midnight_utc() -> None:
    assert day_of(90_000) == 86_400
    assert read_spend({}) is None


def test_a_status_holds_no_list_without_entries() -> None:
    """The API server does not store one: it would be written again and again."""
    assert [key for key, part in spend_status(spend(), BUDGET).items() if part == []] == []
