"""How many copies each model of a pool is to have while some of its entries move from one model to another.

Workers are not multiplied for a rollout: the canary gets memory that is free, else the place of some of the stable
model's copies, and where not even one of these can be spared, the place of the last one, all at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from imagefleet_operator.plan.packing import Need, Outlook, Slot
from imagefleet_operator.plan.placement import Placement, place
from imagefleet_operator.plan.rollout_state import EntryState, Rollout
from imagefleet_operator.plan.types import PoolModel

Size = Callable[[str], int | None]
"""Bytes of memory that a model takes; None where it may not be given to workers."""


class Room(StrEnum):
    """Where a canary finds room for one copy."""

    BESIDE = "beside"
    """With at least one copy of the stable model left."""
    INSTEAD = "instead"
    """Only in the place of the stable model's last copy."""
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which worker is to hold what, and what could not be had."""

    needs: tuple[Need, ...]
    placement: Placement
    room: Mapping[str, Room]
    """By entry, of canaries that have not taken over."""
    wanted: Mapping[str, int]
    """By entry: copies that its main model is asked to have."""
    left_out: frozenset[str]
    """Models of experiments and shadows that found no room."""

    def copies(self, model: str) -> int:
        """On how many workers it is pinned."""
        return sum(model in models for models in self.placement.pinned.values())


@dataclass(frozen=True, slots=True)
class Demand:
    """Copies of a model that somebody asks for. ``owner`` tells two askers for the same model apart."""

    owner: str
    model: str
    copies: int


def copies_of(weight: int, copies: int) -> tuple[int, int]:
    """Copies of the canary and of the stable model at that weight, of ``copies`` that the entry asks for.

    Formula: ceil(weight / 100 x copies) and ceil((100 - weight) / 100 x copies), each at least 1: nobody is to wait
    because a share was rounded away.

    Worked examples: at 5 % of 4 copies (1, 4); at 50 % of 3 (2, 2); at 100 % of 3 (3, 1); at 0 % of 1 (1, 1).
    """
    canary, stable = -(-weight * copies // 100), -(-(100 - weight) * copies // 100)
    return max(1, canary), max(1, stable)


def lay_out(
    entries: Sequence[tuple[PoolModel, EntryState]],
    size: Size,
    slots: Sequence[Slot],
    outlooks: Mapping[str, Outlook] | None = None,
) -> Layout:
    """Place all models of a pool: first what stands, then the canaries, then experiments' and shadows' models, none of
    which takes from what came before it more than ``copies_of`` allows. ``outlooks`` by model, None while nobody says
    what callers want: memory that is left goes by them."""
    desk = _Desk(size, slots, [Demand(e.name, s.main, e.min_resident) for e, s in entries], outlooks)
    for entry, state in entries:
        if state.active is not None or _extras(entry, state):
            desk.hold(entry.name)
    room = {e.name: desk.admit(e, s.active) for e, s in entries if s.active and not s.active.taken_over}
    extras = dict.fromkeys(m for e, s in entries for m in _extras(e, s))
    left_out = [model for model in extras if not desk.squeeze_in(model)]
    return Layout(
        needs=desk.needs(desk.demands),
        placement=desk.place(desk.demands),
        room=room,
        wanted={d.owner: d.copies for d in desk.demands if d.owner},
        left_out=frozenset(left_out),
    )


def _splits(rollout: Rollout, copies: int) -> list[tuple[int, int, int]]:
    """What to try in order: copies of the stable model and of the canary, and how many of the latter it takes.

    While the steps go on the stable model gives up one copy after the other until the canary has one. For the promotion
    the canary is to have all: beside the stable model where there is room, else as many as half of the stable
    model's copies make, so that neither serves all requests with less than half.
    """
    canary, stable = copies_of(rollout.weight, copies)
    if not rollout.promoting:
        return [(left, canary, 1) for left in range(stable, 0, -1)]
    half = max(1, min(stable, copies // 2))
    return [(stable, copies, copies), *((left, copies, 1) for left in range(half, 0, -1))]


def _extras(entry: PoolModel, state: EntryState) -> list[str]:
    ended = {t.name for t in state.trials if t.phase == "Ended"}
    arms = [model for e in entry.experiments if e.name not in ended for model, _ in e.arms]
    return [*arms, entry.shadow.model] if entry.shadow else arms


@dataclass(slots=True)
class _Desk:
    """The demands while they are gathered. Local to ``lay_out``, so changing it is no side effect."""

    size: Size
    slots: Sequence[Slot]
    demands: list[Demand]
    outlooks: Mapping[str, Outlook] | None = None

    def admit(self, entry: PoolModel, rollout: Rollout) -> Room:
        """Find room for a canary, and ask for it where it is wanted there."""
        for stable, canary, least in _splits(rollout, max(1, entry.min_resident)):
            beside = [
                replace(d, copies=min(d.copies, stable)) if d.owner == entry.name else d for d in self.demands
            ]
            fitting = self._most(beside, Demand("", rollout.to, canary), least)
            if fitting is not None:
                if rollout.placed and not rollout.all_at_once:
                    self.demands = [*beside, fitting]
                return Room.BESIDE
        instead = [d for d in self.demands if d.owner != entry.name]
        return Room.INSTEAD if self._fits(instead, Demand("", rollout.to, 1)) else Room.NOWHERE

    def hold(self, owner: str) -> None:
        """Ask for a copy of a main model that is loaded on demand alone, where nobody has to give way for it: its share
        must not wait while others stand beside it."""
        held = [replace(d, copies=max(1, d.copies)) if d.owner == owner else d for d in self.demands]
        (demand,) = (d for d in held if d.owner == owner)
        if self._fits([d for d in self.demands if d.owner != owner], demand):
            self.demands = held

    def squeeze_in(self, model: str) -> bool:
        """Ask for one copy of a model where nobody has to give way for it."""
        trial = Demand("", model, 1)
        fits = self._fits(self.demands, trial)
        if fits:
            self.demands = [*self.demands, trial]
        return fits

    def needs(self, demands: Sequence[Demand]) -> tuple[Need, ...]:
        """Each usable model once, with the most copies that anybody asks for."""
        copies: dict[str, int] = {}
        for demand in demands:
            if self.size(demand.model) is not None:
                copies[demand.model] = max(copies.get(demand.model, 0), demand.copies)
        known = self.outlooks
        return tuple(
            Need(model, count, self.size(model) or 0, known.get(model, Outlook()) if known else None)
            for model, count in copies.items()
        )

    def place(self, demands: Sequence[Demand]) -> Placement:
        """Where they would go."""
        return place(self.needs(demands), self.slots)

    def _most(self, demands: Sequence[Demand], trial: Demand, least: int) -> Demand | None:
        """As many of the copies as fit; None where not even the least do."""
        if not self._fits(demands, replace(trial, copies=least)):
            return None
        fewer = (replace(trial, copies=copies) for copies in range(trial.copies, least, -1))
        return next((d for d in fewer if self._fits(demands, d)), replace(trial, copies=least))

    def _fits(self, demands: Sequence[Demand], trial: Demand) -> bool:
        """Whether it gets all its copies, and nobody else fewer than without it."""
        if self.size(trial.model) is None:
            return False
        before, after = self.place(demands), self.place([*demands, trial])
        others = (m for m in after.short if m != trial.model)
        return trial.model not in after.short and all(
            after.short[m] <= before.short.get(m, 0) for m in others
        )
