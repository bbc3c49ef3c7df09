"""What people say to a rollout, by annotation."""

import pytest
from imagefleet_operator.plan.rollout_types import (
    Analyze,
    Pause,
    SetWeight,
)

from tests.unit.operator.rollout_world import Behaviour, fleet, rolling


@pytest.mark.parametrize(
    ("command", "outcome", "phase"),
    [
        ("pause shapes", "Applied", "Paused"),
        ("resume shapes", "Refused", "Analyzing"),
        ("promote shapes", "Applied", "Paused"),
        ("promote-full shapes", "Applied", "Done"),
        ("abort shapes", "Applied", "Aborted"),
        ("retry shapes", "Refused", "Analyzing"),
        ("unsuspend shapes", "Refused", "Analyzing"),
        ("abort others", "Refused", "Analyzing"),
        ("abort", "Refused", "Analyzing"),
        ("demote shapes", "Refused", "Analyzing"),
    ],
)
def test_what_people_say_while_an_analysis_goes_on(command: str, outcome: str, phase: str) -> None:
    world = rolling(SetWeight(10), Analyze(), Pause(), room=2)
    world.rate = 0
    world.run(10)
    world.command = command
    world.look()
    assert world.status["command"]["value"] == command
    assert world.status["command"]["outcome"] == outcome
    assert world.rollout.get("phase", "Done") == phase
    told = world.status["command"]
    assert world.run(3).status["command"] == told
    assert world.endings in ([], ["Aborted"], ["Promoted"])


def test_a_person_pauses_and_resumes() -> None:
    world = rolling(SetWeight(10), Pause(5), room=2).run(4)
    world.say("pause shapes")
    world.run(100)
    assert (world.rollout["reason"], world.traffic) == ("CommandPaused", {"a": 90, "b": 10})
    world.say("resume shapes")
    world.run(4)
    assert world.rollout["reason"] == "PauseStep"
    world.run(4)
    assert world.endings == ["Promoted"]


def test_a_person_has_an_aborted_model_tried_again() -> None:
    world = rolling(SetWeight(50), Analyze(), b=Behaviour(errors=0.5)).run(60)
    world.kinds["b"] = Behaviour()
    world.say("retry shapes")
    world.run(80)
    assert world.endings == ["Aborted", "Promoted"]


def test_a_command_in_the_manifest_of_a_new_pool_is_answered() -> None:
    world = fleet()
    world.status, world.command = {}, "promote shapes"
    world.look()
    assert world.status["command"]["outcome"] == "Refused"


def test_a_command_of_any_length_is_answered_once() -> None:
    world = fleet()
    world.command = "promote shapes " + "x" * 100_000
    told = world.run(1).status["command"]
    assert len(told["value"]) == 256
    assert world.run(2).status["command"] == told
