"""What callers want of each ImageModel in each pool, as the operator and Prometheus read it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .resources import Key

LABELS = ("namespace", "pool", "model")


class Held(NamedTuple):
    """A request that waits at the gateway."""

    arrived: float
    """In the clock's time."""
    work_seconds: float
    """Its estimated GPU-seconds."""


class Demand:
    """One ImageModel in one pool. Counters since this process started, and what there is now."""

    __slots__ = ("_held", "arrived", "arrived_work_seconds", "last_arrival", "late", "running", "started")

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self.running = 0
        """Requests that a worker has, copies included."""
        self.arrived = 0
        self.arrived_work_seconds = 0.0
        """Estimated GPU-seconds of all requests, copies included."""
        self.started = 0
        """Requests that a worker began."""
        self.late = 0
        """Requests that began later than they should have, or not at all for want of capacity."""
        self.last_arrival: float | None = None
        """In the clock's time."""

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def held_work_seconds(self) -> float:
        return sum(request.work_seconds for request in self._held.values())

    def arrive(self, work_seconds: float, now: float) -> None:
        """A caller's request came."""
        self.arrived += 1
        self.arrived_work_seconds += work_seconds
        self.last_arrival = now

    @contextlib.contextmanager
    def holding(self, request: Held) -> Iterator[None]:
        """The request waits while the context lasts."""
        key = id(request)
        self._held[key] = request
        try:
            yield
        finally:
            del self._held[key]

    def begin(self, waited: float, allowed: float) -> None:
        """A worker began a request `waited` seconds after its arrival; `allowed` is how long it may wait."""
        self.started += 1
        self.give_up(waited, allowed)

    def give_up(self, waited: float, allowed: float) -> None:
        """A caller left while its request waited."""
        if waited > allowed:
            self.late += 1

    def refuse(self) -> None:
        """There was no capacity for a request: it did not begin in time."""
        self.late += 1

    def oldest_held_seconds(self, now: float) -> float | None:
        """None where nothing waits."""
        return max((now - request.arrived for request in self._held.values()), default=None)

    def seconds_since_arrival(self, now: float) -> float | None:
        """None where nothing came."""
        return None if self.last_arrival is None else now - self.last_arrival

    def report(self, now: float) -> dict[str, Any]:
        """In the words of docs/contract.md; what there is none of is null."""
        return {
            "held": self.held,
            "running": self.running,
            "arrivedWorkSeconds": self.arrived_work_seconds,
            "arrived": self.arrived,
            "started": self.started,
            "late": self.late,
            "heldWorkSeconds": self.held_work_seconds,
            "oldestHeldSeconds": self.oldest_held_seconds(now),
            "secondsSinceArrival": self.seconds_since_arrival(now),
        }


_Value = Callable[[Demand, float], float | None]
_GAUGES: tuple[tuple[str, str, _Value], ...] = (
    ("held_requests", "Requests that wait for a worker.", lambda d, _: d.held),
    ("held_work_seconds", "Estimated GPU-seconds of requests that wait.", lambda d, _: d.held_work_seconds),
    ("oldest_held_seconds", "How long the oldest request waits.", Demand.oldest_held_seconds),
    ("running_requests", "Requests that a worker has.", lambda d, _: d.running),
    ("since_arrival_seconds", "Time since the last request came.", Demand.seconds_since_arrival),
)
_COUNTERS: tuple[tuple[str, str, _Value], ...] = (
    (
        "arrived_work_seconds",
        "Estimated GPU-seconds of the requests that arrived.",
        lambda d, _: d.arrived_work_seconds,
    ),
    ("arrived_requests", "Requests that arrived.", lambda d, _: d.arrived),
    ("started_requests", "Requests that a worker began.", lambda d, _: d.started),
    (
        "late_requests",
        "Requests that began too late, or not at all for want of capacity.",
        lambda d, _: d.late,
    ),
)


class DemandCollector(Collector):
    """Demand as metrics, read at each scrape."""

    def __init__(self, demand: Mapping[Key, Demand], clock: Callable[[], float]) -> None:
        self._demand = demand
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        for name, words, value in _GAUGES:
            family = GaugeMetricFamily(f"imagefleet_gateway_{name}", words, labels=LABELS)
            yield self._filled(family, value)
        for name, words, value in _COUNTERS:
            counter = CounterMetricFamily(f"imagefleet_gateway_{name}", words, labels=LABELS)
            yield self._filled(counter, value)

    def _filled(self, family: GaugeMetricFamily | CounterMetricFamily, value: _Value) -> Metric:
        now = self._clock()
        for key, amount in self._values(value, now):
            family.add_metric(key, amount)
        return family

    def _values(self, value: _Value, now: float) -> Iterable[tuple[Key, float]]:
        for key, demand in self._demand.items():
            amount = value(demand, now)
            if amount is not None:
                yield key, amount
