"""The kill switch: by the spec, and by itself."""

from dataclasses import replace

import pytest
from imagefleet_operator.plan import suspension
from imagefleet_operator.plan.conditions import timestamp
from imagefleet_operator.plan.rollout_types import (
    Budget,
    Experiment,
    NameFigures,
    OnUnsafe,
    Pause,
    Served,
    SetWeight,
    Slo,
)
from imagefleet_operator.plan.types import Json, PoolModel

from tests.unit.operator.make import NOW
from tests.unit.operator.rollout_world import Behaviour, Fleet, fleet, rolling

SAFE = Slo(safety_pass_rate=0.95, on_unsafe=OnUnsafe.SUSPEND)


def barred(world: Fleet) -> set[str]:
    """The models that workers were told not to draw with."""
    return {e["model"] for w in world.workers for e in w.policy if e.get("suspended")}


def unsafe(**fields: object) -> Fleet:
    """A pool whose only model has begun to draw what it may not."""
    world = fleet(slo=SAFE, **fields)  # type: ignore[arg-type]
    world.kinds["a"] = Behaviour(unsafe=0.5)
    return world.run(20)


@pytest.mark.parametrize("where", ["pool", "entry"])
def test_the_spec_suspends_and_lets_go(where: str) -> None:
    world = fleet()
    world.spec = replace(world.spec, suspend=where == "pool")
    world.set_entry(suspend=where == "entry")
    world.look()
    (held,) = world.status["suspensions"]
    assert (held["model"], held["reason"], held["since"]) == ("a", "Requested", timestamp(world.now))
    assert (held["requests"], held["pictures"]) == (80, 80)
    assert (world.traffic, barred(world), world.entry["ready"]) == ({}, {"a"}, False)
    assert world.condition("Ready") == "False Suspended"
    assert world.condition("Stalled") == "True Suspended"
    assert world.run(5).resident("a") == 0
    world.spec = replace(world.spec, suspend=False)
    world.set_entry(suspend=False)
    world.run(5)
    assert world.status["suspensions"][0]["until"] == timestamp(world.now - 5)
    assert (world.traffic, barred(world), world.condition("Ready")) == ({"a": 100}, set(), "True Ready")


def test_a_suspended_pool_is_at_rest() -> None:
    world = fleet()
    world.set_entry(suspend=True)
    at_rest = world.run(60).status
    assert world.run(5).status == at_rest
    assert world.plan.again is None
    assert set(world.plan.poll_seconds.values()) == {15.0}


def test_what_a_model_had_served_is_asked_for_when_it_is_suspended() -> None:
    world = fleet()
    world.set_entry(suspend=True)
    world.run(5)
    assert (world.plan.watch_gateways, world.plan.again) == (True, 1.0)


def test_a_rollout_stands_still_while_the_spec_suspends_it() -> None:
    world = rolling(SetWeight(10), Pause(10), room=2).run(5)
    world.set_entry(suspend=True)
    world.run(50)
    assert (world.rollout["phase"], world.rollout["reason"]) == ("Paused", "Suspended")
    assert {s["model"] for s in world.status["suspensions"]} == {"a", "b"}
    world.set_entry(suspend=False)
    world.run(5)
    assert world.rollout["reason"] == "PauseStep"
    assert world.run(20).endings == ["Promoted"]


def test_unsafe_pictures_suspend_a_model_until_a_person_says_otherwise() -> None:
    world = unsafe()
    assert (world.traffic, barred(world)) == ({}, {"a"})
    assert world.condition("SafetyHealthy") == "False Unsafe"
    world.kinds["a"] = Behaviour(unsafe=0.0)
    assert world.run(20, seconds=60).traffic == {}
    world.say("unsuspend shapes")
    world.run(10)
    assert (world.traffic, barred(world)) == ({"a": 100}, set())
    assert world.condition("SafetyHealthy") == "True SafetyHealthy"


def test_what_a_person_lifted_is_not_suspended_for_the_same_pictures_again() -> None:
    world = unsafe()
    world.kinds["a"] = Behaviour(unsafe=0.0)
    world.say("unsuspend shapes")
    assert world.run(100).traffic == {"a": 100}


def test_it_is_only_said_where_the_slo_says_no_more() -> None:
    world = fleet(slo=Slo(safety_pass_rate=0.95), a=Behaviour(unsafe=0.5)).run(20)
    assert (world.traffic, world.condition("SafetyHealthy")) == ({"a": 100}, "False Unsafe")
    assert world.condition("Ready") == "True Ready"


def test_without_a_floor_nothing_is_said_and_without_pictures_no_opinion() -> None:
    assert fleet().condition("SafetyHealthy") == ""
    assert fleet(slo=SAFE).condition("SafetyHealthy") == "Unknown NoOpinion"
    world = fleet(slo=SAFE, a=Behaviour(unsafe=0.0)).run(10)
    world.gateways = False
    assert world.run(2).condition("SafetyHealthy") == "True SafetyHealthy"


def test_an_unsafe_canary_is_aborted_suspended_and_stays_so() -> None:
    world = rolling(
        SetWeight(50), Pause(), slo=SAFE, room=2, a=Behaviour(unsafe=0.0), b=Behaviour(unsafe=0.5)
    )
    world.run(20)
    assert (world.rollout["phase"], world.traffic) == ("Aborted", {"a": 100})
    assert world.rollout["reason"] in ("Unsafe", "AnalysisFailed")
    world.run(20)
    assert barred(world) <= {"b"}
    assert world.condition("Ready") == "True Ready"


def test_an_unsafe_canary_may_be_tried_again_when_it_was_lifted() -> None:
    world = rolling(SetWeight(50), Pause(), slo=SAFE, room=2).run(5)
    world.kinds["b"] = Behaviour(unsafe=1.0)
    world.run(3)
    assert world.rollout["reason"] == "Unsafe"
    world.say("retry shapes")
    assert world.run(2).status["command"]["outcome"] == "Refused"
    world.kinds["b"] = Behaviour()
    world.say("unsuspend shapes")
    world.run(2)
    assert world.rollout["phase"] == "Aborted"
    world.say("retry shapes")
    world.run(10)
    assert world.traffic == {"a": 50, "b": 50}


def test_another_model_takes_the_place_of_one_that_was_suspended_for_safety() -> None:
    """Without steps: there is nothing to compare it with, and nobody to serve meanwhile."""
    world = unsafe(room=2)
    world.set_entry(model="b")
    world.run(6)
    assert (world.traffic, world.endings) == ({"b": 100}, ["Promoted"])
    assert world.condition("SafetyHealthy") != "False Unsafe"
    world.run(400)
    assert "until" in world.status["suspensions"][0]


def test_a_rollout_that_goes_on_while_its_stable_model_is_suspended_waits() -> None:
    world = rolling(SetWeight(1), Pause(), slo=SAFE, room=2).run(6)
    world.kinds["a"] = Behaviour(unsafe=0.5)
    world.run(10)
    assert (world.traffic, world.rollout["phase"], world.rollout["reason"]) == ({}, "Paused", "Suspended")
    world.say("promote-full shapes")
    assert world.run(5).traffic == {"b": 100}


def test_the_arm_of_an_experiment_that_is_suspended_leaves_its_share_to_the_others() -> None:
    world = fleet(slo=SAFE, room=2, experiments=(Experiment("e", (("b", 30),)),)).run(5)
    assert world.traffic == {"a": 70, "b": 30}
    world.kinds["b"] = Behaviour(unsafe=1.0)
    world.run(5)
    assert (world.traffic, barred(world)) == ({"a": 100}, {"b"})


ENTRY = PoolModel("shapes", "a", slo=SAFE)


def held(model: str = "a", **fields: object) -> Json:
    return {
        "name": "shapes",
        "model": model,
        "reason": "Unsafe",
        "message": "m",
        "since": timestamp(NOW),
        **fields,
    }


@pytest.mark.parametrize(
    ("passed", "checked", "floor", "want"),
    [(50, 100, 0.95, True), (95, 100, 0.95, False), (0, 3, 0.95, False), (0, 100, None, False)],
    ids=["too few pass", "at the floor", "too few were checked", "no floor"],
)
def test_too_unsafe(passed: int, checked: int, floor: float | None, want: bool) -> None:
    figures = NameFigures(short={"a": Budget(checked, 0, 0, checked, checked - passed)})
    entry = replace(ENTRY, slo=replace(SAFE, safety_pass_rate=floor))
    assert ("a" in suspension.too_unsafe(entry, ["a"], figures)) is want


def test_nobody_who_counts_is_no_opinion() -> None:
    assert suspension.too_unsafe(ENTRY, ["a"], None) == {}


def test_what_was_served_only_grows() -> None:
    """A gateway that was restarted has forgotten."""
    figures = {"shapes": NameFigures(served={"a": Served(10, 12, NOW - 50, NOW - 5)})}
    (first,) = suspension.with_served((held(),), figures)
    fresh = {"shapes": NameFigures(served={"a": Served(1, 1, NOW - 2, NOW - 2)})}
    (second,) = suspension.with_served((first,), fresh)
    assert (second["requests"], second["pictures"]) == (10, 12)
    assert (second["servedSince"], second["lastServed"]) == (timestamp(NOW - 50), timestamp(NOW - 2))
    assert suspension.with_served((held(until="x"),), figures) == (held(until="x"),)


def test_a_suspension_outlasts_its_model_as_long_as_its_pictures_count() -> None:
    counted = NameFigures(short={"a": Budget(10, 0, 0, 10, 5)})
    for figures, want in ((counted, False), (None, False), (NameFigures(), True)):
        (found,) = suspension.let_go((held(),), "shapes", ["b"], figures, NOW)
        assert ("until" in found) is want
    (kept,) = suspension.let_go((held(),), "shapes", ["a"], NameFigures(), NOW)
    assert "until" not in kept


def test_suspensions_end_with_their_entry() -> None:
    (found,) = suspension.drop_entries((held(),), ["others"], NOW)
    assert found["until"] == timestamp(NOW)


def test_all_that_hold_and_the_last_ten_that_ended_are_kept() -> None:
    ended = [held(f"old-{n}", until=timestamp(NOW + n)) for n in range(12)]
    open_ones = [held(f"new-{n}") for n in range(12)]
    kept = suspension.trimmed((*ended, *open_ones))
    assert [s["model"] for s in kept] == [f"old-{n}" for n in range(2, 12)] + [f"new-{n}" for n in range(12)]
