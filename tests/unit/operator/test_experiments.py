"""Experiments and shadow traffic, over a pool that does as it is told."""

from imagefleet_operator.plan.conditions import timestamp
from imagefleet_operator.plan.rollout_types import Experiment, Pause, SetWeight, Shadow
from imagefleet_operator.plan.types import Json

from tests.unit.operator.make import NOW
from tests.unit.operator.rollout_world import Behaviour, Fleet, fleet

STYLES = (Experiment("styles", (("b", 20),), 60),)


def trial(world: Fleet) -> Json:
    found: Json
    (found,) = world.entry["experiments"]
    return found


def test_an_experiment_runs_for_its_time_with_figures_of_each_arm() -> None:
    world = fleet(room=2)
    begun = world.now
    world.set_entry(experiments=STYLES)
    world.look()
    assert (trial(world)["phase"], trial(world)["message"]) == ("Waiting", "Loading b.")
    world.run(12)
    assert (trial(world)["phase"], world.traffic) == ("Running", {"a": 80, "b": 20})
    stable, arm = trial(world)["arms"]
    assert (stable["model"], arm["model"], arm["percent"]) == ("a", "b", 20)
    assert arm == {
        "model": "b",
        "percent": 20,
        "requests": arm["requests"],
        "errorRate": 0.0,
        "outOfMemoryRate": 0.0,
        "qualityScore": 0.9,
        "secondsPerMegapixelStep": 0.01,
    }
    assert world.plan.again == 1.0
    world.run(60)
    assert (trial(world)["phase"], world.traffic, world.resident("b")) == ("Ended", {"a": 100}, 0)
    assert begun > NOW
    assert str(trial(world)["endsAt"]) > timestamp(begun + 60)
    kept = trial(world)["arms"]
    world.run(5)
    assert trial(world)["arms"] == kept
    assert world.plan.again is None
    assert "window" not in world.entry


def test_an_experiment_without_room_waits_and_takes_nothing() -> None:
    world = fleet(workers=1)
    world.set_entry(experiments=STYLES)
    world.run(5)
    assert (trial(world)["phase"], trial(world)["message"]) == ("Waiting", "No worker has room for b.")
    assert (world.traffic, world.condition("Ready")) == ({"a": 100}, "True Ready")


def test_an_experiment_with_a_model_that_does_not_exist_waits() -> None:
    world = fleet(room=2, b=Behaviour(exists=False))
    world.set_entry(experiments=STYLES)
    assert "no ImageModel b" in str(trial(world.run(3))["message"])
    assert world.condition("Ready") == "True Ready"


def test_an_experiment_ends_when_it_is_taken_out() -> None:
    world = fleet(room=2, experiments=STYLES).run(5)
    world.set_entry(experiments=())
    world.run(3)
    assert (world.traffic, world.entry.get("experiments")) == ({"a": 100}, None)


def test_an_arm_that_is_lost_leaves_its_share_until_it_is_back() -> None:
    world = fleet(room=2, experiments=STYLES).run(5)
    for worker in world.workers:
        worker.states.pop("b")
    world.look()
    assert world.traffic == {"a": 100}
    world.run(4)
    assert world.traffic == {"a": 80, "b": 20}


def test_while_gateways_do_not_answer_what_was_counted_stands() -> None:
    world = fleet(room=2, experiments=STYLES).run(10)
    before = trial(world)["arms"]
    world.gateways = False
    world.look()
    assert trial(world)["arms"] == before


def test_a_rollout_beside_an_experiment_shares_the_rest() -> None:
    world = fleet(SetWeight(50), Pause(), room=3, experiments=(Experiment("e", (("c", 20),)),)).run(5)
    world.set_entry(model="b")
    world.run(5)
    assert world.traffic == {"a": 40, "c": 20, "b": 40}


def test_a_shadow_draws_copies_as_long_as_it_is_held() -> None:
    world = fleet(room=2)
    world.set_entry(shadow=Shadow("b", 10))
    world.look()
    assert "mirror" not in world.entry
    world.run(4)
    assert world.entry["mirror"] == [{"model": "b", "percent": 10}]
    assert world.traffic == {"a": 100}
    world.set_entry(shadow=None)
    world.run(3)
    assert ("mirror" in world.entry, world.resident("b")) == (False, 0)
