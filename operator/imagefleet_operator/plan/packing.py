"""Workers while a placement fills them: what fits where, and how many copies of a model there are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

USABLE = 0.9
"""Of a worker's memory; the rest is left to activations' peaks and fragmentation."""
UNKNOWN_LOAD_SECONDS = 10.0
"""Of a model that nobody has loaded yet."""


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
class Outlook:
    """What is known of the use of a model: GPU-seconds that callers asked for lately, and seconds that a load takes.
    ``moved``: its copies were moved a moment ago, so they stay."""

    demand: float = 0.0
    load_seconds: float = UNKNOWN_LOAD_SECONDS
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """A model to place: copies wanted at least, and its memory in bytes. ``outlook`` is None while nobody says what
    callers want."""

    model: str
    min_resident: int
    memory_bytes: int
    outlook: Outlook | None = None


@dataclass(slots=True)
class Packing:
    """A placement while it grows. ``slots`` are in the order of their names."""

    needs: Mapping[str, Need]
    slots: Sequence[Slot]
    free: dict[str, int] = field(init=False)
    pinned: dict[str, set[str]] = field(init=False)
    copies: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.free = {s.name: s.usable for s in self.slots}
        self.pinned = {s.name: set() for s in self.slots}
        self.copies = dict.fromkeys(self.needs, 0)

    def fits(self, model: str, worker: str) -> bool:
        """Whether the model is not there yet and its memory is free."""
        return model not in self.pinned[worker] and self.needs[model].memory_bytes <= self.free[worker]

    def put(self, model: str, worker: str) -> None:
        """Pin it there."""
        self.pinned[worker].add(model)
        self.free[worker] -= self.needs[model].memory_bytes
        self.copies[model] += 1

    def drop(self, model: str, worker: str) -> None:
        """Undo ``put``."""
        self.pinned[worker].discard(model)
        self.free[worker] += self.needs[model].memory_bytes
        self.copies[model] -= 1

    def emptiest(self, model: str) -> list[str]:
        """The workers with room for it, most free memory first, then by name."""
        return sorted((w for w in self.free if self.fits(model, w)), key=lambda w: (-self.free[w], w))

    def best(self, model: str, preferred: Collection[str] = (), spare: int = 0) -> str | None:
        """Of the workers with room for it a preferred one, else any, and of these the one with the most free memory,
        then by name; None where there is none. ``spare``: bytes that are to stay free on one that holds anything."""
        size = self.needs[model].memory_bytes
        found, found_free, found_preferred = None, -1, False
        for worker, free in self.free.items():
            if free < size or model in self.pinned[worker]:
                continue
            if free < size + spare and self.pinned[worker]:
                continue
            liked = worker in preferred
            if (liked, free) > (found_preferred, found_free):
                found, found_free, found_preferred = worker, free, liked
        return found

    def put_on_best(self, model: str, preferred: Collection[str] = (), spare: int = 0) -> bool:
        """Pin it on the best worker; False where there is none."""
        worker = self.best(model, preferred, spare)
        if worker is None:
            return False
        self.put(model, worker)
        return True

    def homeless(self) -> list[Need]:
        """The models that no worker holds, though one could."""
        most = max((s.usable for s in self.slots), default=0)
        return [n for n in self.needs.values() if not self.copies[n.model] and n.memory_bytes <= most]
