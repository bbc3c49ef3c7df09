"""Who gets which share of an entry's requests."""

from collections.abc import Collection

import pytest
from imagefleet_operator.plan.rollout_state import EntryState, Phase, Rollout, Trial
from imagefleet_operator.plan.rollout_types import Experiment, Mirror, Pause, RolloutSpec, SetWeight, Shadow
from imagefleet_operator.plan.traffic import mirror, traffic
from imagefleet_operator.plan.types import PoolModel

ARMS = (Experiment("e", (("c", 20),)), Experiment("f", (("d", 10), ("b", 5))))
RUNNING = (Trial("e", "Running"), Trial("f", "Ended"))
ENTRY = PoolModel("x", "a", experiments=ARMS)


def at(
    weight: int, *, at_once: bool = False, phase: Phase = Phase.PAUSED, trials: tuple[Trial, ...] = ()
) -> EntryState:
    rollout = Rollout("b", 0.0, phase, step=2, steps=3, weight=weight, all_at_once=at_once)
    return EntryState("x", "a", rollout, trials=trials)


@pytest.mark.parametrize(
    ("state", "held", "want"),
    [
        pytest.param(EntryState("x", "a"), "a", {"a": 100}, id="the stable model alone"),
        pytest.param(EntryState("x", "a"), "", {"a": 100}, id="which nobody holds yet"),
        pytest.param(at(0), "ab", {"a": 100}, id="before the first weight"),
        pytest.param(at(5), "ab", {"a": 95, "b": 5}, id="a canary"),
        pytest.param(at(100), "ab", {"b": 100}, id="a canary with all"),
        pytest.param(at(5), "a", {"a": 100}, id="a canary that was lost"),
        pytest.param(at(5), "b", {"b": 100}, id="a stable model that was lost"),
        pytest.param(at(0), "b", {"a": 100}, id="not to a canary that was shown nothing"),
        pytest.param(at(5), "", {"a": 100}, id="nobody holds either"),
        pytest.param(at(5, at_once=True), "a", {"b": 100}, id="all at once, while it is loaded"),
        pytest.param(at(5, phase=Phase.ABORTED), "ab", {"a": 100}, id="aborted"),
        pytest.param(
            EntryState("x", "a", trials=RUNNING), "abcd", {"a": 80, "c": 20}, id="the experiment that runs"
        ),
        pytest.param(
            at(50, trials=RUNNING), "abc", {"a": 40, "c": 20, "b": 40}, id="a canary has of the rest"
        ),
        pytest.param(at(1, trials=RUNNING), "abc", {"a": 79, "c": 20, "b": 1}, id="at least one percent"),
        pytest.param(at(50, trials=RUNNING), "bc", {"c": 20, "b": 80}, id="the largest share inherits"),
        pytest.param(
            at(50, trials=(Trial("f", "Running"),)),
            "abd",
            {"a": 43, "d": 10, "b": 47},
            id="an arm that is the canary",
        ),
    ],
)
def test_shares(state: EntryState, held: Collection[str], want: dict[str, int]) -> None:
    found = traffic(ENTRY, state, lambda model: int(model in held), ())
    assert {share["model"]: share["percent"] for share in found} == want


@pytest.mark.parametrize(
    ("unsafe", "want"),
    [("a", []), ("b", [{"model": "a", "percent": 100}])],
    ids=["the stable model: nobody is answered", "the canary: the stable one has all"],
)
def test_shares_without_what_is_suspended(unsafe: str, want: list[object]) -> None:
    assert traffic(ENTRY, at(50), lambda model: 1, [unsafe]) == want


STEPS = (Mirror(20), Pause(), SetWeight(5))
MIRRORED = PoolModel("x", "b", rollout=RolloutSpec(STEPS), shadow=Shadow("s", 10))


@pytest.mark.parametrize(
    ("state", "held", "unsafe", "want"),
    [
        pytest.param(at(0), "abs", "", {"b": 20, "s": 10}, id="the canary and the shadow"),
        pytest.param(at(0), "as", "", {"s": 10}, id="a canary that nobody holds"),
        pytest.param(at(0), "abs", "s", {"b": 20}, id="a shadow that is suspended"),
        pytest.param(at(0, at_once=True), "abs", "", {"s": 10}, id="no room for both"),
        pytest.param(at(0, phase=Phase.ABORTED), "abs", "", {"s": 10}, id="aborted"),
        pytest.param(EntryState("x", "a"), "abs", "", {"s": 10}, id="no rollout"),
    ],
)
def test_mirrors(state: EntryState, held: str, unsafe: str, want: dict[str, int]) -> None:
    found = mirror(MIRRORED, state, lambda model: int(model in held), unsafe)
    assert {share["model"]: share["percent"] for share in found} == want
