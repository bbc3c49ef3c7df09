"""How long requests wait for a worker: 16 workers at a load of 0.85, with a trace's costs (`TRACE=`, CSV; else made
ones).

Arrivals are Poisson, costs come in random order (in the trace's own, spells of costly requests overload any routing
alike), models are resident everywhere, each worker draws one request after the other. Ours is the gateway's own code
(`gateway.routing.place` over `gateway.loads.WorkerLoad`): requests wait in its line, first come, first served, until a
worker has no more than `AHEAD_SECONDS` at hand by what the gateway knows. That is units times the model's rate, which
workers learn from every completion (here an exponential mean), and the work left that each reply carries. While
requests wait, the gateway asks workers that it has not heard of for a second; they know how far they are.
`without_line` sends each to a worker at once. Units explain costs but for `ERROR=` (standard deviation of the
logarithm, 0.2); traces have no sizes to count them by.
The oracle knows every cost exactly, and sends each to the worker with the least left. Waits of all `SEEDS=` (5) series
of arrivals together.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from random import Random

from imagefleet_operator.simulate.loads import poisson
from imagefleet_operator.simulate.report import quantile
from imagefleet_operator.simulate.trace import read_trace
from imagefleet_runtime.gateway.fleet import REFRESH_SECONDS
from imagefleet_runtime.gateway.line import TICK_SECONDS
from imagefleet_runtime.gateway.loads import WorkerLoad
from imagefleet_runtime.gateway.resources import ModelView, Worker
from imagefleet_runtime.gateway.routing import Room, Wait, place
from imagefleet_runtime.gateway.snapshot import Share

from bench.report import figure

WORKERS = 16
LOAD = 0.85
SEEDS = int(os.environ.get("SEEDS", "5"))
ERROR = float(os.environ.get("ERROR", "0.2"))
AHEAD_SECONDS = 3.0
"""What a worker gets ahead: the gateway's default."""
TICK = -1
"""In place of a worker that ended a job: time for the line to look again."""
LEARNS = 0.2
"""Weight of a completion in a model's rate."""


@dataclass(frozen=True)
class Job:
    """A request: its true cost, and what the gateway knows."""

    model: str
    seconds: float
    units: float


@dataclass
class Server:
    """A worker: the jobs it has, the first of them running, and when all are done."""

    jobs: deque[int] = field(default_factory=deque)
    free_at: float = 0.0
    ends_at: float = 0.0
    """When the first is done."""


Chooser = Callable[[int, float], int | None]
"""Which worker gets a job, at a time; None: it waits."""


class Fleet:
    """Workers with a queue each, and what a gateway learns of them."""

    def __init__(self, jobs: Sequence[Job], seed: int) -> None:
        self.jobs, self.random, self.times = jobs, Random(seed), Random(seed)
        self.arrived = [0.0] * len(jobs)
        self.servers = [Server() for _ in range(WORKERS)]
        self.loads = {f"w{k}": WorkerLoad() for k in range(WORKERS)}
        self.estimates = [0.0] * len(jobs)
        self.rates: dict[str, float] = {}
        self.line: deque[int] = deque()
        self.next = 0
        workers = [Worker(f"w{k}", "n", "p", f"w{k}", "", 0, ()) for k in range(WORKERS)]
        self.workers = tuple(workers)
        self.shares: dict[str, Share] = {}

    def waits(self, choose_one: Chooser, rate: float) -> list[float]:
        """Of all jobs, when they arrive at `rate` a second."""
        waits, now = [0.0] * len(self.jobs), 0.0
        events: list[tuple[float, int]] = []
        for job in range(len(self.jobs)):
            now += self.times.expovariate(rate)
            self.arrived[job] = now
            self._until(now, choose_one, waits, events)
            self.line.append(job)
            if len(self.line) == 1:
                self._release(choose_one, now, waits, events)
                heappush(events, (now + TICK_SECONDS, TICK))
        self._until(math.inf, choose_one, waits, events)
        return waits

    def _until(
        self, end: float, choose_one: Chooser, waits: list[float], events: list[tuple[float, int]]
    ) -> None:
        while events and events[0][0] <= end:
            now, server = heappop(events)
            if server != TICK:
                self._end(now, server, waits, events)
            elif self.line:
                self._ask(now)
                heappush(events, (now + TICK_SECONDS, TICK))
            self._release(choose_one, now, waits, events)

    def _ask(self, now: float) -> None:
        """What workers say of their work left, as they do: by the estimates, and how much is done of what runs."""
        for k, server in enumerate(self.servers):
            load = self.loads[f"w{k}"]
            if server.jobs and now - load.heard_at >= REFRESH_SECONDS:
                running, *queued = server.jobs
                undone = (server.ends_at - now) / self.jobs[running].seconds
                left = self.estimates[running] * undone + sum(self.estimates[j] for j in queued)
                load.report(str(left), now)

    def _release(
        self, choose_one: Chooser, now: float, waits: list[float], events: list[tuple[float, int]]
    ) -> None:
        while self.line and (server := choose_one(self.line[0], now)) is not None:
            self._send(self.line.popleft(), server, now, waits, events)

    def _send(self, job: int, k: int, now: float, waits: list[float], ends: list[tuple[float, int]]) -> None:
        server, seconds = self.servers[k], self.jobs[job].seconds
        server.jobs.append(job)
        server.free_at = max(server.free_at, now) + seconds
        self.loads[f"w{k}"].sent(self.jobs[job].model, self.estimates[job], 0.0, now)
        if len(server.jobs) == 1:
            waits[job] = now - self.arrived[job]
            server.ends_at = now + seconds
            heappush(ends, (server.ends_at, k))

    def _end(self, now: float, k: int, waits: list[float], ends: list[tuple[float, int]]) -> None:
        server, load = self.servers[k], self.loads[f"w{k}"]
        done = self.jobs[server.jobs.popleft()]
        learned = self.rates.get(done.model, done.seconds / done.units)
        self.rates[done.model] = learned + LEARNS * (done.seconds / done.units - learned)
        load.inflight -= 1
        load.set_rate(done.model, str(self.rates[done.model]))
        load.report(str(sum(self.estimates[j] for j in server.jobs)), now)
        if server.jobs:
            head = server.jobs[0]
            waits[head] = now - self.arrived[head]
            server.ends_at = now + self.jobs[head].seconds
            heappush(ends, (server.ends_at, k))

    # Choosers

    def ours(self, job: int, now: float, ahead: float = AHEAD_SECONDS) -> int | None:
        """The gateway's own choice."""
        wanted = self.jobs[job]
        placed = place(
            [[self._share(wanted)]],
            self.loads,
            now,
            lambda _: wanted.units,
            math.inf,
            (),
            self.random.random,
            Room(ahead),
        )
        if isinstance(placed, Wait):
            return None
        self.estimates[job] = placed.work_seconds
        return int(placed.worker.uid[1:])

    def without_line(self, job: int, now: float) -> int | None:
        """The same, whatever the workers have to do."""
        return self.ours(job, now, math.inf)

    def _share(self, job: Job) -> Share:
        """A model is calibrated when it is loaded: its first job's rate stands for that."""
        share = self.shares.get(job.model)
        if share is None:
            rate = job.seconds / job.units
            view = ModelView("n", job.model, 20, 5.0, (512, 512), 1.1, 50, 4, None, (), "", None, rate, 1.0)
            share = Share("n", "p", job.model, 100.0, view, self.workers)
            self.shares[job.model] = share
            for load in self.loads.values():
                load.loading(job.model, 0.0, 0.0)
        return share

    def oracle(self, job: int, now: float) -> int:
        """The least true work left."""
        return min(range(WORKERS), key=lambda k: max(0.0, self.servers[k].free_at - now))

    def shortest_queue(self, job: int, now: float) -> int:
        """The fewest requests."""
        return min(range(WORKERS), key=lambda k: (len(self.servers[k].jobs), self.random.random()))

    def power_of_two(self, job: int, now: float) -> int:
        """The shorter queue of two at random."""
        return min(self.random.sample(range(WORKERS), 2), key=lambda k: len(self.servers[k].jobs))

    def round_robin(self, job: int, now: float) -> int:
        """One after the other."""
        self.next = (self.next + 1) % WORKERS
        return self.next


def read_jobs(path: str | None) -> list[Job]:
    """Costs and models in the trace's order, and units. Requests that cost nothing are left out."""
    random = Random(1)
    trace = read_trace(Path(path)) if path else poisson(LOAD * WORKERS, 20_000.0, 1)
    costly = (r for r in trace if r.seconds > 0)
    return [Job(r.model, r.seconds, r.seconds * random.lognormvariate(0, ERROR)) for r in costly]


CHOOSERS: dict[str, Callable[[Fleet], Chooser]] = {
    "ours": lambda fleet: fleet.ours,
    "without_line": lambda fleet: fleet.without_line,
    "oracle": lambda fleet: fleet.oracle,
    "join_shortest_queue": lambda fleet: fleet.shortest_queue,
    "power_of_two": lambda fleet: fleet.power_of_two,
    "round_robin": lambda fleet: fleet.round_robin,
}


def main() -> None:
    """The p99 wait of each way to choose."""
    jobs = read_jobs(os.environ.get("TRACE"))
    rate = LOAD * WORKERS / (sum(j.seconds for j in jobs) / len(jobs))
    p99 = {}
    for name, chooser in CHOOSERS.items():
        waits: list[float] = []
        for seed in range(SEEDS):
            fleet = Fleet(Random(seed).sample(jobs, len(jobs)), seed)
            waits += fleet.waits(chooser(fleet), rate)
        p99[name] = quantile(sorted(waits), 0.99)
    for name, wait in p99.items():
        figure(f"p99_wait_{name}", wait, "s", p99["oracle"])
    figure("p99_wait_vs_oracle", p99["ours"] / p99["oracle"], "ratio", 1.3)


if __name__ == "__main__":
    main()
