"""GPU-hours that policies hold for the same service, on a trace (`TRACE=`, CSV) and on loads made here.

The trace is replayed at 1, 10 and 30 times its arrival rate (its arrivals pressed together, so that a day takes 2.4
hours at 10 times), costs unchanged. A worker takes `START=` 60 s to be ready; a load takes `LOAD=` 3 s on a worker
and `FRESH_LOAD=` 22.7 s in a pod that has just begun. A pod of a peer's pool, which serves one model, has just
begun; a worker of ours that is ready has everything imported and its node the weights, so its first load takes 3 s
too (the figure with 22.7 s is `..._fresh_workers`).

Ten times the rate can also be ten times the callers: `10x_callers` overlays copies of the middle fifth of the trace,
each moved by up to half an hour.

How much of it is not knowing: `told_<n>s` is ours where the forecast is the true mean rate of n seconds around the end
of its lead, and `clairvoyant` a schedule that knows every request (`simulate.bound.best_fit`).

Ours runs with its defaults everywhere. Peers run as people run them, a pool for each model, and also on our shared
workers and queue (`shared`), which is the scaler alone compared. For the headline each peer gets its best knobs in
hindsight: target and fewest replicas, for pools of one model chosen for each model. `gpu_hours_vs_*` is ours over
theirs.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from imagefleet_operator.plan.forecast import Forecast, Forecaster
from imagefleet_operator.plan.scaling import ScalingSpec
from imagefleet_operator.simulate.bound import best_fit, lower_bound
from imagefleet_operator.simulate.engine import simulate
from imagefleet_operator.simulate.fleets import DAY, PEERS, by_model, lasting, ours, shared
from imagefleet_operator.simulate.loads import LOADS, diurnal
from imagefleet_operator.simulate.policies import Ours
from imagefleet_operator.simulate.trace import Trace, as_many, faster, read_trace
from imagefleet_operator.simulate.world import Outcome, World

from bench.report import figure, progress

START = float(os.environ.get("START", "60"))
LOAD = float(os.environ.get("LOAD", "3"))
FRESH_LOAD = float(os.environ.get("FRESH_LOAD", "22.7"))
WAIT = float(os.environ.get("WAIT", "30"))
OBJECTIVE = float(os.environ.get("OBJECTIVE", "0.99"))
RATES = (1, 10, 30)
HEADLINE = 10
GENERATED_HOURS = 12
GENERATED_WORKERS = 8.0
SEED = 26
TOLD = (60.0, 120.0, 300.0, 600.0)
"""Seconds of the future whose mean rate a policy is told."""
SEEDS = (0, 1, 2)
"""Of the estimates' errors; the first is everybody's."""
MOST = 64
"""The most for a peer's fewest replicas that is tried."""
LEASTS = (0, 1, 2, 4)
"""Fewest replicas that are tried for each model's pool."""

SHARED = World(start_seconds=START, first_load_seconds=LOAD, load_seconds=LOAD, wait_seconds=WAIT)
FRESH = World(start_seconds=START, first_load_seconds=FRESH_LOAD, load_seconds=LOAD, wait_seconds=WAIT)
OWN = World(start_seconds=START, first_load_seconds=FRESH_LOAD, load_seconds=FRESH_LOAD, wait_seconds=WAIT)
SPEC = ScalingSpec(start_seconds=START, load_seconds=LOAD, wait_seconds=WAIT, objective=OBJECTIVE)


@dataclass(frozen=True)
class Point:
    """What one choice of knobs costs, and how many requests were late."""

    hours: float
    late: int


def point(outcome: Outcome) -> Point:
    """Of a run."""
    return Point(outcome.held / 3600, sum(w > WAIT for w in outcome.waits))


def show(name: str, at: Point, requests: int, bound: float) -> None:
    """Two lines for one run."""
    figure(f"{name}_in_time", 1 - at.late / requests, "share")
    figure(f"{name}_gpu_hours", at.hours, "h", bound)


def smallest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The least number for which it holds, if it holds from there on."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def shared_points(trace: Trace, name: str, hours: float) -> Iterator[Point]:
    """A peer on shared workers: for each target the fewest replicas that keep the objective, and the most that hold
    no more than ``hours``."""
    build, targets, least = PEERS[name]
    for target in targets:
        known: dict[int, Point] = {}

        def run(n: int, target: float = target, known: dict[int, Point] = known) -> Point:
            if n not in known:
                known[n] = point(shared(trace, build(target, n), SHARED))
            return known[n]

        smallest(lambda n: run(n).late <= allowed(trace), least, MOST)
        smallest(lambda n: run(n).hours > hours, least, MOST)
        yield from known.values()


def own_points(trace: Trace, name: str) -> list[list[Point]]:
    """A peer with a pool for each model: for each model what each choice of knobs costs."""
    build, targets, least = PEERS[name]
    world = lasting(OWN, trace)
    choices = [(t, n) for t in targets[:2] for n in LEASTS if n >= least]
    return [
        [point(simulate(part, build(target, n), world)) for target, n in choices]
        for part in by_model(trace).values()
    ]


def cheapest(models: list[list[Point]], enough: Callable[[Point], bool]) -> Iterator[Point]:
    """Sums over models as knobs are turned up one model at a time, always where an hour saves most late requests."""
    chosen = [min(points, key=lambda p: p.hours) for points in models]
    while True:
        total = Point(sum(p.hours for p in chosen), sum(p.late for p in chosen))
        yield total
        steps = [
            ((now.late - p.late) / max(p.hours - now.hours, 1e-9), k, p)
            for k, (now, points) in enumerate(zip(chosen, models, strict=True))
            for p in points
            if p.late < now.late
        ]
        if enough(total) or not steps:
            return
        _, k, better = max(steps, key=lambda s: s[:2])
        chosen[k] = better


def allowed(trace: Trace) -> int:
    """Requests that may be late."""
    return int(len(trace) * (1 - OBJECTIVE) + 1e-9)


def best(points: list[Point], trace: Trace) -> float | None:
    """The fewest hours with which the objective is kept; None where it never is."""
    return min((p.hours for p in points if p.late <= allowed(trace)), default=None)


def compared(kind: str, points: list[Point], us: Point, trace: Trace) -> float | None:
    """A peer's figures at our objective and at our hours; its hours at the objective."""
    at_objective = best(points, trace)
    if at_objective is None:
        progress(f"{kind}: {OBJECTIVE:.0%} in time with no knobs that were tried")
    else:
        figure(f"gpu_hours_vs_{kind}", us.hours / at_objective, "ratio")
    affordable = [p.late for p in points if p.hours <= us.hours]
    if affordable:
        figure(f"in_time_at_our_hours_{kind}", 1 - min(affordable) / len(trace), "share")
    return at_objective


def headline(trace: Trace, us: Point, bound: float) -> None:
    """Ours against the bound and each peer at its best."""
    figure("in_time", 1 - us.late / len(trace), "share", OBJECTIVE)
    figure("gpu_hours_vs_bound", us.hours / bound, "ratio", 1.6)
    found: dict[str, list[float]] = {"own": [], "shared": []}
    for name in PEERS:
        progress(f"best knobs of {name}")
        own = list(cheapest(own_points(trace, name), lambda p: p.late <= allowed(trace)))
        for kind, points in (("own", own), ("shared", list(shared_points(trace, name, us.hours)))):
            hours = compared(f"{name}_{kind}", points, us, trace)
            found[kind] += [] if hours is None else [hours]
    for kind, label in (
        ("own", "gpu_hours_vs_best_peer"),
        ("shared", "gpu_hours_vs_best_peer_on_shared_workers"),
    ):
        if found[kind]:
            figure(label, us.hours / min(found[kind]), "ratio", 0.5)


def defaults(label: str, trace: Trace, day: float) -> tuple[Point, float]:
    """Ours and each peer with its defaults."""
    bound = lower_bound(trace, START + LOAD, WAIT, OBJECTIVE) / 3600
    figure(f"{label}_bound_gpu_hours", bound, "h", sum(r.seconds for r in trace) / 3600)
    us = point(ours(trace, SPEC, SHARED, day))
    show(f"{label}_ours", us, len(trace), bound)
    for name, (build, targets, least) in PEERS.items():
        show(
            f"{label}_{name}_shared",
            point(shared(trace, build(targets[0], least), SHARED)),
            len(trace),
            bound,
        )
    return us, bound


class Told(Forecaster):
    """Is told the true mean rate of the ``window`` seconds around the end of its lead."""

    def __init__(self, trace: Trace, lead: float, window: float) -> None:
        self._arrivals = [r.arrival for r in trace]
        self._work = [0.0, *accumulate(r.seconds for r in trace)]
        self._window = window
        super().__init__(lead)

    def _look(self, now: float) -> Forecast:
        learned = super()._look(now)
        begin = now + self.lead - self._window / 2
        came = self._until(begin + self._window) - self._until(begin)
        return replace(learned, rate=came / self._window)

    def _until(self, time: float) -> float:
        return self._work[bisect_left(self._arrivals, time)]


def limits(trace: Trace) -> None:
    """What the same policy holds where it knows more."""
    figure(f"{HEADLINE}x_clairvoyant_gpu_hours", best_fit(trace, START + LOAD, WAIT) / 3600, "h")
    for window in TOLD:
        policy = Ours(SPEC, math.inf)
        policy.forecaster = Told(trace, SPEC.lead, window)
        name = f"{HEADLINE}x_told_{window:.0f}s"
        outcome = simulate(trace, policy, SHARED)
        figure(f"{name}_in_time", outcome.within(WAIT), "share")
        figure(f"{name}_gpu_hours", outcome.held / 3600, "h", outcome.busy / 3600)


def variants(trace: Trace, day: float) -> None:
    """Ours where one thing is otherwise."""
    fresh = replace(SPEC, load_seconds=FRESH_LOAD)
    middle = (trace[0].arrival + trace[-1].arrival) / 2
    runs: dict[str, tuple[Trace, ScalingSpec, World, float]] = {
        "fresh_workers": (trace, fresh, FRESH, day),
        "queues_at_workers": (trace, SPEC, replace(SHARED, queue="worker"), day),
        "first_come_first_served": (trace, SPEC, replace(SHARED, queue="fifo"), day),
        "without_daily_pattern": (trace, SPEC, SHARED, 100 * day),
        **{f"seed_{s}": (trace, SPEC, replace(SHARED, seed=s), day) for s in SEEDS[1:]},
        "first_half": (tuple(r for r in trace if r.arrival < middle), SPEC, SHARED, day),
        "second_half": (tuple(r for r in trace if r.arrival >= middle), SPEC, SHARED, day),
    }
    for name, (part, spec, world, length) in runs.items():
        outcome = ours(part, spec, world, length)
        figure(f"{HEADLINE}x_ours_{name}_in_time", outcome.within(WAIT), "share")
        figure(f"{HEADLINE}x_ours_{name}_gpu_hours", outcome.held / 3600, "h", outcome.busy / 3600)
        figure(f"{HEADLINE}x_ours_{name}_longest_wait", max(outcome.waits), "s")


def main() -> None:
    """The trace where there is one, then the loads made here."""
    path = os.environ.get("TRACE")
    recorded = read_trace(Path(path)) if path else diurnal(2.0, 5 * DAY, SEED)
    for rate in RATES:
        progress(f"{rate} times the arrival rate")
        trace = faster(recorded, rate)
        us, bound = defaults(f"{rate}x", trace, DAY / rate)
        if rate == HEADLINE:
            variants(trace, DAY / rate)
            limits(trace)
            headline(trace, us, bound)
    progress(f"{HEADLINE} times as many callers, in a fifth of the trace")
    first, last = recorded[0].arrival, recorded[-1].arrival
    fifth = tuple(r for r in recorded if 2 <= 5 * (r.arrival - first) / (last - first) < 3)
    defaults(f"{HEADLINE}x_callers", as_many(fifth, HEADLINE, SEED), DAY)
    for name, make in LOADS.items():
        progress(name)
        defaults(name, make(GENERATED_WORKERS, GENERATED_HOURS * 3600.0, SEED), DAY)


if __name__ == "__main__":
    main()
