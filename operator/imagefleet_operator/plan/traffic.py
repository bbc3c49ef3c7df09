"""Which model gets which share of an entry's requests, and which draws copies of them."""

from collections.abc import Callable, Collection

from imagefleet_operator.plan.rollout_state import EntryState
from imagefleet_operator.plan.types import Json, PoolModel

Resident = Callable[[str], int]


def traffic(entry: PoolModel, state: EntryState, resident: Resident, unsafe: Collection[str]) -> list[Json]:
    """``status.models[].traffic``: whole percents that sum to 100; empty where the model that the entry stands on is
    suspended for safety.

    A model that nobody holds gets none while another one with a share is held: its share goes to the main model, or
    where that is lost, to the one with the largest share.
    """
    if state.main in unsafe:
        return []
    shares = {m: p for m, p in _shares(entry, state).items() if m not in unsafe}
    held = [model for model in shares if resident(model)]
    heir = state.main if state.main in held or not held else max(held, key=lambda m: shares[m])
    others = sum(shares[model] for model in held if model != heir)
    given = {model: shares[model] for model in held} | {heir: 100 - others}
    return [{"model": model, "percent": percent} for model, percent in given.items()]


def _shares(entry: PoolModel, state: EntryState) -> dict[str, int]:
    """What is meant to be, the main model first. Experiments have their percents of all requests, the canary its weight
    of the rest.

    Worked example: an experiment of 20 % and a canary at 50 %: 40 % stable, 40 % canary, 20 % experiment.
    """
    shares = {state.main: 0}
    for running in state.running:
        for model, percent in next((e.arms for e in entry.experiments if e.name == running.name), ()):
            shares[model] = shares.get(model, 0) + percent
    left = 100 - sum(shares.values())
    rollout = state.active
    if rollout is not None and rollout.weight and not rollout.taken_over:
        shares[rollout.to] = shares.get(rollout.to, 0) + min(left, max(1, round(left * rollout.weight / 100)))
    shares[state.main] += 100 - sum(shares.values())
    return {model: percent for model, percent in shares.items() if percent > 0}


def mirror(entry: PoolModel, state: EntryState, resident: Resident, unsafe: Collection[str]) -> list[Json]:
    """``status.models[].mirror``: the canary's copies and the shadow's, of models that are held."""
    wanted: dict[str, int] = {}
    if state.active is not None:
        wanted[state.active.to] = state.active.mirrored(entry.rollout.steps)
    if entry.shadow is not None:
        wanted[entry.shadow.model] = max(wanted.get(entry.shadow.model, 0), entry.shadow.percent)
    return [{"model": m, "percent": p} for m, p in wanted.items() if p and m not in unsafe and resident(m)]
