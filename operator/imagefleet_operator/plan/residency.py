"""Which models are worth the memory that they take, in a pool whose workers hold several.

A copy is worth what it saves: demand x load seconds / bytes. The first one saves loads, the others only waiting, and
each further one less (see ``of_copy``).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from imagefleet_operator.plan.packing import Need, Outlook, Packing, Slot

DAMPING = 0.5
"""A model takes another's place only where it is worth half as much again: a load costs, and demand is an
estimate."""
NOBODY_ASKS = Outlook()
SPARE = 3
"""The rank of copies that take nobody's place."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model on a worker: what it costs to load again, the memory it takes, and when it was last used."""

    model: str
    load_seconds: float
    memory_bytes: int
    used: float


def value(demand: float, load_seconds: float, memory_bytes: int) -> float:
    """What keeping a model saves, for each byte: demand x load seconds / bytes.

    Worked example: 2 GPU-seconds of demand, 3 s to load, 10 bytes: 0.6.
    """
    return demand * load_seconds / max(1, memory_bytes)


def of_copy(demand: float, number: int) -> float:
    """The part of a model's demand that its copy of that number is of use for.

    The first is for all of it. With n copies requests wait about an n-th as long as with one, so that the n-th saves
    1 / (n - 1) - 1 / n = 1 / (n (n - 1)). Copies then go by the square root of demand: the hottest model gets more than
    its work needs, and does not take the memory of all others.

    Worked example: of a demand of 12 the copies are worth 12, 6, 2 and 1.
    """
    return demand / (number * max(1, number - 1))


def least_valuable(residents: Sequence[Resident], demand: Mapping[str, float]) -> str:
    """The model to evict; of equals the one that was not used for longest."""

    def worth(r: Resident) -> tuple[float, float]:
        return value(demand.get(r.model, 0.0), r.load_seconds, r.memory_bytes), r.used

    return min(residents, key=worth).model


def most_wanted(demand: Mapping[str, float], workers: Sequence[Collection[str]]) -> str | None:
    """The model that a new worker should load first: that of most demand for each copy there is and this one."""
    copies = {m: sum(m in held for held in workers) for m in demand}
    return max(demand, key=lambda m: (demand[m] / (1 + copies[m]), m), default=None)


def outlook(need: Need) -> Outlook:
    """What is known of a model; without an opinion nobody asks for it."""
    return need.outlook or NOBODY_ASKS


@dataclass(slots=True)
class _Filling:
    """A packing while copies come to it in the order of their worth. Local to ``fill_by_worth``."""

    packing: Packing
    spare: bool
    homes: dict[str, list[str]] = field(init=False)
    """By model: the workers that it is pinned on now."""
    staying: dict[str, int] = field(init=False)
    """By worker: bytes of models that are pinned there now and may yet stay."""

    def __post_init__(self) -> None:
        needs = self.packing.needs
        self.homes = {model: [] for model in needs}
        self.staying = {}
        for slot in self.packing.slots:
            there = [m for m in slot.pinned if m in needs]
            for model in there:
                self.homes[model].append(slot.name)
            still = (needs[m].memory_bytes for m in there if m not in self.packing.pinned[slot.name])
            self.staying[slot.name] = sum(still)

    def place_for(self, model: str) -> tuple[str, bool] | None:
        """Where its next copy goes, and whether it is there now: it stays where it can, else it goes where the most
        memory is free that nobody holds; None where it fits nowhere."""
        packing = self.packing
        for worker in self.homes[model]:
            if packing.fits(model, worker):
                return worker, True
        size = packing.needs[model].memory_bytes
        found, most = None, -inf
        for worker, free in packing.free.items():
            unclaimed = free - self.staying[worker]
            if free >= size and unclaimed > most and model not in packing.pinned[worker]:
                found, most = worker, unclaimed
        return None if found is None else (found, False)

    def next_copy(self, model: str) -> tuple[str, bool] | None:
        """As ``place_for``; None too where it gets no copy there: nobody asks for the model, or it would not pay and
        memory is not to spare."""
        place = self.place_for(model)
        if place is None or place[1]:
            return place
        wanted = outlook(self.packing.needs[model]).demand > 0
        return place if wanted and (self.spare or self.rank(model, False)[0] < SPARE) else None

    def put(self, model: str, worker: str, stays: bool) -> None:
        """One copy more."""
        self.packing.put(model, worker)
        if stays:
            self.staying[worker] -= self.packing.needs[model].memory_bytes

    def rank(self, model: str, stays: bool) -> tuple[int, float]:
        """Of its next copy, lowest first. First copies that were just moved; then by worth what is there and what
        pays for its load, then what is there though nobody asks for it, and at last what would not pay for its load, or
        was moved elsewhere just now: that takes nobody's place."""
        need = self.packing.needs[model]
        known = outlook(need)
        share = of_copy(known.demand, 1 + self.packing.copies[model])
        worth = value(share, known.load_seconds, need.memory_bytes)
        if stays:
            if known.moved:
                return 0, 0.0
            return (1, -worth * (1 + DAMPING)) if worth > 0 else (2, 0.0)
        pays = share >= known.load_seconds and not known.moved
        return (1 if pays else SPARE), -worth


def fill_by_worth(packing: Packing, *, spare: bool = False) -> None:
    """Pin further copies by worth, while they fit. ``spare``: every model has a copy, so no memory need be left.

    Models that nobody asks for get none that they have not. Worked example: two workers with room for two; ``hot`` of
    demand 40, ``warm`` of 16, ``cold`` of 4, alike in all else: copies are worth 40 and 20 (hot), 16 and 8 (warm), 4
    (cold), so both workers hold hot and warm.
    """
    filling = _Filling(packing, spare)
    line: list[tuple[int, float, str]] = []

    def join(model: str) -> None:
        place = filling.next_copy(model)
        if place is not None:
            heappush(line, (*filling.rank(model, place[1]), model))

    for model in packing.needs:
        join(model)
    while line:
        tier, order, model = heappop(line)
        place = filling.next_copy(model)
        # Ranks only fall: what was best when it came into the line may be so no more.
        if place is not None and filling.rank(model, place[1]) == (tier, order):
            filling.put(model, *place)
        join(model)


def leave_room(packing: Packing) -> None:
    """Where models have no copy, leave them packing: on one worker at least, and on more as long as that is worth more
    than the copies that have to go for it.

    Rooms share the demand of the models without a copy, which take turns in them: the n-th is worth an n-th of their
    demand x load seconds. Copies that ``minResident`` wants stay in any case.
    """
    given: set[str] = set()
    ways: dict[str, _Way | None] = {}
    size = 0
    while homeless := packing.homeless():
        if (largest := max(n.memory_bytes for n in homeless)) != size:
            size = largest
            ways.clear()
        given |= {worker for worker, free in packing.free.items() if free >= size}
        for slot in packing.slots:
            if slot.name not in given and slot.name not in ways:
                ways[slot.name] = _way(packing, slot, size)
        way = min(
            (w for name, w in ways.items() if w is not None and name not in given),
            key=_Way.rank,
            default=None,
        )
        loads = sum(outlook(n).demand * outlook(n).load_seconds for n in homeless)
        if way is None or (given and not way.pays(loads / (1 + len(given)))):
            return
        for model in way.victims:
            packing.drop(model, way.slot.name)
        given.add(way.slot.name)
        # What is left of the copies that went is worth more now, wherever it is.
        for name, held in packing.pinned.items():
            if not held.isdisjoint(way.victims):
                ways.pop(name, None)


@dataclass(frozen=True, slots=True)
class _Way:
    """How to make room on a worker: the copies that would go, and what they save there."""

    slot: Slot
    victims: tuple[str, ...]
    cost: float
    moves_what_was_moved: bool

    @property
    def disturbs(self) -> bool:
        """Whether any of them is pinned there now."""
        return any(model in self.slot.pinned for model in self.victims)

    def rank(self) -> tuple[bool, float, str]:
        """The lowest is the first to be gone."""
        return self.disturbs, self.cost, self.slot.name

    def pays(self, gain: float) -> bool:
        """Whether room that is worth so much is worth the copies."""
        return not self.moves_what_was_moved and self.cost < gain * (1 if self.disturbs else 1 + DAMPING)


def _way(packing: Packing, slot: Slot, size: int) -> _Way | None:
    """How to have ``size`` bytes free on a worker: without those of its copies that save least."""
    victims: list[str] = []
    cost, free = 0.0, packing.free[slot.name]
    for saved, model in sorted(_saved(packing, slot)):
        if free >= size:
            break
        victims.append(model)
        cost += saved
        free += packing.needs[model].memory_bytes
    if free < size:
        return None
    return _Way(slot, tuple(victims), cost, any(outlook(packing.needs[m]).moved for m in victims))


def _saved(packing: Packing, slot: Slot) -> Iterator[tuple[float, str]]:
    """The copies that may go, and the GPU-seconds x load seconds that each saves; more, where it is there now."""
    for model in packing.pinned[slot.name]:
        need = packing.needs[model]
        if packing.copies[model] > need.min_resident:
            known = outlook(need)
            saved = of_copy(known.demand, packing.copies[model]) * known.load_seconds
            yield saved * (1 + DAMPING if model in slot.pinned else 1), model
