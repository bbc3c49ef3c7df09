"""Which model to load next, and what must go for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """As in the contract."""

    ABSENT = "Absent"
    LOADING = "Loading"
    RESIDENT = "Resident"
    FAILED = "Failed"


@dataclass(frozen=True)
class Candidate:
    """One model that the policy names."""

    model: str
    pinned: bool
    state: State
    memory_bytes: int  # measured, else declared, else the size of its files, else 0
    oldest: float | None  # when its oldest waiting request arrived; None: none waits
    running: bool
    last_used: float


@dataclass(frozen=True)
class LoadNext:
    model: str
    evict: tuple[str, ...] = ()


@dataclass(frozen=True)
class DoesNotFit:
    model: str
    message: str


def plan(candidates: list[Candidate], total_bytes: int) -> LoadNext | DoesNotFit | None:
    """The next step: pinned models first, in the policy's order; then the one whose request has waited longest.

    A model makes room by evicting models that are not pinned and not running: those that nobody waits for first, then
    the least recently used. A model that is not pinned evicts one with waiting requests only where its own have waited
    longer, else two models that are asked for at the same time would evict each other without end. Where the room is
    held only for now, it waits (None).
    """
    absent = [entry for entry in candidates if entry.state is State.ABSENT]
    pinned = [entry for entry in absent if entry.pinned]
    asked_for = sorted(
        (e for e in absent if not e.pinned and e.oldest is not None), key=lambda e: e.oldest or 0.0
    )
    for entry in [*pinned, *asked_for]:
        step = _make_room(entry, candidates, total_bytes)
        if step is not None:
            return step
    return None


def _make_room(
    entry: Candidate, candidates: list[Candidate], total_bytes: int
) -> LoadNext | DoesNotFit | None:
    held = [other for other in candidates if other.state in (State.RESIDENT, State.LOADING)]
    fixed = sum(other.memory_bytes for other in held if other.pinned)
    if fixed + entry.memory_bytes > total_bytes:
        beside = f" beside {fixed} for pinned models" if fixed else ""
        return DoesNotFit(entry.model, f"needs {entry.memory_bytes} bytes{beside}; there are {total_bytes}")
    used = sum(other.memory_bytes for other in held)
    evicted: list[str] = []
    for victim in _victims(entry, held):
        if used + entry.memory_bytes <= total_bytes:
            break
        used -= victim.memory_bytes
        evicted.append(victim.model)
    return LoadNext(entry.model, tuple(evicted)) if used + entry.memory_bytes <= total_bytes else None


def memory_limit(total_bytes: int, own_bytes: int, others_bytes: Iterable[int]) -> int:
    """Bytes that an engine may use: all but what the others need that are held, and never less than its own need, for
    which it was admitted.

    Worked example: of 80 GB, two others need 7 and 24 GB: 49 GB.
    """
    return max(total_bytes - sum(others_bytes), min(own_bytes, total_bytes))


def _victims(entry: Candidate, held: list[Candidate]) -> list[Candidate]:
    def may_go(other: Candidate) -> bool:
        if other.pinned or other.running or other.state is not State.RESIDENT:
            return False
        return (
            entry.pinned or other.oldest is None or (entry.oldest is not None and entry.oldest < other.oldest)
        )

    return sorted(filter(may_go, held), key=lambda other: (other.oldest is not None, other.last_used))


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
