"""Rollouts from beginning to end, over a pool that does as it is told."""

import pytest
from imagefleet_operator.plan.rollout_types import (
    AnalysisSpec,
    Analyze,
    Mirror,
    OnInconclusive,
    Pause,
    RolloutSpec,
    RolloutStep,
    SetWeight,
    Slo,
)
from imagefleet_operator.plan.types import PoolModel

from tests.unit.operator.rollout_world import Behaviour, Fleet

FULL: tuple[RolloutStep, ...] = (
    Mirror(20),
    Pause(5),
    SetWeight(10),
    Analyze(),
    SetWeight(50),
    Pause(5),
    Analyze(),
)


def fleet(*steps: RolloutStep, workers: int = 2, room: int = 1, **fields: object) -> Fleet:
    """A settled pool with ``a``, and ``b`` as it may be told."""
    known = {k: v for k, v in fields.items() if isinstance(v, Behaviour)}
    spec = {k: v for k, v in fields.items() if not isinstance(v, (Behaviour, AnalysisSpec))}
    analysis = next(
        (v for v in fields.values() if isinstance(v, AnalysisSpec)), AnalysisSpec(min_requests=20)
    )
    entry = PoolModel("shapes", "a", rollout=RolloutSpec(steps, analysis), **spec)  # type: ignore[arg-type]
    models = {"a": Behaviour(), "b": Behaviour(), "c": Behaviour(), **known}
    return Fleet(entry, workers=workers, room=room, **models).run(5)


def rolling(*steps: RolloutStep, **fields: object) -> Fleet:
    """The same, told to move to ``b``."""
    world = fleet(*steps, **fields)  # type: ignore[arg-type]
    world.set_entry(model="b")
    return world


def test_a_pool_begins_without_a_rollout() -> None:
    world = fleet(*FULL)
    assert (world.rollout, world.traffic, world.condition("Ready")) == ({}, {"a": 100}, "True Ready")
    assert world.plan.again is None
    assert not world.plan.watch_gateways


def test_a_good_model_goes_through_all_steps_and_is_promoted() -> None:
    world = rolling(*FULL)
    seen = []
    for _ in range(80):
        world.tick()
        seen.append((world.rollout.get("phase", "Done"), world.traffic.get("b", 0)))
    steps = list(dict.fromkeys(seen))
    assert steps == [
        ("Preparing", 0),
        ("Paused", 0),
        ("Analyzing", 10),
        ("Paused", 50),
        ("Analyzing", 50),
        ("Done", 100),
    ]
    assert world.endings == ["Promoted"]
    assert (world.entry["stable"], world.traffic, world.resident("a")) == ("b", {"b": 100}, 0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(Behaviour(errors=0.3), "errorRate", id="failing"),
        pytest.param(Behaviour(seconds=0.02), "latency", id="slow"),
        pytest.param(Behaviour(quality=0.7), "qualityScore", id="worse pictures"),
    ],
)
def test_a_bad_model_is_aborted_and_all_traffic_returns(bad: Behaviour, reason: str) -> None:
    world = rolling(*FULL, b=bad).run(120)
    assert world.endings == ["Aborted"]
    assert (world.rollout["phase"], world.rollout["reason"]) == ("Aborted", "AnalysisFailed")
    assert world.rollout["abortedModel"] == "b"
    assert reason in world.rollout["message"]
    assert world.traffic == {"a": 100}
    assert world.condition("RolloutHealthy") == "False RolloutAborted"
    assert world.condition("Ready") == "True Ready"
    assert world.resident("b") == 0


def test_an_aborted_model_is_tried_again_only_when_the_spec_has_named_another() -> None:
    world = rolling(*FULL, b=Behaviour(errors=0.3)).run(120)
    world.set_entry(model="a")
    assert world.run(2).rollout == {}
    world.set_entry(model="b")
    assert world.run(2).rollout["phase"] == "Preparing"


@pytest.mark.parametrize("ticks", range(1, 30, 3))
def test_naming_the_old_model_again_goes_back_at_any_moment(ticks: int) -> None:
    world = rolling(*FULL, b=Behaviour(loads=ticks % 2 == 0)).run(ticks)
    before = world.endings
    world.set_entry(model="a")
    world.look()
    assert (world.entry["stable"], world.traffic, world.rollout) == ("a", {"a": 100}, {})
    assert world.endings[len(before) :] == ["Reverted"]
    world.run(5)
    assert world.resident("b") == 0
    assert world.condition("Ready") == "True Ready"


def test_a_third_model_takes_the_place_of_the_canary() -> None:
    world = rolling(*FULL).run(20)
    world.set_entry(model="c")
    world.run(80)
    assert world.endings == ["Superseded", "Promoted"]
    assert world.entry["stable"] == "c"


def test_without_steps_the_new_model_takes_over_when_it_is_resident() -> None:
    world = rolling(room=2)
    world.look()
    assert (world.traffic, world.rollout["phase"]) == ({"a": 100}, "Preparing")
    world.run(4)
    assert (world.traffic, world.endings) == ({"b": 100}, ["Promoted"])


def test_one_worker_without_room_for_both_completes() -> None:
    world = rolling(*FULL, workers=1)
    world.run(5)
    assert world.rollout["allAtOnce"]
    assert world.traffic == {"a": 100}
    world.run(200)
    assert (world.endings, world.traffic, world.resident("b")) == (["Promoted"], {"b": 100}, 1)


def test_one_worker_goes_back_when_the_new_model_is_bad() -> None:
    world = rolling(*FULL, workers=1, b=Behaviour(errors=0.5)).run(200)
    assert (world.endings, world.traffic, world.resident("a")) == (["Aborted"], {"a": 100}, 1)


def test_a_model_that_never_loads_never_serves_and_is_aborted_in_the_end() -> None:
    world = rolling(SetWeight(10), b=Behaviour(loads=False)).run(20)
    assert (world.traffic, world.rollout["phase"]) == ({"a": 100}, "Preparing")
    assert world.condition("ModelsPlaced") == "True ModelsPlaced"
    world.run(80, seconds=10)
    assert world.rollout["reason"] == "ProgressDeadlineExceeded"
    assert world.condition("Ready") == "True Ready"


def test_a_model_that_does_not_exist_is_waited_for() -> None:
    world = rolling(SetWeight(10), b=Behaviour(exists=False)).run(5)
    assert world.rollout["reason"] == "ModelNotFound"
    assert world.condition("ModelsPlaced") == "True ModelsPlaced"
    world.kinds["b"] = Behaviour()
    world.run(20)
    assert world.endings == ["Promoted"]


@pytest.mark.parametrize(
    ("then", "phase", "endings"),
    [
        (OnInconclusive.PAUSE, "Paused", []),
        (OnInconclusive.PROMOTE, "Done", ["Promoted"]),
        (OnInconclusive.ABORT, "Aborted", ["Aborted"]),
    ],
)
def test_figures_that_do_not_decide_in_time(then: OnInconclusive, phase: str, endings: list[str]) -> None:
    spec = AnalysisSpec(max_wait_seconds=30, on_inconclusive=then)
    world = rolling(SetWeight(10), Analyze(), spec=spec)
    world.rate = 0
    world.run(50)
    assert (world.rollout.get("phase", "Done"), world.endings) == (phase, endings)


def test_a_pause_without_end_waits_for_a_person() -> None:
    world = rolling(SetWeight(10), Pause()).run(100)
    assert (world.rollout["phase"], world.condition("RolloutHealthy")) == ("Paused", "True RolloutPaused")
    world.say("promote shapes")
    world.run(5)
    assert world.endings == ["Promoted"]
    assert world.status["command"]["outcome"] == "Applied"


def test_a_burning_error_budget_pauses_and_resumes() -> None:
    world = rolling(SetWeight(50), Pause(5), slo=Slo(success_rate=0.99), room=2).run(2)
    world.kinds["a"] = world.kinds["b"] = Behaviour(errors=0.1)
    world.run(20)
    assert world.rollout.get("reason") == "BurningErrorBudget"
    assert world.condition("RolloutHealthy") == "False RolloutBlocked"
    world.kinds["a"] = world.kinds["b"] = Behaviour()
    world.run(400)
    assert world.endings == ["Promoted"]
