"""Rollouts from beginning to end, over a pool that does as it is told."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.plan.rollout_types import (
    AnalysisSpec,
    Analyze,
    Mirror,
    OnInconclusive,
    Pause,
    RolloutStep,
    SetWeight,
)

from tests.unit.operator.rollout_world import Behaviour, fleet, rolling

FULL: tuple[RolloutStep, ...] = (
    Mirror(20),
    Pause(5),
    SetWeight(10),
    Analyze(),
    SetWeight(50),
    Pause(5),
    Analyze(),
)


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


@pytest.mark.parametrize("ticks", range(1, 6))
def test_a_canary_named_again_while_workers_unload_it_has_no_share_before_it_is_back(ticks: int) -> None:
    world = rolling(SetWeight(50), Pause(), room=2).run(20)
    assert world.traffic == {"a": 50, "b": 50}
    world.set_entry(model="a")
    world.run(ticks)
    world.set_entry(model="b")
    for _ in range(6):
        held = {model for model in "ab" if world.resident(model)}
        world.tick()
        assert set(world.traffic) <= held
    assert world.traffic == {"a": 50, "b": 50}


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


def test_a_model_that_takes_over_all_at_once_waits_for_something_to_compare_with() -> None:
    world = rolling(SetWeight(10), Analyze(), workers=1)
    world.rate = 0
    assert world.run(100).rollout["reason"] == "CollectingFigures"
    world.rate = 20
    assert world.run(150).endings == ["Promoted"]


def test_and_goes_without_in_the_end() -> None:
    world = rolling(SetWeight(10), workers=1)
    world.rate = 0
    world.run(55)
    assert (world.rollout["reason"], world.traffic) == ("CollectingFigures", {"a": 100})
    assert world.run(15).endings == ["Promoted"]


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


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(
        st.sampled_from((SetWeight(0), SetWeight(10), SetWeight(60), Mirror(20), Pause(3))), max_size=4
    ),
    judged=st.booleans(),
    workers=st.integers(1, 3),
    room=st.integers(1, 2),
    copies=st.integers(0, 4),
    bad=st.booleans(),
)
def test_any_rollout_ends_as_its_verdicts_say(
    steps: list[RolloutStep], judged: bool, workers: int, room: int, copies: int, bad: bool
) -> None:
    """With good figures it is promoted, with bad ones aborted, however few the workers are."""
    last = (SetWeight(50), Analyze()) if judged else ()
    canary = Behaviour(errors=0.6) if bad else Behaviour()
    world = rolling(*steps, *last, workers=workers, room=room, min_resident=copies, b=canary)
    world.rate = 40
    for _ in range(12):
        world.run(10 if not world.endings else 0)
    world.run(8)
    assert len(world.endings) == 1
    if judged:
        assert world.endings == ["Aborted" if bad else "Promoted"]
    stable = "b" if world.endings == ["Promoted"] else "a"
    assert (world.entry["stable"], world.traffic) == (stable, {stable: 100})
    assert world.resident(stable) >= min(copies, workers)


def test_a_rollout_waits_for_workers_where_there_are_none() -> None:
    world = rolling(SetWeight(10), Pause(5))
    world.spec = replace(world.spec, replicas=0)
    world.workers = []
    world.run(100, seconds=60)
    assert (world.rollout["reason"], world.endings) == ("ScaledToZero", [])
    world.spec = replace(world.spec, replicas=1)
    world.add_worker()
    world.run(120)
    assert world.endings == ["Promoted"]


@pytest.mark.parametrize("steps", [(), (SetWeight(10), Pause())], ids=["without steps", "with steps"])
def test_a_stable_model_that_does_not_exist_is_replaced_at_once(steps: tuple[RolloutStep, ...]) -> None:
    world = fleet(*steps, a=Behaviour(exists=False))
    world.set_entry(model="b")
    world.look()
    assert (world.entry["stable"], world.rollout) == ("b", {})


def test_a_canary_whose_workers_go_gets_no_traffic_and_is_waited_for() -> None:
    world = rolling(SetWeight(10), Pause(), room=2).run(6)
    assert world.traffic == {"a": 90, "b": 10}
    for worker in world.workers:
        worker.states.pop("b")
    world.look()
    assert (world.rollout["phase"], world.traffic) == ("Preparing", {"a": 100})
    world.run(4)
    assert (world.rollout["phase"], world.traffic) == ("Paused", {"a": 90, "b": 10})


def test_models_leave_workers_after_their_requests_have_left_them() -> None:
    """The status with the new shares is written before a policy without the old model is."""
    world = rolling(workers=1)
    for _ in range(10):
        named = {e["model"] for w in world.workers for e in w.policy}
        assert set(world.traffic) <= named | {"b"}
        world.look()
        if world.traffic == {"b": 100}:
            break
        for worker in world.workers:
            worker.tick(world.kinds)
    assert {e["model"] for e in world.workers[0].policy} == {"a"}
    world.look()
    assert {e["model"] for e in world.workers[0].policy} == {"b"}


def test_the_first_status_after_an_update_of_the_operator_begins_no_rollout() -> None:
    world = fleet(*FULL)
    old = {key: world.entry[key] for key in ("name", "stable", "traffic", "resident", "ready")}
    world.status = {**world.status, "models": [old]}
    assert world.run(2).rollout == {}


def test_the_summary_for_kubectl_get() -> None:
    world = rolling(SetWeight(10), Pause(), room=2).run(6)
    assert world.status["rollout"] == {
        "stable": "a",
        "canary": "b",
        "weight": "10%",
        "step": "2/2",
        "phase": "Paused",
    }


def test_who_named_the_model_is_kept() -> None:
    world = fleet(SetWeight(50), room=2)
    world.authors = {"shapes": "argocd"}
    world.set_entry(model="b")
    world.look()
    assert world.rollout["by"] == "argocd"
    world.run(6)
    (ended,) = world.status["history"]
    assert (ended["by"], ended["from"], ended["to"]) == ("argocd", "a", "b")


def test_the_last_ten_endings_are_kept_the_latest_last() -> None:
    world = fleet(room=2)
    for turn in range(12):
        world.set_entry(model="ab"[(turn + 1) % 2])
        world.run(5)
    assert len(world.endings) == 10
    assert world.status["history"][-1]["to"] == "a"


def test_a_pause_is_not_under_the_deadline() -> None:
    world = rolling(SetWeight(10), Pause(), room=2).run(100, seconds=60)
    assert (world.rollout["reason"], world.endings) == ("PauseStep", [])


def test_counting_the_stable_model_is_not_under_the_deadline() -> None:
    spec = AnalysisSpec(max_wait_seconds=5000)
    world = rolling(SetWeight(10), Analyze(), spec=spec, workers=1)
    world.rate = 0
    world.run(100, seconds=10)
    assert (world.rollout["reason"], world.endings) == ("CollectingFigures", [])


def test_a_worker_that_is_away_for_a_while_is_no_reason_to_swap_the_other() -> None:
    world = fleet(SetWeight(10), Pause())
    lost = world.workers.pop()
    world.set_entry(model="b")
    world.run(20)
    assert (world.rollout["allAtOnce"], world.traffic) == (False, {"a": 100})
    world.workers.append(lost)
    world.run(10)
    assert (world.rollout["allAtOnce"], world.traffic) == (False, {"a": 90, "b": 10})
