"""Which models take each other's places, and why: what is told of a placement that changes, and what is left alone for
a while."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imagefleet_operator.plan.conditions import News
from imagefleet_operator.plan.packing import Slot
from imagefleet_operator.plan.rollout_placement import Layout

HOLD_SECONDS = 180.0
"""A model that was moved stays for so long: demand of a few minutes is an estimate, and each move costs loads."""
DEMAND, REQUIRED, ROOM = "Demand", "Required", "Room"
"""Why: it is worth more there; ``minResident`` or a rollout asks for it; models without a copy need room."""


@dataclass(frozen=True, slots=True)
class Move:
    """A model that took a place, or gave one up. ``workers`` are those that hold it from now on."""

    model: str
    workers: frozenset[str]
    joined: tuple[str, ...]
    left: tuple[str, ...]
    reason: str


def moves(slots: Sequence[Slot], layout: Layout) -> tuple[Move, ...]:
    """The models that a layout moves: on workers that lose a model to which it is not unknown. Filling a worker that
    has room, or that is new, moves nothing."""
    needs = {need.model: need for need in layout.needs}
    joined: dict[str, list[str]] = {}
    left: dict[str, list[str]] = {}
    why: dict[str, str] = {}
    for slot in slots:
        now = layout.placement.pinned[slot.name]
        loses = sorted((slot.pinned - now) & needs.keys())
        if not loses:
            continue
        gains = sorted(now - slot.pinned)
        asked = any(layout.copies(model) <= needs[model].min_resident for model in gains)
        reason = REQUIRED if asked else DEMAND if gains else ROOM
        for names, models in ((joined, gains), (left, loses)):
            for model in models:
                names.setdefault(model, []).append(slot.name)
                why.setdefault(model, reason)
    return tuple(
        Move(
            model,
            frozenset(name for name, held in layout.placement.pinned.items() if model in held),
            tuple(joined.get(model, ())),
            tuple(left.get(model, ())),
            reason,
        )
        for model, reason in sorted(why.items())
    )


def told(found: Iterable[Move]) -> tuple[News, ...]:
    """One piece of news for all of them, for ``kubectl describe``."""
    parts = [f"{move.model} {_how(move)} ({move.reason})" for move in found]
    return (News("PlacementChanged", f"{'; '.join(parts)}.", False, ""),) if parts else ()


def _how(move: Move) -> str:
    """Worked example: ``joins pictures-workers-a, leaves pictures-workers-b, held by 2``."""
    parts = [
        f"{verb} {', '.join(names)}"
        for verb, names in (("joins", move.joined), ("leaves", move.left))
        if names
    ]
    return ", ".join([*parts, f"held by {len(move.workers)}"])
