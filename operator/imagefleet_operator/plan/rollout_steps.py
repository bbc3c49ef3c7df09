"""How a rollout under way goes on: what holds it, what its canary waits for, and what its step says.

Each function does one thing and is asked again until nothing changes, so that a pass ends where the next one begins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from imagefleet_operator.plan.analysis import Judgement, Outcome, judge
from imagefleet_operator.plan.arms import analysis_status, arm_of
from imagefleet_operator.plan.burn import Burn
from imagefleet_operator.plan.conditions import Verdict, truncated
from imagefleet_operator.plan.rollout_placement import Room
from imagefleet_operator.plan.rollout_state import EntryState, Phase, Reason, Rollout, step_name, windows_of
from imagefleet_operator.plan.rollout_types import (
    Analyze,
    Mirror,
    NameFigures,
    OnInconclusive,
    Pause,
    RolloutStep,
    SetWeight,
)
from imagefleet_operator.plan.times import microtime
from imagefleet_operator.plan.types import PoolModel

COLLECT_SECONDS = 60.0
"""So long the stable model is counted before a canary takes its place all at once, where no step asks for a verdict:
for one that fails at once. With an analysis it is ``max_wait_seconds``."""
MOVING = (Phase.PREPARING, Phase.PROMOTING)
"""Phases that end by themselves, and are to do so within the deadline."""


@dataclass(frozen=True, slots=True)
class View:
    """What decides on an entry's rollout besides its state."""

    entry: PoolModel
    now: float
    resident: Callable[[str], int]
    """On how many workers a model is resident."""
    unusable: Callable[[str], Verdict | None]
    """Why a model may not be given to workers; None where it may."""
    trouble: Callable[[str], str]
    """Why workers failed to load a model; empty where none did."""
    room: Room | None = None
    """Of the canary, unless it has taken over."""
    fitting: int = 0
    """Copies of the canary that found a place."""
    all_workers: bool = True
    """Whether the pool has as many workers as it asks for."""
    no_workers: bool = False
    """Whether it asks for none."""
    author: str = ""
    halted: str = ""
    """Why the spec suspends the entry; empty where it does not."""
    unsafe: Mapping[str, float] = field(default_factory=dict)
    """Models that are suspended for safety under this name, and since when."""
    burn: Burn = field(default_factory=lambda: Burn(None, None))
    figures: NameFigures | None = None
    judgement: Judgement | None = None
    """Of the canary, once it was shown requests."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a rollout ended."""

    verdict: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Label:
    """A rollout that has nothing to do but wait: for what."""

    phase: Phase
    reason: str
    message: str


Next = EntryState | Ending | Label | None
"""A step forward, the end, what is waited for, or None: not for this to say."""


def steps_of(state: EntryState, view: View) -> tuple[RolloutStep, ...]:
    """The steps of the rollout under way. None where the stable model had been suspended for safety when it began:
    there is nothing that it could be compared with, and nobody to serve meanwhile."""
    return () if _mends_unsafe(state, view) else view.entry.rollout.steps


def _mends_unsafe(state: EntryState, view: View) -> bool:
    since = view.unsafe.get(state.stable)
    return since is not None and state.active is not None and since <= state.active.started_at


def go_on(state: EntryState, view: View) -> EntryState | Ending:
    """The state after the next thing that happens to the rollout under way, or how it ends; the same state where
    nothing happens. Without a rollout under way nothing does."""
    if state.active is None:
        return state
    for check in (_count_steps, _make_room, _hold, _release, _prepare, _return, _promote, _step):
        found = check(state, state.active, view)
        if isinstance(found, Label):
            return _labelled(state, state.active, view, found)
        if found is not None:
            return found
    return state


def _count_steps(state: EntryState, rollout: Rollout, view: View) -> Next:
    """Somebody may change the steps on the way: the number of the step stays."""
    steps = len(steps_of(state, view))
    return None if rollout.steps == steps else state.with_rollout(steps=steps)


def _make_room(state: EntryState, rollout: Rollout, view: View) -> Next:
    """All at once only where both have no room, and no worker that may give it is still to come."""
    if rollout.taken_over or view.room is None:
        return None
    if rollout.all_at_once:
        return state.with_rollout(all_at_once=False) if view.room is Room.BESIDE else None
    lost = not view.resident(rollout.to) and view.all_workers
    return state.with_rollout(all_at_once=True) if lost and view.room is Room.INSTEAD else None


def _hold(state: EntryState, rollout: Rollout, view: View) -> Next:
    if rollout.reason == Reason.PAUSED:
        return Label(Phase.PAUSED, Reason.PAUSED, rollout.message)
    if view.halted:
        return Label(Phase.PAUSED, Reason.SUSPENDED, view.halted)
    if view.no_workers:
        return Label(Phase.PAUSED, Reason.NO_WORKERS, "spec.replicas is 0.")
    if rollout.reason == Reason.PROMOTED:
        return None
    if state.stable in view.unsafe and not _mends_unsafe(state, view):
        return Label(
            Phase.PAUSED,
            Reason.SUSPENDED,
            f"{state.stable} is suspended for safety: unsuspend, or promote-full.",
        )
    if _burns(rollout, view):
        phase = Phase.PAUSED if rollout.step else Phase.PREPARING
        rate = view.entry.rollout.pause_burn_rate
        return Label(
            phase,
            Reason.BURNING,
            f"Callers use up the error budget at {rate:g} times the allowed rate or more.",
        )
    return None


def _burns(rollout: Rollout, view: View) -> bool:
    """Held at the rate in both windows, until the short one is under half of it. While nobody says what callers got,
    what was decided stands."""
    rate, burn = view.entry.rollout.pause_burn_rate, view.burn
    if rollout.reason == Reason.BURNING:
        return view.figures is None or (burn.short is not None and burn.short >= rate / 2)
    return burns_at(burn, rate)


def burns_at(burn: Burn, rate: float) -> bool:
    """Whether both windows burn at that rate."""
    return burn.short is not None and burn.long is not None and min(burn.short, burn.long) >= rate


def _release(state: EntryState, rollout: Rollout, view: View) -> Next:
    """A step that was held begins anew."""
    if not rollout.held:
        return None
    return state.with_rollout(reason="", message="", step_at=view.now, phase_at=view.now)


def _prepare(state: EntryState, rollout: Rollout, view: View) -> Next:
    """The canary has to be there, before the first step and as long as they go on."""
    if rollout.promoting:
        return None
    waiting = _waits(state, rollout, view)
    if waiting is not None:
        return Label(Phase.PREPARING, *waiting)
    return None if rollout.step else state.with_rollout(step=1, step_at=view.now, phase_at=view.now)


def _waits(state: EntryState, rollout: Rollout, view: View) -> tuple[str, str] | None:
    unusable = view.unusable(rollout.to)
    if unusable is not None:
        return unusable.reason, unusable.message
    if rollout.all_at_once and not rollout.taken_over:
        return None if rollout.step else _collecting(state, view)
    if view.resident(rollout.to):
        return None
    if view.room is Room.NOWHERE:
        return Reason.NO_ROOM, f"No worker has the memory for {rollout.to}."
    return Reason.LOADING, view.trouble(rollout.to) or f"Loading {rollout.to}."


def _collecting(state: EntryState, view: View) -> tuple[str, str] | None:
    """A canary that takes over all at once is compared with what the stable model did before. That is enough when a
    canary that did just the same would pass; it cannot be counted later."""
    assert state.active is not None
    steps, spec = steps_of(state, view), view.entry.rollout.analysis
    limit = spec.max_wait_seconds if any(isinstance(s, Analyze) for s in steps) else COLLECT_SECONDS
    counted = arm_of(view.figures, state.window, state.stable)
    enough = judge(spec, counted, counted, windows=windows_of(steps)).outcome is Outcome.PASSED
    if enough or not steps or view.now - state.active.started_at >= limit:
        return None
    return (
        Reason.COLLECTING,
        f"No worker has room for both: counting what {state.stable} does, to compare with.",
    )


def _return(state: EntryState, rollout: Rollout, view: View) -> Next:
    """The step during which the canary was lost begins anew."""
    if rollout.phase is not Phase.PREPARING or rollout.promoting:
        return None
    return state.with_rollout(phase=Phase.PAUSED, phase_at=view.now, step_at=view.now, reason="", message="")


def _promote(state: EntryState, rollout: Rollout, view: View) -> Next:
    """The canary is given all that the stable model had, or as much of it as fits, before it serves all."""
    if not rollout.promoting:
        return None
    if rollout.all_at_once and rollout.weight < 100:
        return state.with_rollout(weight=100)
    wanted, here = min(max(1, view.entry.min_resident), max(1, view.fitting)), view.resident(rollout.to)
    unusable = view.unusable(rollout.to)
    if unusable is None and here >= wanted:
        return Ending("Promoted", "Promoted", f"{rollout.to} serves in place of {state.stable}.")
    trouble = unusable.message if unusable else view.trouble(rollout.to)
    reason = Reason.PROMOTED if rollout.reason == Reason.PROMOTED else Reason.LAST_COPIES
    return Label(Phase.PROMOTING, reason, trouble or f"Loading {rollout.to} ({here} of {wanted}).")


def _step(state: EntryState, rollout: Rollout, view: View) -> Next:
    step = steps_of(state, view)[rollout.step - 1]
    if isinstance(step, Pause):
        return _pause(state, rollout, step, view)
    if isinstance(step, Analyze):
        return _analyze(state, rollout, view)
    return _show(_past(state, view), step, view)


def _past(state: EntryState, view: View) -> EntryState:
    assert state.rollout is not None
    return state.with_rollout(step=state.rollout.step + 1, step_at=view.now)


def _show(state: EntryState, step: SetWeight | Mirror, view: View) -> EntryState:
    """Another weight begins another window. Where the canary takes over all at once it does not: what the stable model
    did before is all there is to compare with."""
    assert state.rollout is not None
    if isinstance(step, Mirror) or step.percent == state.rollout.weight:
        return state
    shown = state.with_rollout(weight=step.percent)
    return shown if state.rollout.all_at_once else replace(shown, window=microtime(view.now))


def _pause(state: EntryState, rollout: Rollout, step: Pause, view: View) -> Next:
    if step.seconds is None:
        return Label(Phase.PAUSED, Reason.PAUSE_STEP, "Waits until someone promotes.")
    if view.now - rollout.step_at >= step.seconds:
        return _past(state, view)
    return Label(Phase.PAUSED, Reason.PAUSE_STEP, f"Waits for {step.seconds:g} s.")


def _analyze(state: EntryState, rollout: Rollout, view: View) -> Next:
    """A canary that failed is aborted elsewhere, whichever step is under way. Before one takes over all at once
    there is nothing to judge, and never will be."""
    spec = view.entry.rollout.analysis
    if rollout.all_at_once and not rollout.taken_over:
        return _past(state, view)
    if view.judgement is not None and view.judgement.outcome is Outcome.PASSED:
        return _past(state, view).with_rollout(analysis=analysis_status(view.judgement))
    said = view.judgement.message if view.judgement else "Nothing was shown to the canary yet"
    if view.now - rollout.step_at < spec.max_wait_seconds:
        return Label(Phase.ANALYZING, Reason.ANALYSIS, f"{said}.")
    if spec.on_inconclusive is OnInconclusive.PROMOTE:
        return _past(state, view)
    undecided = f"Undecided after {spec.max_wait_seconds:g} s: {said}."
    if spec.on_inconclusive is OnInconclusive.ABORT:
        return Ending("Aborted", Reason.FAILED, undecided)
    return Label(
        Phase.PAUSED, Reason.INCONCLUSIVE, f"{undecided} It goes on when figures decide, or someone promotes."
    )


def _labelled(state: EntryState, rollout: Rollout, view: View, label: Label) -> EntryState | Ending:
    """A label that stays keeps its time; one of a phase that should have ended by now ends the rollout. As long as
    nothing is counted in a new window, what was found in the last one stands."""
    held, judged = replace(rollout, reason=label.reason).held, view.judgement
    same = (label.phase, held) == (rollout.phase, rollout.held)
    late = view.now - rollout.phase_at >= view.entry.rollout.progress_deadline_seconds
    if same and late and not held and label.phase in MOVING and label.reason != Reason.COLLECTING:
        return Ending("Aborted", Reason.LATE, f"{_where(state, view)}: {label.message}")
    return state.with_rollout(
        phase=label.phase,
        phase_at=rollout.phase_at if same else view.now,
        reason=str(label.reason),
        message=truncated(label.message),
        analysis=analysis_status(judged) if judged and judged.findings else rollout.analysis,
    )


def _where(state: EntryState, view: View) -> str:
    """Worked example: ``Not ready within 600 s (setWeight 5)``."""
    assert state.rollout is not None
    steps, at = steps_of(state, view), state.rollout.step
    under_way = f" ({step_name(steps[at - 1])})" if 0 < at <= len(steps) else ""
    return f"Not ready within {view.entry.rollout.progress_deadline_seconds:g} s{under_way}"
