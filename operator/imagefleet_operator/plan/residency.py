"""Which models are worth the memory that they take, in a pool whose workers hold several.

A copy is worth what it saves: demand x load seconds / bytes. Copies of one model share its demand, so each further
one is worth less (demand / number of copies, as seats are given by D'Hondt's method).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

DAMPING = 0.5
"""A model takes another's place only where it is worth half as much again: a load costs, and demand is an
estimate."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model on a worker: what it costs to load again, the memory it takes, and when it was last used."""

    model: str
    load_seconds: float
    memory_bytes: int
    used: float


def value(resident: Resident, demand: float) -> float:
    """What keeping it saves: demand x load seconds / bytes."""
    return demand * resident.load_seconds / max(1, resident.memory_bytes)


def least_valuable(residents: Sequence[Resident], demand: Mapping[str, float]) -> str:
    """The model to evict; of equals the one that was not used for longest."""
    return min(residents, key=lambda r: (value(r, demand.get(r.model, 0.0)), r.used)).model


def most_wanted(demand: Mapping[str, float], workers: Sequence[Collection[str]]) -> str | None:
    """The model that a new worker should load first: that of most demand for each copy there is and this one."""
    copies = {m: sum(m in held for held in workers) for m in demand}
    return max(demand, key=lambda m: (demand[m] / (1 + copies[m]), m), default=None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of the pool: GPU-seconds asked for lately, what a load costs, the memory that a copy takes."""

    model: str
    demand: float
    load_seconds: float
    memory_bytes: int
    min_resident: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """A worker: bytes that models may take there, and the models that it holds now."""

    name: str
    usable_bytes: int
    resident: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Filling:
    """Workers while they are filled. Local to ``arrange``."""

    hosts: Sequence[Host]
    sizes: Mapping[str, int]
    free: dict[str, int]
    held: dict[str, set[str]]
    copies: dict[str, int] = field(default_factory=dict)

    def place_for(self, candidate: Candidate) -> Host | None:
        """Where its next copy goes: where it is already, else to the most memory that nobody holds; None where it
        fits nowhere."""
        fits = [
            h
            for h in self.hosts
            if candidate.memory_bytes <= self.free[h.name] and candidate.model not in self.held[h.name]
        ]
        return min(
            fits, key=lambda h: (candidate.model not in h.resident, -self._spare(h), h.name), default=None
        )

    def _spare(self, host: Host) -> int:
        """Bytes free without those of models that are there and may yet stay."""
        staying = (self.sizes.get(m, 0) for m in host.resident - self.held[host.name])
        return self.free[host.name] - sum(staying)

    def put(self, candidate: Candidate, host: Host) -> None:
        """One copy more."""
        self.held[host.name].add(candidate.model)
        self.free[host.name] -= candidate.memory_bytes
        self.copies[candidate.model] = self.copies.get(candidate.model, 0) + 1

    def worth(self, candidate: Candidate, host: Host) -> float:
        """Of its next copy, there. What is there already counts DAMPING more."""
        alone = Resident(candidate.model, candidate.load_seconds, candidate.memory_bytes, 0.0)
        share = candidate.demand / (1 + self.copies.get(candidate.model, 0))
        return value(alone, share) * (1 + DAMPING if candidate.model in host.resident else 1)


def arrange(candidates: Sequence[Candidate], hosts: Sequence[Host]) -> Mapping[str, frozenset[str]]:
    """Per worker the models that it should hold: first ``min_resident`` copies of each, then by worth, while they
    fit.

    Models without demand get no further copies; what a worker holds of them may stay until room is needed. Worked
    example: two workers with room for two; ``hot`` of demand 10, ``warm`` of 4, ``cold`` of 1, alike in all else:
    copies are worth 10 and 5 (hot), 4 and 2 (warm), 1 (cold), so both workers hold hot and warm.
    """
    ordered = sorted(hosts, key=lambda h: h.name)
    sizes = {c.model: c.memory_bytes for c in candidates}
    filling = _Filling(
        ordered, sizes, {h.name: h.usable_bytes for h in ordered}, {h.name: set() for h in ordered}
    )
    for candidate in sorted(candidates, key=lambda c: (-c.memory_bytes, c.model)):
        for _ in range(candidate.min_resident):
            if (host := filling.place_for(candidate)) is not None:
                filling.put(candidate, host)
    wanted = [c for c in candidates if c.demand > 0]
    while placed := [
        (filling.worth(c, h), c.model, c, h) for c in wanted if (h := filling.place_for(c)) is not None
    ]:
        _, _, candidate, host = max(placed, key=lambda p: p[:2])
        filling.put(candidate, host)
    return {name: frozenset(models) for name, models in filling.held.items()}
