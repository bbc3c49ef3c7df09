"""Which models are worth the memory that they take, in a pool whose workers hold several."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


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
