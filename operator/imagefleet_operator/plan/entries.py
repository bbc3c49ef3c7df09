"""All entries of a pool together: what happens to each of them in a pass, and which worker is to hold what."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from imagefleet_operator.api.quantity import quantity_bytes
from imagefleet_operator.plan import commands, policy, suspension, verdicts
from imagefleet_operator.plan.burn import Burn, burn
from imagefleet_operator.plan.commands import UNSUSPEND, Command, RefusedError
from imagefleet_operator.plan.experiments import experiment
from imagefleet_operator.plan.packing import UNKNOWN_LOAD_SECONDS, Outlook, Slot
from imagefleet_operator.plan.placement import estimate
from imagefleet_operator.plan.rollout import KEPT_ENDINGS, judgement_of, move
from imagefleet_operator.plan.rollout_placement import Layout, lay_out
from imagefleet_operator.plan.rollout_state import EntryState, read_entry
from imagefleet_operator.plan.rollout_steps import View
from imagefleet_operator.plan.rollout_types import Budget
from imagefleet_operator.plan.suspension import Suspensions
from imagefleet_operator.plan.types import Json, ModelSpec, Parent, PoolModel, PoolObserved, PoolSpec, Report

MOST_MOVES = 200
"""Of one pass: a rollout has at most some dozens of steps, each of which moves it once or twice."""


@dataclass(frozen=True, slots=True)
class Entries:
    """What follows for the entries of a pool."""

    states: tuple[tuple[PoolModel, EntryState], ...]
    before: Layout
    """What workers are to hold as long as the status that gateways see is the old one: a model leaves its workers
    when its requests have left it."""
    layout: Layout
    """What they are to hold next."""
    history: tuple[Json, ...]
    suspensions: Suspensions
    command: Json | None
    unsafe: Mapping[str, Mapping[str, str]]
    """By entry: models whose pictures pass too seldom, and how seldom."""
    burns: Mapping[str, Burn]


def plan_entries(spec: PoolSpec, observed: PoolObserved, now: float) -> Entries:
    """What happens to a pool's entries now. ``now`` is in seconds since the epoch."""
    desk = _Desk(spec, observed, now)
    desk.suspend()
    before, layout = desk.settle()
    said = observed.pool.command[: commands.LONGEST]
    if commands.pending(said, observed.pool.status):
        desk.obey(said)
        _, layout = desk.settle()
    desk.let_go()
    return Entries(
        states=tuple(zip(spec.models, desk.states, strict=True)),
        before=before,
        layout=layout,
        history=tuple(desk.history[-KEPT_ENDINGS:]),
        suspensions=desk.suspensions,
        command=desk.command,
        unsafe=desk.unsafe,
        burns=desk.burns,
    )


@dataclass(slots=True)
class _Desk:
    """The entries while a pass works on them. Local to ``plan_entries``, so changing it is no side effect."""

    spec: PoolSpec
    observed: PoolObserved
    now: float
    states: list[EntryState] = field(init=False)
    history: list[Json] = field(init=False)
    suspensions: Suspensions = field(init=False)
    command: Json | None = field(init=False)
    unsafe: dict[str, dict[str, str]] = field(init=False)
    burns: dict[str, Burn] = field(init=False)
    slots: list[Slot] = field(init=False)
    outlooks: dict[str, Outlook] | None = field(init=False)
    sizes: dict[str, int | None] = field(default_factory=dict)
    """Of the models, as they are asked for at each attempt to place them."""

    def __post_init__(self) -> None:
        old = self.observed.pool.status
        self.states = [read_entry(entry, old) for entry in self.spec.models]
        self.history = list(old.get("history") or ())
        self.suspensions = tuple(old.get("suspensions") or ())
        self.command = old.get("command")
        self.burns = {entry.name: self._burn(entry) for entry in self.spec.models}
        self.unsafe = {
            entry.name: suspension.too_unsafe(
                entry, suspension.models_in_use(entry, state), self.observed.figures.get(entry.name)
            )
            for entry, state in zip(self.spec.models, self.states, strict=True)
        }
        self.slots = slots(self.observed)
        self.outlooks = outlooks(self.observed)

    def suspend(self) -> None:
        """Begin and end what the spec asks for, and what unsafe pictures ask for."""
        told = {m.get("name"): m for m in self.observed.pool.status.get("models") or ()}
        for entry, state in zip(self.spec.models, self.states, strict=True):
            shares = told.get(entry.name, {}).get("traffic") or ()
            serving = [share["model"] for share in shares] or [state.main]
            self.suspensions = suspension.suspend_requested(
                self.suspensions, self.spec, entry, serving, self.now
            )
            self.suspensions = suspension.suspend_unsafe(
                self.suspensions, entry, self.unsafe[entry.name], self.now
            )

    def settle(self) -> tuple[Layout, Layout]:
        """Let happen what does, until nothing more happens: what workers are to hold at first, and at last."""
        first = layout = self._lay_out()
        for _ in range(MOST_MOVES):
            before = list(self.states)
            for at, state in enumerate(before):
                self._move(at, state, layout)
            if self.states == before:
                break
            layout = self._lay_out()
        return first, layout

    def obey(self, value: str) -> None:
        """Carry out a command, or say why not."""
        try:
            outcome, message = "Applied", self._obey(commands.parse(value))
        except RefusedError as refused:
            outcome, message = "Refused", str(refused)
        self.command = {"value": value, "outcome": outcome, "message": message[:1].upper() + message[1:]}

    def let_go(self) -> None:
        """End suspensions of what is no longer there, and tell what the others had served."""
        for entry, state in zip(self.spec.models, self.states, strict=True):
            self.suspensions = suspension.let_go(
                self.suspensions,
                entry.name,
                suspension.models_in_use(entry, state),
                self.observed.figures.get(entry.name),
                self.now,
            )
        names = [entry.name for entry in self.spec.models]
        kept = suspension.drop_entries(self.suspensions, names, self.now)
        self.suspensions = suspension.trimmed(suspension.with_served(kept, self.observed.figures))

    def _lay_out(self) -> Layout:
        entries = list(zip(self.spec.models, self.states, strict=True))
        return lay_out(entries, self._size, self.slots, self.outlooks)

    def _size(self, model: str) -> int | None:
        if model not in self.sizes:
            usable = verdicts.is_usable(model, self.observed)
            self.sizes[model] = memory(model, self.observed) if usable else None
        return self.sizes[model]

    def _move(self, at: int, state: EntryState, layout: Layout) -> None:
        view = self._view(self.spec.models[at], state, layout)
        moved, ended = move(state, view)
        self.states[at] = experiment(moved, view, layout.left_out)
        self.history += ended

    def _view(self, entry: PoolModel, state: EntryState, layout: Layout) -> View:
        view = View(
            entry=entry,
            now=self.now,
            resident=lambda model: verdicts.resident(self.observed, model),
            unusable=lambda model: verdicts.unusable(model, self.observed),
            trouble=self._trouble,
            room=layout.room.get(entry.name),
            fitting=layout.copies(state.active.to) if state.active else 0,
            all_workers=len(self.slots) >= self.spec.replicas,
            no_workers=self.spec.replicas == 0,
            author=self.observed.pool.authors.get(entry.name, ""),
            halted=suspension.requested(self.spec, entry),
            unsafe=suspension.unsafe_models(self.suspensions, entry.name),
            burn=self.burns[entry.name],
            figures=self.observed.figures.get(entry.name),
        )
        return replace(view, judgement=judgement_of(state, view))

    def _trouble(self, model: str) -> str:
        failure = verdicts.load_failure(model, self.observed)
        return failure.message if failure else ""

    def _burn(self, entry: PoolModel) -> Burn:
        figures = self.observed.figures.get(entry.name)
        if figures is None:
            return Burn(None, None)
        return burn(entry.slo, sum(figures.short.values(), Budget()), sum(figures.long.values(), Budget()))

    def _obey(self, command: Command) -> str:
        """Raises RefusedError."""
        at = next((i for i, entry in enumerate(self.spec.models) if entry.name == command.name), None)
        if at is None:
            names = ", ".join(entry.name for entry in self.spec.models)
            raise RefusedError(f"spec.models has no {command.name}, it has {names}.")
        if command.verb == UNSUSPEND:
            return self._unsuspend(command.name)
        view = self._view(self.spec.models[at], self.states[at], self._lay_out())
        (self.states[at], ended), message = commands.carry_out(command, self.states[at], view)
        self.history += ended
        return message

    def _unsuspend(self, name: str) -> str:
        lifted = suspension.unsafe_models(self.suspensions, name)
        if not lifted:
            raise RefusedError(
                f"no model of {name} is suspended for safety; what the spec suspends the spec lifts."
            )
        self.suspensions = suspension.lift(self.suspensions, name, self.now)
        return f"{', '.join(lifted)} may draw again."


def memory(model: str, observed: PoolObserved) -> int:
    """Bytes of a usable model: as specified, measured on the pool's accelerators, or estimated."""
    found = observed.models[model]
    assert found is not None
    assert found.spec is not None
    known = (entry.get("memory") for entry in _measured(found, observed))
    measured = max((quantity_bytes(m) for m in known if m is not None), default=None)
    return estimate(found.spec.memory_bytes, measured, int(found.status.get("bytes") or 0))


def outlooks(observed: PoolObserved) -> dict[str, Outlook] | None:
    """What is known of the use of each model; None where nobody says what callers want, or they want nothing."""
    if not observed.demand:
        return None
    return {
        name: Outlook(
            observed.demand.get(name, 0.0), _load_seconds(model, observed), name in observed.moved_models
        )
        for name, model in observed.models.items()
        if model is not None
    }


def _load_seconds(model: Parent[ModelSpec], observed: PoolObserved) -> float:
    """The longest that was measured on the pool's accelerators."""
    known = (entry.get("loadSeconds") for entry in _measured(model, observed))
    return max((float(s) for s in known if s is not None), default=UNKNOWN_LOAD_SECONDS)


def _measured(model: Parent[ModelSpec], observed: PoolObserved) -> list[Json]:
    names = {policy.accelerator(w.report) for w in observed.workers if w.report}
    return [policy.measured(model, name) for name in sorted(names)]


def slots(observed: PoolObserved) -> list[Slot]:
    """The workers that can hold models, with what is pinned there: as they say, but of what was moved a moment ago as
    was decided then, which they may not have heard yet."""
    return [
        Slot(w.pod.name, w.report.memory_total_bytes, _pinned(w.pod.name, w.report, observed.moved_models))
        for w in verdicts.serving(observed.workers)
        if w.report
    ]


def _pinned(worker: str, report: Report, moved: Mapping[str, frozenset[str]]) -> frozenset[str]:
    said = {m.model for m in report.models if m.pinned and m.model not in moved}
    return frozenset(said | {model for model, workers in moved.items() if worker in workers})


def suspended_models(found: Entries, spec: PoolSpec) -> set[str]:
    """The models that workers may not draw with: those that are suspended under every name that uses them."""
    everywhere: dict[str, bool] = {s["model"]: True for s in found.suspensions if "until" not in s}
    for entry, state in found.states:
        unsafe = suspension.unsafe_models(found.suspensions, entry.name)
        halted = bool(suspension.requested(spec, entry))
        for model in suspension.models_in_use(entry, state):
            here = halted or model in unsafe
            everywhere[model] = here and everywhere.get(model, True)
    return {model for model, suspended in everywhere.items() if suspended}
