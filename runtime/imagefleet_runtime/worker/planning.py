"""Which model to load next, what must go for it, and who gives way. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """As in the contract."""

    ABSENT = "Absent"
    LOADING = "Loading"
    RESIDENT = "Resident"
    FAILED = "Failed"


# Seconds that a load takes where nobody has measured one.
UNKNOWN_LOAD_SECONDS = 10.0
# After a load no model that has work goes for so many times as long: then a worker loads for a third of the time at
# most, however many models are asked for in turn, unless those that it holds have nothing to do.
TENURE_LOADS = 2.0


@dataclass(frozen=True)
class Candidate:
    """One model that the policy names. Times in seconds, on one clock."""

    model: str
    pinned: bool
    state: State
    memory_bytes: int  # measured or declared, else the size of its files, else 0
    oldest: float | None  # when the first of its waiting requests laid claim to it; None: none waits
    running: bool
    last_used: float
    demand: float = 0.0  # GPU-seconds drawn lately
    load_seconds: float = UNKNOWN_LOAD_SECONDS
    loaded: float = -math.inf  # when its load had ended
    leaving: bool = False  # the policy no longer names it: it finishes what it has, and nothing more comes

    @property
    def value(self) -> float:
        """What keeping it saves, for each byte: demand x load seconds / bytes.

        Worked example: 2 GPU-seconds of demand, 3 s to load, 10 bytes: 0.6.
        """
        return self.demand * self.load_seconds / max(1, self.memory_bytes)

    @property
    def busy(self) -> bool:
        return self.running or self.oldest is not None

    @property
    def tenure(self) -> float:
        """Until when what is held beside it, and itself, stays as long as it has work."""
        return self.loaded + TENURE_LOADS * self.load_seconds


@dataclass(frozen=True)
class LoadNext:
    model: str
    evict: tuple[str, ...] = ()


@dataclass(frozen=True)
class DoesNotFit:
    model: str
    message: str


def plan(candidates: list[Candidate], total_bytes: int, now: float) -> LoadNext | DoesNotFit | None:
    """The next step: pinned models first, in the policy's order; then the one whose request has waited longest.

    A model makes room by evicting models that are not pinned and not running: those without work first, the least
    valuable before others. For a model that is not pinned one with waiting requests goes only some time after the last
    load, and only where its own have waited less, else models that are asked for at the same time would evict each
    other without end. Where the room is held only for now, it waits (None).
    """
    held = _held(candidates)
    for entry in _asked(candidates):
        step = _make_room(entry, held, total_bytes, now)
        if step is not None:
            return step
    return None


def _asked(candidates: list[Candidate]) -> list[Candidate]:
    """The models that are to be loaded, in the order of their turns."""
    absent = [entry for entry in candidates if entry.state is State.ABSENT]
    pinned = [entry for entry in absent if entry.pinned]
    asked_for = sorted(
        (e for e in absent if not e.pinned and e.oldest is not None), key=lambda e: e.oldest or 0.0
    )
    return [*pinned, *asked_for]


def _make_room(
    entry: Candidate, held: list[Candidate], total_bytes: int, now: float
) -> LoadNext | DoesNotFit | None:
    fixed = sum(other.memory_bytes for other in held if other.pinned)
    if fixed + entry.memory_bytes > total_bytes:
        beside = f" beside {fixed} for pinned models" if fixed else ""
        return DoesNotFit(entry.model, f"needs {entry.memory_bytes} bytes{beside}; there are {total_bytes}")
    settled = now >= _tenure(held)
    able = [other for other in held if not other.running and _may_go(other, entry, settled)]
    evicted = _enough(entry, held, able, total_bytes)
    return None if evicted is None else LoadNext(entry.model, tuple(other.model for other in evicted))


def giving_way(candidates: list[Candidate], total_bytes: int, now: float) -> dict[str, float]:
    """The models that must not begin requests which came after a time, so that the first model that waits for room
    gets it: running ones would else never end. Empty where nobody waits, or the room will come by itself.
    """
    held = _held(candidates)
    for entry in _asked(candidates):
        if _make_room(entry, held, total_bytes, now) is None:
            able = [other for other in held if _may_go(other, entry, now >= _tenure(held))]
            evicted = _enough(entry, held, able, total_bytes) or []
            until = -math.inf if entry.pinned or entry.oldest is None else entry.oldest
            return {other.model: until for other in evicted if other.busy}
    return {}


def next_turn(candidates: list[Candidate], now: float) -> float | None:
    """When what has work may go, where a model waits for room; None where no time changes anything."""
    end = _tenure(_held(candidates))
    return end if end > now and _asked(candidates) else None


def room_seconds(candidates: list[Candidate], total_bytes: int) -> float:
    """What making room for the largest of the models that are absent costs later: for each that has to go its load, at
    most the GPU-seconds that it drew lately, for one that is hardly used is hardly loaded again. 0 where it fits.

    Worked example: the least valuable drew 2 GPU-seconds lately and takes 3 s to load: 2 s.
    """
    absent = [entry for entry in candidates if entry.state is State.ABSENT]
    held = _held(candidates)
    able = [other for other in held if not other.pinned and other.state is State.RESIDENT]
    if not absent:
        return 0.0
    entry = max(absent, key=lambda entry: entry.memory_bytes)
    evicted = _enough(entry, held, able, total_bytes)
    gone = able if evicted is None else evicted
    return math.fsum(min(other.demand, other.load_seconds) for other in gone)


def _tenure(held: list[Candidate]) -> float:
    return max((other.tenure for other in held), default=-math.inf)


def _held(candidates: list[Candidate]) -> list[Candidate]:
    return [other for other in candidates if other.state in (State.RESIDENT, State.LOADING)]


def _may_go(other: Candidate, entry: Candidate, settled: bool) -> bool:
    """Whether a model may be evicted once it does not run. ``settled``: the last load is long enough ago. One that is
    leaving finishes what it has first."""
    if other.pinned or other.state is not State.RESIDENT or (other.leaving and other.busy):
        return False
    if entry.pinned or not other.busy:
        return True
    older = other.oldest is None or (entry.oldest is not None and entry.oldest < other.oldest)
    return older and settled


def _enough(
    entry: Candidate, held: list[Candidate], able: list[Candidate], total_bytes: int
) -> list[Candidate] | None:
    """Of those that are able to go as many as must: those without work first, of these the least valuable, then the
    least recently used. None where all of them would not do."""
    used = sum(other.memory_bytes for other in held)
    evicted: list[Candidate] = []
    for victim in sorted(able, key=lambda other: (other.busy, other.value, other.last_used)):
        if used + entry.memory_bytes <= total_bytes:
            break
        used -= victim.memory_bytes
        evicted.append(victim)
    return evicted if used + entry.memory_bytes <= total_bytes else None


def memory_limit(total_bytes: int, own_bytes: int, others_bytes: Iterable[int]) -> int:
    """Bytes that an engine may use: all but what the others need that are held, and never less than its own need, for
    which it was admitted.

    Worked example: of 80 GB, two others need 7 and 24 GB: 49 GB.
    """
    return max(total_bytes - sum(others_bytes), min(own_bytes, total_bytes))


# Crashes within this time count together; older ones are forgotten.
CRASH_WINDOW_SECONDS = 300.0
# So many crashes within the window, and the model is Failed for a while instead of being loaded again at once.
CRASHES_TO_FAIL = 3
FIRST_RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0


def crash_delay(crashes: list[float], now: float) -> float | None:
    """Seconds to wait before the next load after ``crashes`` (times); None: load again at once.

    The first two within 5 minutes cost nothing, for one bad request or a kill is no reason to wait; from the third
    on the delay doubles: 5, 10, 20 ... 300 s.
    """
    recent = sum(1 for crash in crashes if now - crash <= CRASH_WINDOW_SECONDS)
    return None if recent < CRASHES_TO_FAIL else retry_delay(recent - CRASHES_TO_FAIL + 1)


def retry_delay(failures: int) -> float:
    """Seconds to wait after the ``failures``-th failed load in a row: 5, 10, 20 ... 300."""
    return min(FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10), MAX_RETRY_SECONDS)
