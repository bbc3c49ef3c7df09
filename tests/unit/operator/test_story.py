"""The story of rollouts, as Events tell it."""

import pytest
from imagefleet_operator.plan.conditions import News
from imagefleet_operator.plan.rollout_types import (
    Analyze,
    Experiment,
    Mirror,
    OnUnsafe,
    Pause,
    SetWeight,
    Slo,
)
from imagefleet_operator.plan.story import story
from imagefleet_operator.plan.types import Json

from tests.unit.operator.rollout_world import Behaviour, Fleet, fleet


def told(world: Fleet, ticks: int) -> list[News]:
    """What is told of so many seconds."""
    found: list[News] = []
    for _ in range(ticks):
        old = world.status
        world.tick()
        found += story(old, world.status)
    return found


def test_a_good_rollout() -> None:
    world = fleet(Mirror(20), Pause(5), SetWeight(10), Analyze(), SetWeight(50), Pause())
    world.set_entry(model="b")
    news = told(world, 60)
    world.say("promote shapes")
    news += told(world, 10)
    assert [n.reason for n in news] == [
        "RolloutStarted",
        "MirrorSet",
        "RolloutPaused",
        "WeightSet",
        "RolloutResumed",
        "AnalysisPassed",
        "WeightSet",
        "RolloutPaused",
        "AnalysisPassed",
        "CommandApplied",
        "RolloutPromoted",
    ]
    assert news[3].note == "shapes: b gets 10 % of the requests."
    assert not any(n.warning for n in news)


def test_an_analysis_that_ends_the_rollout_in_the_same_pass_is_told_before_its_end() -> None:
    world = fleet(SetWeight(50), Analyze())
    world.set_entry(model="b")
    reasons = [n.reason for n in told(world, 60)]
    assert reasons == ["RolloutStarted", "WeightSet", "AnalysisPassed", "RolloutPromoted"]
    assert world.status["history"][-1]["analysis"] == "Passed"


@pytest.mark.parametrize(
    ("then", "reason", "warning"),
    [
        ({"model": "a"}, "RolloutReverted", False),
        ({"model": "c"}, "RolloutSuperseded", False),
    ],
)
def test_the_ends_of_a_rollout(then: Json, reason: str, warning: bool) -> None:
    world = fleet(SetWeight(10), Pause())
    world.set_entry(model="b")
    world.run(5)
    world.set_entry(**then)
    (ended, *_) = told(world, 1)
    assert (ended.reason, ended.warning) == (reason, warning)


def test_an_abort_is_a_warning_and_says_why() -> None:
    world = fleet(SetWeight(50), Pause(), b=Behaviour(errors=0.5))
    world.set_entry(model="b")
    (aborted,) = (n for n in told(world, 30) if n.warning)
    assert aborted.reason == "RolloutAborted"
    assert aborted.note.startswith("shapes: a to b: errorRate is worse: canary 50 %")


def test_a_refused_command_is_a_warning() -> None:
    world = fleet()
    world.say("promote shapes")
    (refused,) = told(world, 1)
    assert (refused.reason, refused.warning) == ("CommandRefused", True)


def test_a_model_that_is_suspended_and_let_go() -> None:
    world = fleet(slo=Slo(safety_pass_rate=0.95, on_unsafe=OnUnsafe.SUSPEND), a=Behaviour(unsafe=0.5))
    assert world.traffic == {}
    world = fleet(slo=Slo(safety_pass_rate=0.95, on_unsafe=OnUnsafe.SUSPEND))
    world.kinds["a"] = Behaviour(unsafe=0.5)
    (suspended,) = told(world, 20)
    assert (suspended.reason, suspended.warning) == ("ModelSuspended", True)
    world.say("unsuspend shapes")
    assert [n.reason for n in told(world, 1)] == ["CommandApplied", "ModelResumed"]


def test_an_experiment_begins_and_ends() -> None:
    world = fleet(room=2)
    world.set_entry(experiments=(Experiment("styles", (("b", 20),), 10),))
    news = told(world, 20)
    assert [n.reason for n in news] == ["ExperimentStarted", "ExperimentEnded"]
    assert "20 % b" in news[0].note
    world.set_entry(experiments=(Experiment("styles", (("b", 20),)),))
    assert [n.reason for n in told(world, 5)] == ["ExperimentStarted"]
    world.set_entry(experiments=())
    assert [n.reason for n in told(world, 5)] == ["ExperimentEnded"]


def spot(status: str, reason: str) -> Json:
    """A status of a pool with spot workers."""
    found = {"type": "SpotAvailable", "status": status, "reason": reason, "message": "how many"}
    return {"conditions": [{**found, "lastTransitionTime": "2026-11-28T02:00:00Z"}]}


def test_workers_on_demand_stand_in_and_no_longer() -> None:
    there, lacks = spot("True", "SpotAvailable"), spot("False", "OnDemandFallback")
    (fallback,) = story(there, lacks)
    assert (fallback.reason, fallback.note, fallback.warning) == ("OnDemandFallback", "how many", True)
    (back,) = story(lacks, there)
    assert (back.reason, back.warning) == ("SpotAvailable", False)
    assert [n.reason for n in story({}, lacks)] == ["OnDemandFallback"]
    assert story({}, there) == story(lacks, {}) == ()


def test_nothing_is_told_of_a_status_that_did_not_change() -> None:
    world = fleet(SetWeight(10), Pause())
    world.set_entry(model="b")
    world.run(5)
    assert story(world.status, world.status) == ()


def test_decisions_about_the_number_of_workers_are_told_once() -> None:
    up = {"from": 1, "to": 3, "reason": "Backlog", "message": "1 to 3 workers: 3 needed.", "time": "t1"}
    down = {"from": 3, "to": 1, "reason": "Idle", "message": "3 to 1 workers: 1 needed.", "time": "t2"}
    old, new = ({"scaling": {"decisions": made}} for made in ([up], [up, down]))
    assert [(n.reason, n.note) for n in story({}, old)] == [
        ("ScaledUp", "Backlog: 1 to 3 workers: 3 needed.")
    ]
    assert [(n.reason, n.note) for n in story(old, new)] == [
        ("ScaledDown", "Idle: 3 to 1 workers: 1 needed.")
    ]
