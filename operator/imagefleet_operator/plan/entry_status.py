"""What a pool's status says of its entries."""

from collections.abc import Sequence
from dataclasses import replace

from imagefleet_operator.plan import suspension, verdicts
from imagefleet_operator.plan.arms import number
from imagefleet_operator.plan.burn import Burn
from imagefleet_operator.plan.entries import Entries
from imagefleet_operator.plan.rollout_state import EntryState, rollout_status, trial_status
from imagefleet_operator.plan.rounding import settled
from imagefleet_operator.plan.traffic import mirror, traffic
from imagefleet_operator.plan.types import Json, PoolModel, PoolObserved, PoolSpec


def main_entries(spec: PoolSpec, entries: Entries) -> tuple[PoolModel, ...]:
    """The entries as their main models are asked for now; those that are suspended are asked for nothing."""
    return tuple(
        _standing(entry, state, entries)
        for entry, state in entries.states
        if not suspended(spec, entry, state, entries)
    )


def suspended(spec: PoolSpec, entry: PoolModel, state: EntryState, entries: Entries) -> str:
    """Why an entry answers nobody; empty where it does."""
    unsafe = suspension.unsafe_models(entries.suspensions, entry.name)
    stands = f"{state.main} is suspended for safety." if state.main in unsafe else ""
    return suspension.requested(spec, entry) or stands


def _standing(entry: PoolModel, state: EntryState, entries: Entries) -> PoolModel:
    return replace(entry, model=state.main, min_resident=entries.layout.wanted[entry.name])


def entries_status(spec: PoolSpec, observed: PoolObserved, entries: Entries) -> Json:
    """``models``, and of ``rollout``, ``history``, ``suspensions`` and ``command`` what there is."""
    old = {m.get("name"): m for m in observed.pool.status.get("models") or ()}
    parts = {
        "rollout": summary([state for _, state in entries.states]),
        "history": list(entries.history),
        "suspensions": list(entries.suspensions),
        "command": entries.command,
    }
    models = [
        _entry_status(spec, observed, entries, entry, state, old.get(entry.name) or {})
        for entry, state in entries.states
    ]
    return {"models": models, **{key: part for key, part in parts.items() if part}}


def _entry_status(
    spec: PoolSpec, observed: PoolObserved, entries: Entries, entry: PoolModel, state: EntryState, old: Json
) -> Json:
    def resident(model: str) -> int:
        return verdicts.resident(observed, model)

    halted = bool(suspended(spec, entry, state, entries))
    unsafe = suspension.unsafe_models(entries.suspensions, entry.name)
    optional = {
        "canary": state.active.to if state.active else "",
        "mirror": [] if halted else mirror(entry, state, resident, unsafe),
        "window": state.window,
        "rollout": rollout_status(state.rollout) if state.rollout else None,
        "experiments": [trial_status(trial) for trial in state.trials],
        "budget": _budget(old.get("budget") or {}, entries.burns[entry.name]),
    }
    return {
        "name": entry.name,
        "stable": state.stable,
        "traffic": [] if halted else traffic(entry, state, resident, unsafe),
        "resident": resident(state.main),
        "ready": not halted and verdicts.model_ready(_standing(entry, state, entries), observed),
        **{key: part for key, part in optional.items() if part},
    }


def _budget(old: Json, now: Burn) -> Json:
    """A rate moves when it has moved visibly, and goes with the opinion."""
    rates = {"shortBurnRate": number(now.short), "longBurnRate": number(now.long)}
    return {
        key: settled(old.get(key), rate, within=0.1, digits=2)
        for key, rate in rates.items()
        if rate is not None
    }


def summary(states: Sequence[EntryState]) -> Json:
    """``status.rollout``, for ``kubectl get``: the first entry that rolls out, else the first that was aborted, else
    the first."""
    state = next(
        (s for s in states if s.active), next((s for s in states if s.rollout), states[0] if states else None)
    )
    if state is None:
        return {}
    rollout = state.rollout
    if rollout is None:
        return {"stable": state.stable}
    step = {"step": f"{rollout.last_step}/{rollout.steps}"} if rollout.steps else {}
    canary = {"canary": rollout.to, "weight": f"{rollout.weight}%"} if state.active else {}
    return {"stable": state.stable, **canary, **step, "phase": str(rollout.phase)}
