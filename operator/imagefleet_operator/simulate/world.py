"""What a simulation is made of: the cluster's times, what a policy sees, what comes out."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal, Protocol

Queue = Literal["gateway", "fifo", "worker"]
"""Where requests wait. ``worker``: each goes at once to the worker that would finish it first. ``gateway`` and
``fifo``: for the first worker with room; with ``gateway`` those that can still start in time go first."""


@dataclass(frozen=True, slots=True)
class World:
    """What the simulated cluster costs, in seconds; how workers are chosen; what counts as in time."""

    start_seconds: float = 60.0
    """From a worker's creation until it is ready."""
    first_load_seconds: float = 3.0
    """The first load in a new worker. A ready worker of ours has everything imported, and its node holds the
    weights: 3 s. In a pod that has only just begun, 22.7 s."""
    load_seconds: float = 3.0
    """Each further load there."""
    resident: int = 8
    """Models that a worker can hold at once."""
    wait_seconds: float = 30.0
    """A request is in time where drawing starts this soon after its arrival."""
    estimate_error: float = 0.2
    """Standard deviation of ln(estimated / true cost)."""
    queue: Queue = "gateway"
    ahead_seconds: float = 3.0
    """A worker with no more work at hand has room for what waits at the gateway (its ``IMAGEFLEET_AHEAD_SECONDS``)."""
    seed: int = 0
    begin: float | None = None
    """When the pool is there first; None: with its first request."""
    end: float | None = None
    """Until when it is there at least; None: until its last request is done."""


@dataclass(slots=True)
class View:
    """What a policy sees, as gateways and workers would report it; estimates, not truths."""

    now: float
    arrived_seconds: float
    """Work that arrived since the last look, in GPU-seconds; ``arrived`` counts the requests."""
    arrived: int
    queued_seconds: float
    queued: int
    running_seconds: float
    """Work that is left of what runs, loads included; ``running`` counts the busy workers."""
    running: int
    ready: int
    starting: Sequence[float]
    """Of each worker that starts: seconds until it is ready to draw, soonest first."""
    started: int
    """Requests that began since the last look, and how many of them were ``late``."""
    late: int
    idle: Sequence[float]
    """Of each ready worker without work: for how long, in seconds."""


class Policy(Protocol):
    """Says how many workers there should be."""

    interval: float
    """Seconds between two looks."""
    drains: bool
    """Whether a worker with work may be chosen to stop (it finishes first); else only idle ones are."""
    memory_seconds: float
    """After so long without requests it has forgotten all, and its decision stays (inf: never)."""

    def decide(self, view: View) -> int | None:
        """Workers wanted; None: no opinion."""


@dataclass(slots=True)
class Outcome:
    """What a run cost, and what callers got. Times in seconds."""

    waits: list[float] = field(default_factory=list)
    """Of each request in order of arrival: from arrival until drawing started."""
    held: float = 0.0
    busy: float = 0.0
    loading: float = 0.0
    cold: int = 0
    """Requests that waited for a worker to start, or for their model to load."""
    created: int = 0
    """Workers that were started."""
    end: float = 0.0
    replicas: list[tuple[float, int]] = field(default_factory=list)
    """Workers held, at each change."""

    def within(self, seconds: float) -> float:
        """Share of the requests that started within so many seconds of their arrival; 1 where there were none."""
        return sum(w <= seconds for w in self.waits) / len(self.waits) if self.waits else 1.0


@dataclass(slots=True, eq=False)
class Worker:
    created: float
    ready_at: float
    ready: bool = False
    busy: bool = False
    draining: bool = False
    gone: bool = False
    free_at: float = 0.0
    """When it would be done with all it has, by the estimates."""
    ends_at: float = 0.0
    """When it is done with what it draws or loads now, in truth."""
    idle_since: float = 0.0
    warm_at: float = inf
    """When it was ready, and its first model loaded."""
    queue: deque[int] = field(default_factory=deque)
    resident: dict[str, float] = field(default_factory=dict)
    """Models, with the time of their last use."""
    coming: str = ""
    """The model that it loads as it starts."""
