"""Where an entry of a pool stands on its way from one model to another: what is remembered, and that in its status
alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from imagefleet_operator.plan.conditions import timestamp
from imagefleet_operator.plan.rollout_types import Analyze, Mirror, RolloutStep, SetWeight
from imagefleet_operator.plan.times import seconds_of
from imagefleet_operator.plan.types import Json, PoolModel


class Phase(StrEnum):
    """What a rollout does just now. It is worked out anew from the step and from what is observed; ``ABORTED`` alone is
    remembered."""

    PREPARING = "Preparing"
    PAUSED = "Paused"
    ANALYZING = "Analyzing"
    PROMOTING = "Promoting"
    ABORTED = "Aborted"


class Reason(StrEnum):
    """Why a rollout stands as it does."""

    LOADING = "ModelLoading"
    NO_ROOM = "ModelDoesNotFit"
    COLLECTING = "CollectingFigures"
    PAUSE_STEP = "PauseStep"
    INCONCLUSIVE = "Inconclusive"
    ANALYSIS = "AnalysisStep"
    LAST_COPIES = "LoadingAllCopies"
    PAUSED = "CommandPaused"
    SUSPENDED = "Suspended"
    NO_WORKERS = "ScaledToZero"
    BURNING = "BurningErrorBudget"
    PROMOTED = "CommandPromoted"
    FAILED = "AnalysisFailed"
    LATE = "ProgressDeadlineExceeded"
    ABORTED = "CommandAborted"
    UNSAFE = "Unsafe"


HOLDS = (Reason.PAUSED, Reason.SUSPENDED, Reason.NO_WORKERS, Reason.BURNING)
"""Reasons for which a rollout stands still, whichever step is under way."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout under way, or the one that was aborted last. Times are seconds since the epoch."""

    to: str
    """The canary; the aborted model where it was aborted."""
    started_at: float
    phase: Phase = Phase.PREPARING
    phase_at: float = 0.0
    step: int = 0
    """The step under way: 0 before the first, one more than there are after the last."""
    steps: int = 0
    """How many there are."""
    step_at: float = 0.0
    weight: int = 0
    """Percent of the traffic that the last SetWeight gave the canary."""
    all_at_once: bool = False
    """No worker has room for both: with its first weight the canary takes the place of the stable model."""
    by: str = ""
    reason: str = ""
    message: str = ""
    analysis: Json | None = None

    @property
    def held(self) -> bool:
        """Whether it stands still for another reason than its step."""
        return self.reason in HOLDS

    @property
    def taken_over(self) -> bool:
        """Whether the canary has taken the place of the stable model for want of room."""
        return self.all_at_once and self.weight > 0

    @property
    def placed(self) -> bool:
        """Whether the canary is to be on workers: not while a rollout that has not begun waits for a calmer time."""
        return not (self.step == 0 and self.reason == Reason.BURNING)

    @property
    def promoting(self) -> bool:
        """Whether the steps are over."""
        return self.step > self.steps

    @property
    def last_step(self) -> int:
        """The step as people count: there is none behind the last."""
        return min(self.step, self.steps)

    def mirrored(self, steps: tuple[RolloutStep, ...]) -> int:
        """Percent of the requests that the canary draws copies of: what the last Mirror step said, until the steps are
        over. None where both have no room: there is nobody to draw them."""
        if self.all_at_once or self.promoting:
            return 0
        said = [s.percent for s in steps[: self.step] if isinstance(s, Mirror)]
        return said[-1] if said else 0

    def exposed(self, steps: tuple[RolloutStep, ...]) -> bool:
        """Whether the canary has been shown requests, so that there is something to judge."""
        return self.weight > 0 or self.mirrored(steps) > 0


@dataclass(frozen=True, slots=True)
class Trial:
    """An experiment as it stands."""

    name: str
    phase: str = "Waiting"
    """``Waiting``, ``Running`` or ``Ended``."""
    started_at: float = 0.0
    ends_at: float = 0.0
    """0: open."""
    message: str = ""
    arms: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class EntryState:
    """What is remembered of an entry."""

    name: str
    stable: str
    rollout: Rollout | None = None
    window: str = ""
    """Since when figures are counted, as the status has it; empty while nothing is compared."""
    trials: tuple[Trial, ...] = ()

    @property
    def active(self) -> Rollout | None:
        """The rollout under way."""
        return None if self.rollout is None or self.rollout.phase is Phase.ABORTED else self.rollout

    @property
    def main(self) -> str:
        """The model that the entry stands on: it gets what no other one does."""
        return self.active.to if self.active is not None and self.active.taken_over else self.stable

    @property
    def running(self) -> tuple[Trial, ...]:
        """The experiments that get traffic."""
        return tuple(t for t in self.trials if t.phase == "Running")

    def with_rollout(self, **fields: Any) -> "EntryState":
        """The same with other fields in its rollout."""
        assert self.rollout is not None
        return replace(self, rollout=replace(self.rollout, **fields))


def windows_of(steps: tuple[RolloutStep, ...]) -> int:
    """How many windows a rollout is judged in: one for each SetWeight, and one before these where the canary draws
    copies first.

    Worked example: mirror 20, setWeight 5, setWeight 50: 3.
    """
    shown = [step for step in steps if isinstance(step, SetWeight | Mirror)]
    before = bool(shown) and isinstance(shown[0], Mirror)
    return max(1, before + sum(isinstance(step, SetWeight) for step in shown))


def step_name(step: RolloutStep) -> str:
    """For people, e.g. ``setWeight 5``."""
    if isinstance(step, SetWeight):
        return f"setWeight {step.percent}"
    if isinstance(step, Mirror):
        return f"mirror {step.percent}"
    return "analysis" if isinstance(step, Analyze) else "pause"


def read_entry(entry: PoolModel, status: Json) -> EntryState:
    """What the pool's status remembers of an entry. Without a memory its model is the stable one: a pool begins
    without a rollout."""
    said: Json = next((m for m in status.get("models") or () if m.get("name") == entry.name), {})
    return EntryState(
        name=entry.name,
        stable=said.get("stable") or entry.model,
        rollout=_read_rollout(said, said.get("rollout") or {}),
        window=said.get("window") or "",
        trials=tuple(_read_trial(t) for t in said.get("experiments") or ()),
    )


def _read_rollout(said: Json, found: Json) -> Rollout | None:
    to = found.get("abortedModel") or said.get("canary")
    if not to:
        return None
    return Rollout(
        to=to,
        started_at=seconds_of(found.get("startedAt")),
        phase=_phase(found.get("phase")),
        phase_at=seconds_of(found.get("phaseStartedAt")),
        step=found.get("step", 0),
        steps=found.get("steps", 0),
        step_at=seconds_of(found.get("stepStartedAt")),
        weight=found.get("weight", 0),
        all_at_once=found.get("allAtOnce", False),
        by=found.get("by", ""),
        reason=found.get("reason", ""),
        message=found.get("message", ""),
        analysis=found.get("analysis"),
    )


def _phase(text: str | None) -> Phase:
    """Another version's words are worked out anew."""
    return Phase(text) if text in list(Phase) else Phase.PREPARING


def _read_trial(found: Json) -> Trial:
    return Trial(
        found["name"],
        found.get("phase", "Waiting"),
        seconds_of(found.get("startedAt")),
        seconds_of(found.get("endsAt")),
        found.get("message", ""),
        tuple(found.get("arms") or ()),
    )


def rollout_status(rollout: Rollout) -> Json:
    """``status.models[].rollout``."""
    aborted = rollout.phase is Phase.ABORTED
    written: Mapping[str, Any] = {
        "phase": str(rollout.phase),
        "step": rollout.step,
        "steps": rollout.steps,
        "weight": rollout.weight,
        "allAtOnce": rollout.all_at_once,
        "startedAt": timestamp(rollout.started_at),
        "phaseStartedAt": timestamp(rollout.phase_at),
        "stepStartedAt": timestamp(rollout.step_at),
        "by": rollout.by,
        "reason": str(rollout.reason),
        "message": rollout.message,
        "abortedModel": rollout.to if aborted else "",
        "analysis": rollout.analysis,
    }
    return {key: value for key, value in written.items() if value not in ("", None)}


def trial_status(trial: Trial) -> Json:
    """``status.models[].experiments[]``."""
    times = {"startedAt": trial.started_at, "endsAt": trial.ends_at}
    return {
        "name": trial.name,
        "phase": trial.phase,
        **({"message": trial.message} if trial.message else {}),
        **{key: timestamp(at) for key, at in times.items() if at},
        **({"arms": list(trial.arms)} if trial.arms else {}),
    }
