"""Workers of one pool in simulated time: they start, load models, draw, and stop.

Discrete events, no clock and no chance but the seed's. What costs an accelerator is counted from a worker's creation
to its end: starting and loading hold it too.
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import count
from math import inf
from random import Random

from imagefleet_operator.plan.residency import Resident, least_valuable, most_wanted
from imagefleet_operator.simulate.line import Line
from imagefleet_operator.simulate.trace import Trace
from imagefleet_operator.simulate.world import Outcome, Policy, View, Worker, World

DEMAND_HALF_LIFE = 600.0
"""Seconds after which a model's demand counts half."""
ROUNDING = 1e-6
"""Seconds: of the time when a worker has room."""


class _Run:
    """The state of one simulation."""

    def __init__(self, trace: Trace, policy: Policy, world: World) -> None:
        self.trace, self.policy, self.world = trace, policy, world
        random = Random(world.seed)  # noqa: S311 - no secret
        error = world.estimate_error
        self.estimate = [r.seconds * random.lognormvariate(0, error) for r in trace]
        self.out = Outcome(waits=[inf] * len(trace))
        self.workers: list[Worker] = []
        self.line = Line(trace, world.wait_seconds, world.queue == "gateway", world.ahead_seconds)
        self.events: list[tuple[float, int, Worker | None]] = []
        self.ties = count()
        self.demand: dict[str, tuple[float, float]] = {}
        self.central = world.queue != "worker"
        self.queued_seconds, self.queued = 0.0, 0
        self.arrived_seconds, self.arrived, self.started, self.late = 0.0, 0, 0, 0
        self.active_at = 0.0

    # Events

    def run(self) -> Outcome:
        """All requests, in order of time; ends when the last one is done."""
        trace, events = self.trace, self.events
        begin = trace[0].arrival if self.world.begin is None else self.world.begin
        self._push(begin - begin % self.policy.interval, None)
        at = 0
        while True:
            coming = trace[at].arrival if at < len(trace) else inf
            if coming <= events[0][0]:
                self._arrive(at, coming)
                at += 1
                continue
            now, _, worker = heapq.heappop(events)
            self.out.end = now
            if worker is not None:
                self._happens(worker, now)
            elif at == len(trace) and not self.busy and now >= (self.world.end or 0.0):
                break
            else:
                self._tick(now)
                self._push(self._next_tick(now, min(coming, self.world.end or coming)), None)
        for worker in list(self.workers):
            self._remove(worker, self.out.end)
        return self.out

    def _happens(self, worker: Worker, now: float) -> None:
        self.active_at = now
        if not worker.ready:
            self._ready(worker, now)
        elif worker.busy and now < worker.ends_at:
            # It has room for the next one.
            self._dispatch(now)
        else:
            self._done(worker, now)

    @property
    def busy(self) -> bool:
        return bool(self.queued) or any(w.busy for w in self.workers)

    def _push(self, time: float, worker: Worker | None) -> None:
        heapq.heappush(self.events, (time, next(self.ties), worker))

    def _next_tick(self, now: float, until: float) -> float:
        """Looks that cannot change anything are left out: a policy that has forgotten all decides as before."""
        step = self.policy.interval
        settled = now - self.active_at > self.policy.memory_seconds and not self.events and not self.queued
        if settled and now + step < until < inf:
            return now + step * max(1, (until - now) // step)
        return now + step

    def _arrive(self, i: int, now: float) -> None:
        self.active_at = now
        self.arrived += 1
        self.arrived_seconds += self.estimate[i]
        self._note_demand(self.trace[i].model, self.estimate[i], now)
        self.queued += 1
        self.queued_seconds += self.estimate[i]
        self.line.add(i)
        self._dispatch(now)

    def _ready(self, worker: Worker, now: float) -> None:
        if worker.gone:
            return
        worker.ready, worker.warm_at = True, now
        if worker.coming:
            self._begin_load(worker, worker.coming, now)
        else:
            worker.idle_since = now
            self._dispatch(now)

    def _begin_load(self, worker: Worker, model: str, now: float) -> None:
        """A load before any request asks for it."""
        seconds = self._load(worker, model, now)
        worker.free_at = worker.warm_at = now + seconds
        self._occupy(worker, now, now + seconds)

    def _occupy(self, worker: Worker, now: float, until: float) -> None:
        worker.busy, worker.ends_at = True, until
        if self.central and now < (room := until - self.world.ahead_seconds):
            self._push(room, worker)
        self._push(until, worker)

    def _done(self, worker: Worker, now: float) -> None:
        worker.busy = False
        worker.idle_since = now
        if worker.queue:
            self._begin(worker, worker.queue.popleft(), now)
        elif worker.draining:
            self._remove(worker, now)
        else:
            self._dispatch(now)

    # Requests

    def _dispatch(self, now: float) -> None:
        """Hand out what waits, to workers with room."""
        while self.line:
            free = [w for w in self.workers if w.ready and not w.draining and self._has_room(w, now)]
            if not free:
                return
            everything = set().union(*(w.resident for w in free)) if self.central else ()
            i = self.line.take(everything, now)
            worker = min(free, key=lambda w: self._rank(w, i, now))
            if worker.busy:
                worker.queue.append(i)
                worker.free_at = max(worker.free_at, now) + self.estimate[i] + self._wait(worker, i)
            else:
                self._begin(worker, i, now)

    def _has_room(self, worker: Worker, now: float) -> bool:
        if not (worker.busy and self.central):
            return True
        at_hand = worker.ends_at - now + sum(self.estimate[i] for i in worker.queue)
        return at_hand <= self.world.ahead_seconds + ROUNDING

    def _rank(self, worker: Worker, i: int, now: float) -> tuple[float, float]:
        """The one that would begin it first; of equals the one that was idle last, so that the others can stop."""
        left = max(0.0, worker.free_at - now) if worker.busy else 0.0
        return left + self._wait(worker, i), -worker.idle_since

    def _wait(self, worker: Worker, i: int) -> float:
        if self.trace[i].model in worker.resident:
            return 0.0
        return self.world.load_seconds if worker.resident else self.world.first_load_seconds

    def _begin(self, worker: Worker, i: int, now: float) -> None:
        request = self.trace[i]
        self.queued -= 1
        self.queued_seconds -= self.estimate[i]
        absent = request.model not in worker.resident
        load = self._load(worker, request.model, now) if absent else 0.0
        worker.resident[request.model] = now
        wait = now + load - request.arrival
        self.out.waits[i] = wait
        self.out.cold += absent or worker.warm_at > request.arrival
        self.out.busy += request.seconds
        self.started += 1
        self.late += wait > self.world.wait_seconds
        worker.free_at = now + load + self.estimate[i] + sum(self.estimate[k] for k in worker.queue)
        self._occupy(worker, now, now + load + request.seconds)

    # Models

    def _load(self, worker: Worker, model: str, now: float) -> float:
        seconds = self.world.load_seconds if worker.resident else self.world.first_load_seconds
        if len(worker.resident) >= self.world.resident:
            del worker.resident[least_valuable(self._residents(worker), self._demands(now))]
        worker.resident[model] = now
        self.out.loading += seconds
        return seconds

    def _residents(self, worker: Worker) -> list[Resident]:
        seconds = self.world.load_seconds
        return [Resident(m, seconds, 1, used) for m, used in worker.resident.items()]

    def _note_demand(self, model: str, seconds: float, now: float) -> None:
        value, at = self.demand.get(model, (0.0, now))
        self.demand[model] = (value * 0.5 ** ((now - at) / DEMAND_HALF_LIFE) + seconds, now)

    def _demands(self, now: float) -> Mapping[str, float]:
        return {m: v * 0.5 ** ((now - at) / DEMAND_HALF_LIFE) for m, (v, at) in self.demand.items()}

    # Workers

    def _tick(self, now: float) -> None:
        wanted = self.policy.decide(self._view(now))
        self.arrived_seconds, self.arrived, self.started, self.late = 0.0, 0, 0, 0
        if wanted is None:
            return
        present = [w for w in self.workers if not w.draining]
        for _ in range(wanted - len(present)):
            self._create(now)
        if wanted < len(present):
            self._shrink(present, len(present) - wanted, now)

    def _view(self, now: float) -> View:
        """A worker that loads its first model still starts."""
        warm = [w for w in self.workers if w.warm_at <= now]
        busy = [w for w in warm if w.busy]
        return View(
            now=now,
            arrived_seconds=self.arrived_seconds,
            arrived=self.arrived,
            queued_seconds=max(0.0, self.queued_seconds),
            queued=self.queued,
            running_seconds=sum(max(0.0, w.free_at - now) for w in busy) - self._queued_at(busy),
            running=len(busy),
            ready=sum(not w.draining for w in warm),
            starting=sorted(self._starts(w, now) for w in self.workers if w.warm_at > now and not w.draining),
            started=self.started,
            late=self.late,
            idle=[now - w.idle_since for w in warm if not w.busy],
        )

    def _starts(self, worker: Worker, now: float) -> float:
        """Seconds until it draws."""
        return (worker.warm_at if worker.ready else worker.ready_at + self.world.first_load_seconds) - now

    def _queued_at(self, busy: Sequence[Worker]) -> float:
        return sum(self.estimate[i] for w in busy for i in w.queue)

    def _create(self, now: float) -> None:
        coming = most_wanted(self._demands(now), [frozenset({*w.resident, w.coming}) for w in self.workers])
        worker = Worker(now, now + self.world.start_seconds, coming=coming or "")
        self.workers.append(worker)
        self.out.created += 1
        self._push(worker.ready_at, worker)
        self._count(now)

    def _shrink(self, present: list[Worker], surplus: int, now: float) -> None:
        """Those that start first, the youngest before others; then idle ones, the longest idle first; then, where
        the policy drains, those with the least work left."""
        starting = sorted((w for w in present if not w.ready), key=lambda w: -w.created)
        idle = sorted((w for w in present if w.ready and not w.busy), key=lambda w: w.idle_since)
        busy = sorted((w for w in present if w.ready and w.busy), key=lambda w: w.free_at)
        for worker in [*starting, *idle, *(busy if self.policy.drains else ())][:surplus]:
            if worker.busy:
                worker.draining = True
            else:
                self._remove(worker, now)

    def _remove(self, worker: Worker, now: float) -> None:
        worker.gone = True
        self.workers.remove(worker)
        self.out.held += now - worker.created
        self._count(now)

    def _count(self, now: float) -> None:
        self.out.replicas.append((now, len(self.workers)))


def simulate(trace: Trace, policy: Policy, world: World) -> Outcome:
    """Replay a trace under a policy. The same arguments give the same outcome."""
    return _Run(trace, policy, world).run()
