"""What people say by the annotation ``imagefleet.dev/rollout`` of a pool: ``VERB NAME [ANYTHING]``, carried out once
for each new value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from imagefleet_operator.plan.rollout import Move, abort_by_command
from imagefleet_operator.plan.rollout_state import EntryState, Phase, Reason, Rollout
from imagefleet_operator.plan.rollout_steps import View
from imagefleet_operator.plan.types import Json

UNSUSPEND = "unsuspend"
LONGEST = 256
"""Characters of an annotation that are read; it may have a quarter of a million."""


class RefusedError(Exception):
    """Why a command is not carried out."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it was given."""

    verb: str
    name: str


def parse(value: str) -> Command:
    """Raises RefusedError where it is none.

    Worked example: ``promote shapes 1763863200`` is ``Command("promote", "shapes")``.
    """
    words = value.split()
    if len(words) < 2 or words[0] not in (*VERBS, UNSUSPEND):
        raise RefusedError(f"write VERB NAME, VERB one of {', '.join((*VERBS, UNSUSPEND))}.")
    return Command(words[0], words[1])


def pending(value: str, status: Json) -> bool:
    """Whether the annotation says something that has not been answered. One that was taken away leaves its answer, so
    that the same one put back by a tool is not carried out again."""
    return bool(value) and (status.get("command") or {}).get("value") != value


def carry_out(command: Command, state: EntryState, view: View) -> tuple[Move, str]:
    """What a command makes of an entry, and what to answer. Raises RefusedError."""
    return VERBS[command.verb](state, view)


def _active(state: EntryState) -> Rollout:
    if state.active is None:
        raise RefusedError(f"no rollout of {state.name} is under way.")
    return state.active


def _promote(state: EntryState, view: View) -> tuple[Move, str]:
    rollout = _active(state)
    if rollout.promoting:
        raise RefusedError("all steps are done; it waits for the last copies of the new model.")
    if rollout.step == 0:
        raise RefusedError(f"no step is under way: {rollout.message or 'the canary is prepared.'}")
    step = rollout.step + 1
    moved = state.with_rollout(step=step, step_at=view.now, phase_at=view.now, reason="", message="")
    return (moved, ()), f"went past step {rollout.step} of {rollout.steps}."


def _promote_full(state: EntryState, view: View) -> tuple[Move, str]:
    """A person may know better than the error budget."""
    rollout = _active(state)
    moved = state.with_rollout(
        phase=Phase.PROMOTING,
        phase_at=view.now,
        step=rollout.steps + 1,
        step_at=view.now,
        reason=str(Reason.PROMOTED),
        message="Someone said so.",
    )
    return (moved, ()), f"{rollout.to} is given all requests as soon as its copies are there."


def _pause(state: EntryState, view: View) -> tuple[Move, str]:
    if _active(state).reason == Reason.PAUSED:
        raise RefusedError("it is paused already.")
    message = "Someone paused it: it goes on when someone says resume."
    paused = state.with_rollout(
        phase=Phase.PAUSED, phase_at=view.now, reason=str(Reason.PAUSED), message=message
    )
    return (paused, ()), "paused."


def _resume(state: EntryState, view: View) -> tuple[Move, str]:
    rollout = _active(state)
    if rollout.reason != Reason.PAUSED:
        raise RefusedError(f"nobody paused it; promote goes past a step. {rollout.message}".strip())
    resumed = state.with_rollout(reason="", message="", phase_at=view.now, step_at=view.now)
    return (resumed, ()), "goes on."


def _abort(state: EntryState, view: View) -> tuple[Move, str]:
    _active(state)
    return abort_by_command(state, view), f"{state.stable} has all requests."


def _retry(state: EntryState, view: View) -> tuple[Move, str]:
    rollout = state.rollout
    if rollout is None or state.active is not None:
        raise RefusedError(f"no model of {state.name} was aborted.")
    if rollout.to in view.unsafe:
        raise RefusedError(f"{rollout.to} is suspended for safety: unsuspend it first.")
    return (replace(state, rollout=None), ()), f"tries {rollout.to} again."


Verb = Callable[[EntryState, View], tuple[Move, str]]
VERBS: Mapping[str, Verb] = {
    "promote": _promote,
    "promote-full": _promote_full,
    "pause": _pause,
    "resume": _resume,
    "abort": _abort,
    "retry": _retry,
}
