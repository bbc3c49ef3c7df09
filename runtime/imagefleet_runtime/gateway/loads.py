"""What the gateway knows of each worker's load, learnt from replies and from what it sent itself."""

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from .resources import ModelView, Worker, measured

# Seconds per megapixel-step until anything was measured: a mid-range accelerator with a mid-size model.
# Only the order of workers depends on it, and all workers of a model share it.
NEUTRAL_RATE = 0.05
# Seconds; the median load of a base model in production traces is 23 s.
DEFAULT_LOAD_SECONDS = 30.0
# A worker that broke a connection comes last for this long (seconds): Kubernetes notices its death with a lag
# of a few probe periods. It stays a candidate, for want of a better one.
SUSPECT_SECONDS = 10.0
_SUSPECT_PENALTY_SECONDS = 1e6
# Requests that may wait on a worker, until it says so itself; its own default.
QUEUE_LIMIT = 32
_ROUNDING = 1e-9


class _ModelState(msgspec.Struct, rename="camel"):
    model: str
    state: str = "Absent"
    seconds_per_megapixel_step: Any = None
    load_seconds: Any = None
    load_remaining_seconds: Any = None


class WorkerState(msgspec.Struct, rename="camel"):
    """The part of `GET /v1/worker` that routing needs."""

    work_seconds: Any = None
    ready_seconds: Any = None
    queue_limit: Any = None
    room_seconds: Any = None
    models: list[_ModelState] = []


class WorkerLoad:
    """Work left on one worker, in seconds, and what it knows of its models.

    The worker is one server that always works: what it last reported, plus what was sent to it since, shrinks
    by the time that passed, to zero at least. Two gateways do not see what the other sends until a worker's
    next reply, which counts everything.

    A part of it is ready: it can be drawn at once, for its model is in memory. The rest are loads, and requests that
    wait for them.
    """

    __slots__ = (
        "_at",
        "_left",
        "_load_seconds",
        "_loads_until",
        "_rates",
        "_ready",
        "_resident_at",
        "_suspect_until",
        "_unready",
        "heard_at",
        "inflight",
        "queue_limit",
        "room_seconds",
        "sent_seconds",
    )

    def __init__(self) -> None:
        self._left = 0.0
        self._ready = 0.0
        self._at = 0.0
        # Work that was sent from here for a model that was not resident then, until its requests have ended.
        self._unready: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._load_seconds: dict[str, float] = {}
        # When a model will be resident, in the clock's time: the past where it is, absent where nobody said.
        self._resident_at: dict[str, float | None] = {}
        # When all loads that are known will be done: a worker loads one model after the other.
        self._loads_until = 0.0
        self._suspect_until = 0.0
        self.inflight = 0
        self.queue_limit = QUEUE_LIMIT
        self.room_seconds = 0.0
        """What it costs the worker later to make room for a model that it does not hold."""
        self.sent_seconds = 0.0
        """Work of all that was ever sent from here to models in memory."""
        self.heard_at = -math.inf
        """When the worker last told its work left."""

    def work_left(self, now: float) -> float:
        left = self._left - (now - self._at)
        return left if left > 0 else 0.0

    def ready_left(self, now: float) -> float:
        ready = self._ready - (now - self._at)
        return ready if ready > 0 else 0.0

    def at_hand(self, model: str, wait: float, now: float) -> float:
        """Seconds of work that a request of `model`, which is resident in `wait` seconds, would have before it.

        Loads are not in it, and what waits for another model's load holds up nobody else.
        """
        ready = self._ready - (now - self._at)
        if ready < 0:
            ready = 0.0
        return ready + self._unready.get(model, 0.0) if wait > 0 else ready

    def report(self, header: Any, now: float, ready: Any = None) -> bool:
        """Take over the worker's own figures; False where there is no number (no opinion)."""
        seconds = measured(header)
        if seconds is None:
            return False
        known = measured(ready)
        self._left, self._ready, self._at = seconds, seconds if known is None else min(known, seconds), now
        self.heard_at = now
        return True

    def add(self, seconds: float, now: float, ready: bool = True) -> None:
        """Work was sent, or, negative, came back undone."""
        work, at_once = self.work_left(now) + seconds, self.ready_left(now) + (seconds if ready else 0.0)
        self._left, self._ready, self._at = max(0.0, work), max(0.0, at_once), now

    def sent(self, model: str, work_seconds: float, load_seconds: float, now: float) -> None:
        """A request was sent; where the model is not resident, it makes the worker load it."""
        self.inflight += 1
        self.add(work_seconds + load_seconds, now, ready=load_seconds <= 0)
        if load_seconds > 0:
            self._unready[model] = self._unready.get(model, 0.0) + work_seconds
            self.loading(model, load_seconds, now)
        else:
            self.sent_seconds += work_seconds

    def ended(self, model: str, work_seconds: float, load_seconds: float, undone: float, now: float) -> None:
        """A request that was sent is no more on the worker; so many seconds of its work were not done."""
        self.inflight -= 1
        if load_seconds > 0:
            rest = self._unready.pop(model, 0.0) - work_seconds
            if rest > _ROUNDING:
                self._unready[model] = rest
        if undone > 0:
            self.add(-undone, now, ready=load_seconds <= 0)

    def suspect(self, now: float) -> None:
        """A connection to the worker broke."""
        self._suspect_until = now + SUSPECT_SECONDS

    def penalty(self, now: float) -> float:
        return _SUSPECT_PENALTY_SECONDS if now < self._suspect_until else 0.0

    def rate(self, view: ModelView) -> float:
        """Seconds per megapixel-step of a model here."""
        return self._rates.get(view.name) or view.rate or NEUTRAL_RATE

    def set_rate(self, model: str, header: Any) -> None:
        rate = measured(header)
        if rate:
            self._rates[model] = rate

    def load_remaining(self, model: str, now: float) -> float | None:
        """Seconds until a model that is loading is resident; 0 where it is; None where nobody loads it."""
        at = self._resident_at.get(model)
        return None if at is None else max(0.0, at - now)

    def load_wait(self, view: ModelView, pinned: bool, now: float) -> float:
        """Seconds that a request waits here for the model itself, and for the loads that go before its own.

        A pinned model that nobody reported on counts as resident: the operator had it loaded.
        """
        remaining = self.load_remaining(view.name, now)
        if remaining is not None:
            return remaining
        if pinned and view.name not in self._resident_at:
            return 0.0
        own = self._load_seconds.get(view.name) or expected_load_seconds(view)
        return own + max(0.0, self._loads_until - now)

    def loading(self, model: str, seconds: float, now: float) -> None:
        """The model will be resident in `seconds`; 0: it is."""
        self._resident_at[model] = now + seconds
        self._loads_until = max(self._loads_until, now + seconds)

    def hold(self, models: str | None, room: Any, now: float) -> None:
        """Take over which models the worker says that it holds or loads, and what room for another costs it.

        What is thought to be there and is not was evicted. What was sent for a moment ago may yet come.
        Example: `shapes-1,shapes-2=12.3`: the one is there, the other will be in 12.3 seconds.
        """
        seconds = measured(room)
        if seconds is not None:
            self.room_seconds = seconds
        if models is None:
            return
        held = _read_held(models)
        self._loads_until = now
        for model, at in self._resident_at.items():
            if at is None or model in held:
                continue
            if at > now:
                self._loads_until = max(self._loads_until, at)
            else:
                self._resident_at[model] = None
        for model, remaining in held.items():
            self.loading(model, remaining, now)

    def not_resident(self, model: str) -> None:
        self._resident_at[model] = None

    def observe(self, state: WorkerState, now: float, missed: float = 0.0) -> None:
        """Take over a worker's own account of itself; it may have `missed` work that was on its way meanwhile."""
        if self.report(state.work_seconds, now, state.ready_seconds):
            self.add(missed, now)
        self.room_seconds = measured(state.room_seconds) or 0.0
        self.queue_limit = int(measured(state.queue_limit) or self.queue_limit)
        self._loads_until = now
        for entry in state.models:
            self.set_rate(entry.model, entry.seconds_per_megapixel_step)
            seconds = measured(entry.load_seconds)
            if seconds is not None:
                self._load_seconds[entry.model] = seconds
            at = self._resident_at[entry.model] = self._resident_time(entry, now)
            if at is not None:
                self._loads_until = max(self._loads_until, at)

    def _resident_time(self, entry: _ModelState, now: float) -> float | None:
        if entry.state == "Resident":
            return now
        if entry.state == "Loading":
            remaining = measured(entry.load_remaining_seconds)
            if remaining is None:
                remaining = self._load_seconds.get(entry.model, 0.0)
            return now + remaining
        return None


class Loads:
    """The load of every worker of the snapshot, by pod uid."""

    def __init__(self) -> None:
        self._loads: dict[str, WorkerLoad] = {}

    def __getitem__(self, uid: str) -> WorkerLoad:
        load = self._loads.get(uid)
        if load is None:
            # A worker that left the snapshot while a request was on its way to it: of no use any more.
            load = WorkerLoad()
        return load

    def keep(self, workers: Iterable[Worker]) -> None:
        """Forget workers that are gone, welcome new ones."""
        self._loads = {worker.uid: self._loads.get(worker.uid) or WorkerLoad() for worker in workers}


def _read_held(models: str) -> dict[str, float]:
    """By model the seconds until it is resident; what cannot be read counts as resident."""
    parts = (part.partition("=") for part in models.split(",") if part)
    return {name: measured(seconds) or 0.0 for name, _, seconds in parts}


def expected_load_seconds(view: ModelView | None) -> float:
    """Measured load time of a model, else a default."""
    return (view.load_seconds if view else None) or DEFAULT_LOAD_SECONDS
