"""Rollouts while the error budget burns."""

from imagefleet_operator.plan.rollout_types import AnalysisSpec, Pause, SetWeight, Slo

from tests.unit.operator.rollout_world import Behaviour, Fleet, fleet, rolling


def burning() -> Fleet:
    """A rollout that is held in a pause of 30 s because the error budget burns."""
    world = rolling(SetWeight(50), Pause(30), slo=Slo(success_rate=0.99), spec=AnalysisSpec({}), room=2).run(
        5
    )
    world.kinds["a"] = world.kinds["b"] = Behaviour(errors=0.1)
    world.run(15)
    assert world.rollout["reason"] == "BurningErrorBudget"
    world.kinds["a"] = world.kinds["b"] = Behaviour()
    return world


def test_a_burning_error_budget_pauses_and_resumes() -> None:
    world = rolling(SetWeight(50), Pause(5), slo=Slo(success_rate=0.99), room=2).run(2)
    world.kinds["a"] = world.kinds["b"] = Behaviour(errors=0.1)
    world.run(20)
    assert world.rollout.get("reason") == "BurningErrorBudget"
    assert world.condition("RolloutHealthy") == "False RolloutBlocked"
    world.kinds["a"] = world.kinds["b"] = Behaviour()
    world.run(320)
    assert world.endings == ["Promoted"]


def test_new_rollouts_wait_while_the_error_budget_burns() -> None:
    world = fleet(SetWeight(10), slo=Slo(success_rate=0.99), a=Behaviour(errors=0.05)).run(30)
    world.set_entry(model="b")
    world.run(80, seconds=10)
    assert (world.rollout["phase"], world.rollout["reason"]) == ("Preparing", "BurningErrorBudget")
    assert world.resident("b") == 0
    world.say("promote-full shapes")
    world.run(5)
    assert world.endings == ["Promoted"]


def test_a_budget_that_burns_fast_aborts() -> None:
    world = rolling(SetWeight(50), Pause(), slo=Slo(success_rate=0.999), spec=AnalysisSpec({}), room=2).run(
        10
    )
    world.kinds["b"] = Behaviour(errors=0.5)
    world.run(10)
    assert (world.rollout["phase"], world.rollout["reason"]) == ("Aborted", "BurningErrorBudget")


def test_while_gateways_do_not_answer_a_rollout_stays_held() -> None:
    world = burning()
    world.gateways = False
    world.run(10, seconds=100)
    assert (world.rollout["reason"], world.endings) == ("BurningErrorBudget", [])


def test_a_step_that_was_held_begins_anew() -> None:
    world = burning()
    while world.rollout["reason"] == "BurningErrorBudget":
        world.tick()
    world.run(25)
    assert (world.rollout["reason"], world.endings) == ("PauseStep", [])
    assert world.run(10).endings == ["Promoted"]
