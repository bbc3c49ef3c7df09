"""Models that take each other's places: what is told, and that they are left alone afterwards."""

from dataclasses import replace
from typing import Any

import pytest
from imagefleet_operator.plan.moves import Move, moves, told
from imagefleet_operator.plan.packing import Need, Slot
from imagefleet_operator.plan.placement import Placement
from imagefleet_operator.plan.pool import PoolPlan, plan_pool
from imagefleet_operator.plan.rollout_placement import Layout
from imagefleet_operator.plan.types import PoolObserved

from tests.unit.operator.make import GIB, NOW, holding, model, observed, pool, worker


def layout(pinned: dict[str, set[str]], **least: int) -> Layout:
    """Where models are to be, and the copies that they want at least."""
    needs = tuple(Need(name, copies, 10) for name, copies in least.items())
    placed = Placement({name: frozenset(models) for name, models in pinned.items()}, {})
    return Layout(needs, placed, {}, {}, frozenset())


def slot(name: str, *models: str) -> Slot:
    return Slot(name, 100, frozenset(models))


def test_a_model_that_takes_anothers_place_moves_and_so_does_the_other() -> None:
    found = moves([slot("w1", "a"), slot("w2", "b")], layout({"w1": {"a"}, "w2": {"a"}}, a=1, b=0))
    assert found == (
        Move("a", frozenset({"w1", "w2"}), ("w2",), (), "Demand"),
        Move("b", frozenset(), (), ("w2",), "Demand"),
    )


def test_a_model_that_must_be_there_takes_a_place_as_required() -> None:
    (a, b) = moves([slot("w1", "a")], layout({"w1": {"b"}}, a=0, b=1))
    assert (a.reason, b.reason) == ("Required", "Required")


def test_a_model_that_only_leaves_makes_room() -> None:
    (a,) = moves([slot("w1", "a")], layout({"w1": set()}, a=0))
    assert a == Move("a", frozenset(), (), ("w1",), "Room")


def test_filling_a_worker_that_has_room_moves_nothing() -> None:
    assert moves([slot("w1", "a"), slot("w2")], layout({"w1": {"a", "b"}, "w2": {"a"}}, a=1, b=0)) == ()


def test_a_model_that_the_pool_no_longer_names_does_not_move() -> None:
    assert moves([slot("w1", "gone")], layout({"w1": set()}, a=0)) == ()


def test_one_event_tells_of_all_of_them() -> None:
    (news,) = told(moves([slot("w1", "a"), slot("w2", "b")], layout({"w1": {"a"}, "w2": {"a"}}, a=1, b=0)))
    assert news.reason == "PlacementChanged"
    assert news.note == "a joins w2, held by 2 (Demand); b leaves w2, held by 0 (Demand)."
    assert told(()) == ()


def fleet(**fields: Any) -> PoolObserved:
    """Three workers with room for one model each; two of them hold the one that few ask for."""
    models = {
        name: model(name, size=50 * GIB, performance=[{"accelerator": "cpu", "loadSeconds": 3.0}])
        for name in ("hot", "cold")
    }
    workers = worker("a", holding("hot")), worker("b", holding("cold")), worker("c", holding("cold"))
    found = observed(*workers, pool=pool("hot", "cold", replicas=3), models=models)
    return replace(found, **{"demand": {"hot": 100.0, "cold": 1.0}, **fields})


def pins(plan: PoolPlan) -> dict[str, set[str]]:
    return {p.worker.pod.name: {e["model"] for e in p.policy if e["pinned"]} for p in plan.workers}


def test_demand_moves_models_and_what_it_moved_stays_for_a_while() -> None:
    first = plan_pool(fleet(), NOW)
    assert pins(first)["c"] == {"hot"}
    assert {(m.model, m.reason) for m in first.moves} == {("hot", "Demand"), ("cold", "Demand")}
    moved = {m.model: m.workers for m in first.moves}
    again = plan_pool(fleet(demand={"hot": 1.0, "cold": 100.0}, moved_models=moved), NOW)
    assert pins(again)["c"] == {"hot"}, "the worker has not heard of it yet, and nothing is decided anew"
    assert again.moves == ()


@pytest.mark.parametrize("demand", [None, {}], ids=["nobody says", "nobody asks"])
def test_without_demand_nothing_moves(demand: dict[str, float] | None) -> None:
    assert plan_pool(fleet(demand=demand), NOW).moves == ()


def test_a_worker_may_load_what_fits_beside_what_it_must_hold() -> None:
    def allowed(memory: int) -> list[set[str]]:
        workers = tuple(worker(name, memory=memory * GIB) for name in "abc")
        return [{e["model"] for e in p.policy} for p in plan_pool(fleet(workers=workers), NOW).workers]

    assert sorted(map(sorted, allowed(80))) == [["cold"], ["hot"], ["hot"]], (
        "a second of 65 GiB would not fit"
    )
    assert allowed(200) == [{"hot", "cold"}] * 3


def test_a_model_that_fits_nowhere_is_named_to_all_for_they_say_best_why() -> None:
    workers = tuple(worker(name, memory=40 * GIB) for name in "ab")
    plan = plan_pool(fleet(workers=workers), NOW)
    assert all({e["model"] for e in p.policy} == {"hot", "cold"} for p in plan.workers)
