"""Which worker holds which model.

Every model first gets the workers that it asks for (``minResident``). What memory is left goes to the models that are
worth it (see ``residency``), or, while nobody says what callers want, to the models of fewest copies. Where not every
model finds a place, some memory is left free, so that the others can be loaded when they are asked for. What is pinned
stays where it is as long as these rules allow it, so that a worker that comes or goes moves nothing elsewhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heapreplace

from imagefleet_operator.plan.packing import Need, Packing, Slot
from imagefleet_operator.plan.residency import fill_by_worth, leave_room

BYTES_TO_MEMORY = 1.3
"""Memory of a loaded model over the size of its files, where neither spec nor measurement says it: text
encoders and schedulers keep buffers, and activations of one picture come on top."""
SEARCH_STEPS = 1_000
"""Upper bound of the exact search after the greedy one failed; keeps a pass in the milliseconds."""
SETTLING_ROUNDS = 10
"""A placement is arranged again on top of itself until that changes nothing, so that the next pass moves nothing."""
SEARCH_COPIES = 100
"""Copies that the search, which recurses once for each, is tried for at most."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The outcome: per worker the models to pin; and per model how many wanted copies found no packing."""

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


def place(needs: Sequence[Need], slots: Iterable[Slot]) -> Placement:
    """Place models on workers; the order of ``slots`` does not matter, that of ``needs`` breaks ties.

    Never fills a worker over its usable memory. Worked example: two workers of 100 bytes, models ``a`` and
    ``b`` of 60 bytes that want one copy each: ``a`` on one, ``b`` on the other; a third worker gets ``a``
    (equal copies, named first).
    """
    workers = sorted(slots, key=lambda s: s.name)
    pinned = {s.name: set(s.pinned) for s in workers}
    for _ in range(1 + SETTLING_ROUNDS):
        packing = _arrange(needs, [replace(s, pinned=frozenset(pinned[s.name])) for s in workers])
        if packing.pinned == pinned:
            break
        pinned = packing.pinned
    short = {n.model: n.min_resident - packing.copies[n.model] for n in needs}
    return Placement(
        pinned={name: frozenset(models) for name, models in packing.pinned.items()},
        short={model: lacking for model, lacking in short.items() if lacking > 0},
    )


def _arrange(needs: Sequence[Need], workers: Sequence[Slot]) -> Packing:
    """One round. Which of a model's copies counts as the wanted one can change with what is pinned after it."""
    by_name = {n.model: n for n in needs}
    packing = _required(by_name, workers)
    known = any(n.outlook is not None for n in needs)
    if known:
        fill_by_worth(packing)
    if _first_copies(packing):
        if known:
            fill_by_worth(packing, spare=True)
        _keep(packing)
        _fill(packing)
        return packing
    if not known:
        _keep(packing)
        _first_copies_beside_the_others(packing)
    leave_room(packing)
    return packing


def _first_copies(packing: Packing) -> bool:
    """A copy for every model that has none, where it is already if it can be; or for none of them, where there is not
    room for all that any worker can hold. Whether there is."""
    put: list[tuple[str, str]] = []
    for need in packing.homeless():
        worker = packing.best(need.model, {s.name for s in packing.slots if need.model in s.pinned})
        if worker is not None:
            packing.put(need.model, worker)
            put.append((need.model, worker))
    if not packing.homeless():
        return True
    for model, worker in put:
        packing.drop(model, worker)
    return False


def _first_copies_beside_the_others(packing: Packing) -> None:
    """Where not all models have room: first copies as long as each worker that holds any keeps room for the largest of
    the others."""
    homeless = packing.homeless()
    for need in homeless:
        others = (n.memory_bytes for n in homeless if n is not need and not packing.copies[n.model])
        packing.put_on_best(need.model, spare=max(others, default=0))


def _required(needs: Mapping[str, Need], workers: Sequence[Slot]) -> Packing:
    """Packing with every model's wanted copies, kept pins first; from scratch, or by search, where these are in
    the way."""
    packing = Packing(needs, workers)
    for model, worker in _kept(needs, workers):
        if packing.fits(model, worker):
            packing.put(model, worker)
    if _greedy(packing):
        return packing
    fresh = Packing(needs, workers)
    if _greedy(fresh):
        return fresh
    searched = Packing(needs, workers)
    missing = _missing(searched)
    wanted = sum(needs[model].memory_bytes for model in missing)
    possible = wanted <= sum(searched.free.values()) and len(missing) <= SEARCH_COPIES
    if possible and _search(searched, missing, 0, [SEARCH_STEPS]):
        return searched
    return packing


def _kept(needs: Mapping[str, Need], workers: Sequence[Slot]) -> list[tuple[str, str]]:
    """Of the pins there are, as many of each model as it wants at least, largest models first."""
    return [
        (n.model, worker)
        for n in sorted(needs.values(), key=lambda n: -n.memory_bytes)
        if n.min_resident
        for worker in [s.name for s in workers if n.model in s.pinned][: n.min_resident]
    ]


def _missing(packing: Packing) -> list[str]:
    """One entry for each wanted copy that is not placed, largest models first."""
    return [
        need.model
        for need in sorted(packing.needs.values(), key=lambda n: -n.memory_bytes)
        for _ in range(min(need.min_resident, len(packing.slots)) - packing.copies[need.model])
    ]


def _greedy(packing: Packing) -> bool:
    placed = [packing.put_on_best(model) for model in _missing(packing)]
    return all(placed)


def _search(packing: Packing, missing: list[str], at: int, steps: list[int]) -> bool:
    """Depth-first search for room for all of ``missing[at:]``; gives up after ``steps[0]`` tries."""
    if at == len(missing):
        return True
    for worker in packing.emptiest(missing[at]):
        steps[0] -= 1
        if steps[0] < 0:
            return False
        packing.put(missing[at], worker)
        if _search(packing, missing, at + 1, steps):
            return True
        packing.drop(missing[at], worker)
    return False


def _keep(packing: Packing) -> None:
    """Leave what is pinned beyond the wanted copies where it is, as far as there is packing."""
    for slot in packing.slots:
        for model in sorted(slot.pinned):
            if model in packing.needs and packing.fits(model, slot.name):
                packing.put(model, slot.name)


def _fill(packing: Packing) -> None:
    """Give what is left to the models of fewest copies, one copy at a time; the first named of equals."""
    line = [(packing.copies[model], at, model) for at, model in enumerate(packing.needs)]
    heapify(line)
    while line:
        copies, at, model = line[0]
        if packing.put_on_best(model):
            heapreplace(line, (copies + 1, at, model))
        else:
            heappop(line)
