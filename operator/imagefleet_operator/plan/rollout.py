"""When an entry of a pool begins to move from one model to another, and when that ends.

The spec names a model, the status the stable one; where they differ, a rollout is under way, or was aborted. All of it
is worked out from these two and from what is observed: the operator may be killed at any point.
"""

from collections.abc import Callable
from dataclasses import replace

from imagefleet_operator.plan.analysis import Judgement, Outcome, judge
from imagefleet_operator.plan.arms import analysis_status, arm_of, figures_status
from imagefleet_operator.plan.conditions import timestamp, truncated
from imagefleet_operator.plan.rollout_state import EntryState, Phase, Reason, Rollout, windows_of
from imagefleet_operator.plan.rollout_steps import Ending, View, burns_at, go_on, steps_of
from imagefleet_operator.plan.times import microtime
from imagefleet_operator.plan.types import Json

KEPT_ENDINGS = 10
Move = tuple[EntryState, tuple[Json, ...]]
"""The state after something happened, and what that adds to the history."""


def move(state: EntryState, view: View) -> Move:
    """The next thing that happens to an entry; the same state where nothing does."""
    for check in (_forget_aborted, _revert, _supersede, _replace_at_once, _begin, _abort):
        found = check(state, view)
        if found is not None:
            return found
    found_state = go_on(state, view)
    return _end(state, view, found_state) if isinstance(found_state, Ending) else (found_state, ())


def judgement_of(state: EntryState, view: View) -> Judgement | None:
    """How the canary compares with the stable model; None before it was shown anything."""
    rollout = state.active
    if rollout is None or not rollout.exposed(steps_of(state, view)):
        return None
    stable, canary = (arm_of(view.figures, state.window, model) for model in (state.stable, rollout.to))
    return judge(view.entry.rollout.analysis, stable, canary, windows=windows_of(steps_of(state, view)))


def _forget_aborted(state: EntryState, view: View) -> Move | None:
    """A model that was aborted may be tried again once the spec has named another one."""
    aborted = state.rollout is not None and state.active is None
    if not aborted or state.rollout is None or state.rollout.to == view.entry.model:
        return None
    return replace(state, rollout=None), ()


def _revert(state: EntryState, view: View) -> Move | None:
    if state.active is None or view.entry.model != state.stable:
        return None
    return _end(state, view, Ending("Reverted", "Reverted", f"The spec names {state.stable} again."))


def _supersede(state: EntryState, view: View) -> Move | None:
    if state.active is None or view.entry.model == state.active.to:
        return None
    return _end(state, view, Ending("Superseded", "Superseded", f"The spec names {view.entry.model} now."))


def _replace_at_once(state: EntryState, view: View) -> Move | None:
    """A stable model that does not exist, or never was verified, serves nobody, and neither does one without steps in a
    pool without workers: there is nothing to protect."""
    if state.rollout is not None or view.entry.model == state.stable:
        return None
    idle = view.no_workers and not view.entry.rollout.steps
    serves = view.unusable(state.stable) is None and not idle
    return None if serves else (replace(state, stable=view.entry.model), ())


def _begin(state: EntryState, view: View) -> Move | None:
    if state.rollout is not None or view.entry.model == state.stable:
        return None
    now = view.now
    rollout = Rollout(
        to=view.entry.model, started_at=now, phase_at=now, step_at=now, steps=len(view.entry.rollout.steps)
    )
    begun = replace(state, rollout=replace(rollout, by=view.author), window=microtime(now))
    return begun, ()


def _abort(state: EntryState, view: View) -> Move | None:
    """A canary that does harm goes, whichever step is under way."""
    rollout = state.active
    if rollout is None:
        return None
    checks: tuple[Callable[[EntryState, Rollout, View], Ending | None], ...] = (_unsafe, _worse, _burnt)
    endings = (check(state, rollout, view) for check in checks)
    ending = next((e for e in endings if e is not None), None)
    return None if ending is None else _end(state, view, ending)


def _unsafe(state: EntryState, rollout: Rollout, view: View) -> Ending | None:
    if rollout.to not in view.unsafe:
        return None
    return Ending("Aborted", Reason.UNSAFE, f"{rollout.to} is suspended for safety.")


def _worse(state: EntryState, rollout: Rollout, view: View) -> Ending | None:
    if view.judgement is None or view.judgement.outcome is not Outcome.FAILED:
        return None
    return Ending("Aborted", Reason.FAILED, f"{view.judgement.message}.")


def _burnt(state: EntryState, rollout: Rollout, view: View) -> Ending | None:
    """Before the canary was shown anything, it cannot be the cause, and waits (``rollout_steps``)."""
    rate = view.entry.rollout.abort_burn_rate
    if not rollout.exposed(steps_of(state, view)) or not burns_at(view.burn, rate):
        return None
    return Ending(
        "Aborted",
        Reason.BURNING,
        f"Callers use up the error budget at {rate:g} times the allowed rate or more.",
    )


def abort_by_command(state: EntryState, view: View) -> Move:
    """Someone said so."""
    return _end(state, view, Ending("Aborted", Reason.ABORTED, "Someone said so."))


def _end(state: EntryState, view: View, ending: Ending) -> Move:
    """Promoted, the canary is the stable model; aborted, it is remembered; else it is as if nothing had been."""
    rollout = state.active
    assert rollout is not None
    judged = view.judgement
    analysis = analysis_status(judged) if judged and judged.findings else rollout.analysis
    history = (_history(state, replace(rollout, analysis=analysis), view, ending),)
    if ending.verdict == "Promoted":
        return replace(state, stable=rollout.to, rollout=None), history
    if ending.verdict != "Aborted":
        return replace(state, rollout=None), history
    aborted = replace(
        rollout,
        phase=Phase.ABORTED,
        phase_at=view.now,
        weight=0,
        reason=str(ending.reason),
        message=truncated(ending.message),
        analysis=analysis,
    )
    return replace(state, rollout=aborted), history


def _history(state: EntryState, rollout: Rollout, view: View, ending: Ending) -> Json:
    arms = {m: arm_of(view.figures, state.window, m) for m in (state.stable, rollout.to)}
    figures = [figures_status(model, arm) for model, arm in arms.items() if arm.requests]
    return {
        "name": state.name,
        "from": state.stable,
        "to": rollout.to,
        **({"by": rollout.by} if rollout.by else {}),
        "verdict": ending.verdict,
        "reason": str(ending.reason),
        "message": truncated(ending.message),
        "startedAt": timestamp(rollout.started_at),
        "endedAt": timestamp(view.now),
        **({"analysis": rollout.analysis["verdict"]} if rollout.analysis else {}),
        **({"figures": figures} if figures else {}),
    }
