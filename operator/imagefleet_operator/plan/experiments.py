"""Experiments: fixed shares of an entry's requests for other models, for a while."""

from collections.abc import Collection
from dataclasses import replace

from imagefleet_operator.plan.arms import arm_of, figures_status
from imagefleet_operator.plan.conditions import truncated
from imagefleet_operator.plan.rollout_state import EntryState, Trial
from imagefleet_operator.plan.rollout_steps import View
from imagefleet_operator.plan.rollout_types import Experiment
from imagefleet_operator.plan.times import microtime
from imagefleet_operator.plan.types import Json


def experiment(state: EntryState, view: View, left_out: Collection[str]) -> EntryState:
    """The entry's experiments as they stand now; ``left_out`` are models that found no room.

    The first one that runs begins a window, unless a rollout has. A rollout's next weight begins another one, and the
    experiments' figures with it: gateways count one window for each entry.
    """
    known = {trial.name: trial for trial in state.trials}
    trials = tuple(
        _stand(e, known.get(e.name, Trial(e.name)), state, view, left_out) for e in view.entry.experiments
    )
    runs = any(trial.phase == "Running" for trial in trials)
    if runs and not state.window:
        return replace(state, trials=trials, window=microtime(view.now))
    compared = runs or state.active is not None
    return replace(state, trials=trials, window=state.window if compared else "")


def _stand(spec: Experiment, trial: Trial, state: EntryState, view: View, left_out: Collection[str]) -> Trial:
    if trial.phase == "Waiting":
        waits = _homeless(spec, view, left_out) or _waits(spec, state, view)
        if waits:
            return replace(trial, message=truncated(waits))
        trial = replace(trial, phase="Running", started_at=trial.started_at or view.now, message="")
    ends_at = 0.0 if spec.seconds is None else trial.started_at + spec.seconds
    if ends_at and view.now >= ends_at:
        return replace(trial, phase="Ended", ends_at=ends_at, message="Its time is over.")
    evicted = _homeless(spec, view, left_out)
    if evicted:  # said before workers drop the model: its requests leave first
        return replace(trial, phase="Waiting", message=truncated(evicted))
    return replace(trial, phase="Running", ends_at=ends_at, message="", arms=_arms(spec, trial, state, view))


def _homeless(spec: Experiment, view: View, left_out: Collection[str]) -> str:
    """Why no worker is to hold one of its models; empty where each has a place."""
    for model, _ in spec.arms:
        if model in left_out:
            unusable = view.unusable(model)
            return unusable.message if unusable else f"No worker has room for {model}."
    return ""


def _waits(spec: Experiment, state: EntryState, view: View) -> str:
    """What it waits for; empty where nothing is in its way. Its shares are taken from the main model, which is to be
    there first."""
    if view.halted:
        return view.halted
    for model in (state.main, *(model for model, _ in spec.arms)):
        unusable = view.unusable(model)
        if unusable is not None:
            return unusable.message
        if not view.resident(model):
            return view.trouble(model) or f"Loading {model}."
    return ""


def _arms(spec: Experiment, trial: Trial, state: EntryState, view: View) -> tuple[Json, ...]:
    """Of the main model, for comparison, and of each arm. While nobody says what was counted, what was known stands."""
    if view.figures is None:
        return trial.arms
    shares: dict[str, int | None] = {state.main: None, **dict(spec.arms)}
    return tuple(
        figures_status(model, arm_of(view.figures, state.window, model), percent)
        for model, percent in shares.items()
    )
