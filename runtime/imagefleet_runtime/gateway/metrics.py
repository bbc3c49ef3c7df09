"""Metrics and demand, labelled by what the cluster offers: a caller's words never make a label."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .demand import LABELS, Demand, DemandCollector
from .figures import WorkerFigures
from .resources import NO_KEY, Key
from .snapshot import Route

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_OVERHEAD = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


class _RouteCollector(Collector):
    """Shares of traffic and suspensions as the snapshot has them, read at each scrape."""

    def __init__(self) -> None:
        self.routes: tuple[Route, ...] = ()

    def collect(self) -> Iterator[Metric]:
        percent = GaugeMetricFamily(
            "imagefleet_gateway_traffic_percent",
            "Share of a name's traffic that an ImageModel of a pool gets.",
            labels=(*LABELS, "name"),
        )
        suspended = GaugeMetricFamily(
            "imagefleet_gateway_suspended",
            "1 for each ImageModel of a name that is suspended.",
            labels=(*LABELS, "name"),
        )
        for route in self.routes:
            for share in route.shares:
                percent.add_metric((share.namespace, share.pool, share.model, route.name), share.percent)
            for pool, model in route.suspended:
                suspended.add_metric((route.namespace, pool, model, route.name), 1)
        yield from (percent, suspended)


class Metrics:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._demand: dict[Key, Demand] = {}
        self._seen: set[Key] = set()
        """What has a series without a request of its own: of copies, or while it is suspended."""
        self._codes: dict[tuple[Key, int], Counter] = {}
        self._durations: dict[Key, Histogram] = {}
        self._checks: dict[Key, tuple[Counter, Counter]] = {}
        self._scores: dict[Key, Histogram] = {}
        self._requests = Counter(
            "imagefleet_gateway_requests",
            "Image requests that ended, by HTTP status; 499: the caller went away.",
            (*LABELS, "code"),
            registry=self.registry,
        )
        self._duration = Histogram(
            "imagefleet_gateway_request_duration_seconds",
            "Time from an image request's arrival to its reply.",
            LABELS,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first_event = Histogram(
            "imagefleet_gateway_first_event_seconds",
            "Time from the arrival of an image request that asks for a stream to its first event.",
            LABELS,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._overhead = Histogram(
            "imagefleet_gateway_overhead_seconds",
            "Time of an image request that was spent neither held nor waiting for a worker.",
            buckets=_OVERHEAD,
            registry=self.registry,
        )
        self.registry.register(DemandCollector(self._demand, clock))
        self._held_time = Histogram(
            "imagefleet_gateway_held_seconds",
            "How long held requests waited.",
            LABELS,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._routes = _RouteCollector()
        self.registry.register(self._routes)
        self._mirrored = Counter(
            "imagefleet_gateway_mirrored",
            "Copies of requests for an ImageModel that nobody waits for, by what became of them.",
            (*LABELS, "outcome"),
            registry=self.registry,
        )
        self._checked = Counter(
            "imagefleet_gateway_pictures_checked",
            "Pictures that a safety check looked at.",
            LABELS,
            registry=self.registry,
        )
        self._unsafe = Counter(
            "imagefleet_gateway_pictures_unsafe",
            "Pictures that a safety check found not to be shown.",
            LABELS,
            registry=self.registry,
        )
        self._quality = Histogram(
            "imagefleet_gateway_quality_score",
            "Mean score of a request's pictures, 0 to 1.",
            LABELS,
            buckets=_SCORES,
            registry=self.registry,
        )
        self._cache_hits = Counter(
            "imagefleet_gateway_cache_hits",
            "Requests for a suspended ImageModel that got an answer of earlier again.",
            LABELS,
            registry=self.registry,
        )
        self._degraded = Counter(
            "imagefleet_gateway_degraded",
            "Requests that a budget made less than was asked for.",
            LABELS,
            registry=self.registry,
        )
        self._quota_refused = Counter(
            "imagefleet_gateway_quota_refused",
            "Requests that were refused because a budget was used up.",
            LABELS,
            registry=self.registry,
        )
        self._fallbacks = Counter(
            "imagefleet_gateway_fallbacks",
            "Requests that another name served, by reason.",
            (*LABELS, "reason"),
            registry=self.registry,
        )
        self._retries = Counter(
            "imagefleet_gateway_retries",
            "Attempts that a worker did not serve, by reason.",
            (*LABELS, "reason"),
            registry=self.registry,
        )
        self._resumed = Counter(
            "imagefleet_gateway_resumed",
            "Requests that a worker gave up and another one was sent.",
            LABELS,
            registry=self.registry,
        )
        self._watch_age = Gauge(
            "imagefleet_gateway_watch_age_seconds",
            "Time since the API server was last heard of, by kind.",
            ("kind",),
            registry=self.registry,
        )
        self._watch_restarts = Counter(
            "imagefleet_gateway_watch_restarts",
            "Watches that ended, by kind and reason.",
            ("kind", "reason"),
            registry=self.registry,
        )

    def demand(self, key: Key) -> Demand:
        entry = self._demand.get(key)
        if entry is None:
            entry = self._demand[key] = Demand()
        return entry

    def demands(self) -> Iterable[tuple[Key, Demand]]:
        return self._demand.items()

    def held_work_seconds(self, pools: Collection[tuple[str, str]]) -> float:
        """Of what waits for any ImageModel of these pools."""
        return sum(d.held_work_seconds for key, d in self._demand.items() if key[:2] in pools and d.held)

    def ended(self, key: Key, status: int, seconds: float, overhead: float) -> None:
        """A request ended `seconds` after its arrival, of which the gateway itself took `overhead`."""
        code = self._codes.get((key, status))
        if code is None:
            code = self._codes[key, status] = self._requests.labels(*key, str(status))
        code.inc()
        duration = self._durations.get(key)
        if duration is None:
            duration = self._durations[key] = self._duration.labels(*key)
        duration.observe(seconds)
        self._overhead.observe(overhead)

    def first_event(self, key: Key, seconds: float) -> None:
        self._first_event.labels(*key).observe(seconds)

    def held(self, key: Key, seconds: float) -> None:
        self._held_time.labels(*key).observe(seconds)

    def retried(self, key: Key, reason: str) -> None:
        self._retries.labels(*key, reason).inc()

    def resumed(self, key: Key) -> None:
        self._resumed.labels(*key).inc()

    def mirrored(self, key: Key, outcome: str) -> None:
        self._seen.add(key)
        self._mirrored.labels(*key, outcome).inc()

    def looked_at(self, key: Key, worker: WorkerFigures) -> None:
        """What a worker's checks found in the pictures of one request."""
        if worker.checked:
            children = self._checks.get(key)
            if children is None:
                children = self._checks[key] = (self._checked.labels(*key), self._unsafe.labels(*key))
            children[0].inc(worker.checked)
            children[1].inc(worker.unsafe)
        if worker.quality is not None:
            score = self._scores.get(key)
            if score is None:
                score = self._scores[key] = self._quality.labels(*key)
            score.observe(worker.quality)

    def degraded(self, key: Key) -> None:
        self._degraded.labels(*key).inc()

    def quota_refused(self, key: Key) -> None:
        self._quota_refused.labels(*key).inc()

    def cache_hit(self, key: Key) -> None:
        self._seen.add(key)
        self._cache_hits.labels(*key).inc()

    def fell_back(self, key: Key, reason: str) -> None:
        """A request for `key` was served by another name."""
        self._seen.add(key)
        self._fallbacks.labels(*key, reason).inc()

    def watch_age(self, kind: str, age: Callable[[], float]) -> None:
        """Read the age of a kind's watch at each scrape."""
        self._watch_age.labels(kind).set_function(age)

    def watch_restarted(self, kind: str, reason: str) -> None:
        self._watch_restarts.labels(kind, reason).inc()

    def keep(self, routes: Iterable[Route]) -> None:
        """Forget what the cluster no longer offers, once none of its requests is left."""
        # A route is there by its full name, and by its bare name where that is unambiguous.
        self._routes.routes = routes = tuple({(r.namespace, r.name): r for r in routes}.values())
        offered = {NO_KEY}
        for route in routes:
            offered |= {s.key for s in (*route.shares, *route.mirrors)}
            offered |= {(route.namespace, pool, model) for pool, model in route.suspended}
        busy = {key for key, demand in self._demand.items() if demand.held or demand.running}
        # A request may end after its model has gone, or without any demand: what has a series counts too.
        for key in (self._demand.keys() | self._durations.keys() | self._seen) - offered - busy:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        self._seen.discard(key)
        self._demand.pop(key, None)
        for children in (self._durations, self._checks, self._scores):
            children.pop(key, None)
        labels = dict(zip(LABELS, key, strict=True))
        for code in [c for c in self._codes if c[0] == key]:
            del self._codes[code]
        for metric in (
            self._requests,
            self._duration,
            self._first_event,
            self._held_time,
            self._retries,
            self._resumed,
            self._mirrored,
            self._checked,
            self._unsafe,
            self._quality,
            self._cache_hits,
            self._fallbacks,
            self._degraded,
            self._quota_refused,
        ):
            metric.remove_by_labels(labels)

    def expose(self) -> bytes:
        """The text of `/metrics`."""
        return generate_latest(self.registry)
