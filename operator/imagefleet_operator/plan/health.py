"""How a pool's rollouts and its models' pictures are doing: conditions that stand beside ``Ready``."""

from collections.abc import Iterable

from imagefleet_operator.plan import conditions, suspension
from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.entries import Entries
from imagefleet_operator.plan.rollout_state import EntryState, Phase, Reason
from imagefleet_operator.plan.types import Json, PoolObserved

BLOCKED = (Reason.BURNING, Reason.INCONCLUSIVE)
"""Why a rollout waits that someone should look into."""


def rollout_healthy(states: Iterable[EntryState]) -> Verdict:
    """The ``RolloutHealthy`` condition: the worst of all entries."""
    verdicts = [_of_entry(state) for state in states]
    known = sorted((v for v in verdicts if v is not None), key=_rank)
    return known[0] if known else Verdict(True, "NoRollout", "No rollout is under way.")


RANKS = ("RolloutAborted", "RolloutBlocked", "RolloutPaused", "RolloutProgressing")


def _rank(verdict: Verdict) -> int:
    return RANKS.index(verdict.reason)


def _of_entry(state: EntryState) -> Verdict | None:
    rollout = state.rollout
    if rollout is None:
        return None
    if rollout.phase is Phase.ABORTED:
        told = f"{state.name}: {rollout.to} was aborted ({rollout.reason}): {rollout.message}"
        return Verdict(False, "RolloutAborted", told)
    told = f"{state.name}: {state.stable} to {rollout.to}: {rollout.message}"
    if rollout.reason in BLOCKED:
        return Verdict(False, "RolloutBlocked", told)
    return Verdict(True, "RolloutPaused" if rollout.phase is Phase.PAUSED else "RolloutProgressing", told)


def safety_healthy(observed: PoolObserved, entries: Entries) -> Verdict | None:
    """The ``SafetyHealthy`` condition; None where no entry has a floor. While nothing is measured, what was found
    stands."""
    judged = [(e, s) for e, s in entries.states if e.slo.safety_pass_rate is not None]
    if not judged:
        return None
    for entry, state in judged:
        used = suspension.models_in_use(entry, state)
        for held in suspension.open_ones(entries.suspensions, entry.name, suspension.UNSAFE):
            if held["model"] in used:
                return Verdict(
                    False, "Unsafe", f"{entry.name}: {held['model']} is suspended: {held['message']}"
                )
        for model, why in entries.unsafe[entry.name].items():
            return Verdict(False, "Unsafe", f"{entry.name}: {model}: {why}")
    if any(_checked(observed, entry.name) for entry, _ in judged):
        return Verdict(True, "SafetyHealthy", "No model's pictures are certainly under their floor.")
    return _as_before(conditions.find(observed.pool.status, "SafetyHealthy"))


def _checked(observed: PoolObserved, name: str) -> int:
    figures = observed.figures.get(name)
    return sum(budget.checked for budget in figures.short.values()) if figures else 0


def _as_before(old: Json | None) -> Verdict:
    """A suspension that was lifted is no finding."""
    if old is None or old["status"] != "True":
        return Verdict(None, "NoOpinion", "No picture has been checked lately.")
    return Verdict(True, old["reason"], old["message"])
