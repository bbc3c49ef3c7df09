"""Which worker holds which model.

Every model first gets the workers that it asks for (``minResident``); what memory is left is filled with the
models of fewest copies. What is pinned stays where it is as long as these rules allow it, so that a worker
that comes or goes moves nothing elsewhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

USABLE = 0.9
"""Of a worker's memory; the rest is left to activations' peaks and fragmentation."""
BYTES_TO_MEMORY = 1.3
"""Memory of a loaded model over the size of its files, where neither spec nor measurement says it: text
encoders and schedulers keep buffers, and activations of one picture come on top."""
SEARCH_STEPS = 1_000
"""Upper bound of the exact search after the greedy one failed; keeps a pass in the milliseconds."""
SETTLING_ROUNDS = 4
"""A placement is arranged again on top of itself until that changes nothing, so that the next pass moves nothing."""
SEARCH_COPIES = 100
"""Copies that the search, which recurses once for each, is tried for at most."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A worker to place on: its memory in bytes and the models pinned there now."""

    name: str
    memory_bytes: int
    pinned: frozenset[str] = frozenset()

    @property
    def usable(self) -> int:
        """Bytes that placement may fill, e.g. 90 of 100."""
        return int(self.memory_bytes * USABLE)


@dataclass(frozen=True, slots=True)
class Need:
    """A model to place: copies wanted at least, and its memory in bytes."""

    model: str
    min_resident: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """The outcome: per worker the models to pin; and per model how many wanted copies found no room."""

    pinned: Mapping[str, frozenset[str]]
    short: Mapping[str, int]


def estimate(spec_bytes: int | None, measured_bytes: int | None, file_bytes: int) -> int:
    """Memory that a model takes: as specified, else as measured, else from its files.

    Worked example: ``estimate(None, None, 1000)`` is 1300.
    """
    if spec_bytes is not None:
        return spec_bytes
    if measured_bytes is not None:
        return measured_bytes
    return int(file_bytes * BYTES_TO_MEMORY)


@dataclass(slots=True)
class _Room:
    """The placement while it grows. Local to ``place``, so changing it is no side effect."""

    needs: Mapping[str, Need]
    free: dict[str, int]
    pinned: dict[str, set[str]] = field(default_factory=dict)

    def fits(self, model: str, worker: str) -> bool:
        """Whether the model is not there yet and its memory is free."""
        return model not in self.pinned[worker] and self.needs[model].memory_bytes <= self.free[worker]

    def put(self, model: str, worker: str) -> None:
        """Pin it there."""
        self.pinned[worker].add(model)
        self.free[worker] -= self.needs[model].memory_bytes

    def drop(self, model: str, worker: str) -> None:
        """Undo ``put``."""
        self.pinned[worker].discard(model)
        self.free[worker] += self.needs[model].memory_bytes

    def copies(self, model: str) -> int:
        """On how many workers it is pinned."""
        return sum(model in models for models in self.pinned.values())

    def emptiest(self, model: str) -> list[str]:
        """The workers with room for it, most free memory first, then by name."""
        return sorted((w for w in self.free if self.fits(model, w)), key=lambda w: (-self.free[w], w))


def place(needs: Sequence[Need], slots: Iterable[Slot]) -> Placement:
    """Place models on workers; the order of ``slots`` does not matter, that of ``needs`` breaks ties.

    Never fills a worker over its usable memory. Worked example: two workers of 100 bytes, models ``a`` and
    ``b`` of 60 bytes that want one copy each: ``a`` on one, ``b`` on the other; a third worker gets ``a``
    (equal copies, named first).
    """
    workers = sorted(slots, key=lambda s: s.name)
    room = _arrange(needs, workers)
    for _ in range(SETTLING_ROUNDS):
        settled = _arrange(needs, [replace(s, pinned=frozenset(room.pinned[s.name])) for s in workers])
        if settled.pinned == room.pinned:
            break
        room = settled
    short = {n.model: n.min_resident - room.copies(n.model) for n in needs}
    return Placement(
        pinned={name: frozenset(models) for name, models in room.pinned.items()},
        short={model: lacking for model, lacking in short.items() if lacking > 0},
    )


def _arrange(needs: Sequence[Need], workers: Sequence[Slot]) -> _Room:
    """One round. Which of a model's copies counts as the wanted one can change with what is pinned after it."""
    room = _required({n.model: n for n in needs}, workers)
    for first_copy in (n.model for n in needs if room.copies(n.model) == 0):
        _put_on_emptiest(room, first_copy, {s.name for s in workers if first_copy in s.pinned})
    _keep(room, workers)
    _fill(room, [n.model for n in needs])
    return room


def _empty(needs: Mapping[str, Need], workers: Sequence[Slot]) -> _Room:
    return _Room(needs, {s.name: s.usable for s in workers}, {s.name: set() for s in workers})


def _required(needs: Mapping[str, Need], workers: Sequence[Slot]) -> _Room:
    """Room with every model's wanted copies, kept pins first; from scratch, or by search, where these are in
    the way."""
    room = _empty(needs, workers)
    for model, worker in _kept(needs, workers):
        if room.fits(model, worker):
            room.put(model, worker)
    if _greedy(room, len(workers)):
        return room
    fresh = _empty(needs, workers)
    if _greedy(fresh, len(workers)):
        return fresh
    searched = _empty(needs, workers)
    missing = _missing(searched, len(workers))
    wanted = sum(needs[model].memory_bytes for model in missing)
    possible = wanted <= sum(searched.free.values()) and len(missing) <= SEARCH_COPIES
    if possible and _search(searched, missing, 0, [SEARCH_STEPS]):
        return searched
    return room


def _kept(needs: Mapping[str, Need], workers: Sequence[Slot]) -> list[tuple[str, str]]:
    """Of the pins there are, as many of each model as it wants at least, largest models first."""
    return [
        (n.model, worker)
        for n in sorted(needs.values(), key=lambda n: -n.memory_bytes)
        for worker in [s.name for s in workers if n.model in s.pinned][: n.min_resident]
    ]


def _missing(room: _Room, workers: int) -> list[str]:
    """One entry for each wanted copy that is not placed, largest models first."""
    return [
        need.model
        for need in sorted(room.needs.values(), key=lambda n: -n.memory_bytes)
        for _ in range(min(need.min_resident, workers) - room.copies(need.model))
    ]


def _greedy(room: _Room, workers: int) -> bool:
    placed = [_put_on_emptiest(room, model, set()) for model in _missing(room, workers)]
    return all(placed)


def _put_on_emptiest(room: _Room, model: str, preferred: set[str]) -> bool:
    """On a worker that holds it already where there is one with room, else on the emptiest."""
    candidates = room.emptiest(model)
    if not candidates:
        return False
    room.put(model, next((w for w in candidates if w in preferred), candidates[0]))
    return True


def _search(room: _Room, missing: list[str], at: int, steps: list[int]) -> bool:
    """Depth-first search for room for all of ``missing[at:]``; gives up after ``steps[0]`` tries."""
    if at == len(missing):
        return True
    for worker in room.emptiest(missing[at]):
        steps[0] -= 1
        if steps[0] < 0:
            return False
        room.put(missing[at], worker)
        if _search(room, missing, at + 1, steps):
            return True
        room.drop(missing[at], worker)
    return False


def _keep(room: _Room, workers: Sequence[Slot]) -> None:
    """Leave what is pinned beyond the wanted copies where it is, as far as there is room."""
    for slot in workers:
        for model in sorted(slot.pinned):
            if model in room.needs and room.fits(model, slot.name):
                room.put(model, slot.name)


def _fill(room: _Room, order: Sequence[str]) -> None:
    """Give what is left to the models of fewest copies, one copy at a time."""
    copies = {m: room.copies(m) for m in order}
    open_models = list(order)
    while open_models:
        model = min(open_models, key=lambda m: copies[m])
        if _put_on_emptiest(room, model, set()):
            copies[model] += 1
        else:
            open_models.remove(model)
