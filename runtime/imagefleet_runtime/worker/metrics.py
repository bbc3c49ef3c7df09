"""The worker's Prometheus metrics. Labels carry pool and model, so that every figure can be compared between models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from imagefleet_runtime.worker.device_metrics import DeviceMetrics
from imagefleet_runtime.worker.nvml import Device

LABELS = ("namespace", "pool", "model")
# From a tiny model on a fast accelerator to the longest admitted request.
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
CHECK_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class ModelGauges:
    """``queued`` and ``running``: requests by priority. None: not measured."""

    model: str
    resident: bool
    queued: Mapping[str, int]
    running: Mapping[str, int]
    work_seconds: float
    rate: float | None
    memory_bytes: int | None
    memory_peak_bytes: int | None
    demand_seconds: float


class Metrics:
    """Counters that events move, and gauges that are read when Prometheus asks."""

    def __init__(
        self,
        namespace: str,
        pool: str,
        models: Callable[[], Iterable[ModelGauges]],
        devices: Callable[[], Iterable[Device]],
    ) -> None:
        self.registry = CollectorRegistry()
        self._base = (namespace, pool)
        self.registry.register(_Gauges(self._base, models))
        self.registry.register(DeviceMetrics(self._base, devices))
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered, by code (ok, or the error's)", "code")
        self._refused = self._counter("refused", "Requests that were not admitted, by code", "code")
        self._cancelled = self._counter(
            "cancelled", "Requests that were stopped before they were answered, by reason", "reason"
        )
        self._interrupted = self._counter(
            "interrupted", "Requests that were ended before they were done, for the worker must go"
        )
        self._resumed = self._counter("resumed", "Requests that go on where another worker was interrupted")
        self._preempted = self._counter(
            "preempted", "Times that a picture had to wait in the middle for more urgent ones"
        )
        self._images = self._counter("images", "Pictures drawn")
        self._run_seconds = self._counter("run_seconds", "Seconds for which the accelerator drew")
        self._restarts = self._counter("engine_restarts", "Engine processes that ended by themselves")
        self._evicted = self._counter("evictions", "Times that the model made room for another")
        self._fetched = self._counter("fetched_bytes", "Bytes of remote sources that were fetched")
        self._generation = self._histogram("generation_seconds", "Time to draw one request")
        self._waiting = self._histogram("queue_seconds", "Time a request waited before it was drawn")
        self._loading = self._histogram(
            "load_seconds", "Time from the decision to load a model until it serves"
        )
        self._stages = self._histogram("load_stage_seconds", "Time of one stage of a load", "stage")
        self._batches = self._histogram("batch_size", "Pictures that shared a step", buckets=BATCHES)
        self._steps = self._histogram("step_seconds", "Time of a step of a batch", buckets=STEP_SECONDS)
        self._checked = self._counter("pictures_checked", "Pictures that the safety check looked at")
        self._unsafe = self._counter("pictures_unsafe", "Pictures that failed the safety check")
        self._scores = self._histogram("quality_score", "Score of a picture, 0 to 1", buckets=SCORES)
        self._looks = self._histogram(
            "check_seconds", "Time of one look at one picture", "check", buckets=CHECK_SECONDS
        )
        self._by_model = (
            self._requests,
            self._refused,
            self._cancelled,
            self._interrupted,
            self._resumed,
            self._preempted,
            self._images,
            self._run_seconds,
            self._restarts,
            self._evicted,
            self._fetched,
            self._generation,
            self._waiting,
            self._loading,
            self._stages,
            self._batches,
            self._steps,
            self._checked,
            self._unsafe,
            self._scores,
            self._looks,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"imagefleet_worker_{name}", text, (*LABELS, *labels), registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        return Histogram(
            f"imagefleet_worker_{name}", text, (*LABELS, *labels), buckets=buckets, registry=self.registry
        )

    def answered(self, model: str, code: str) -> None:
        """``model``: empty where the request named none that this worker knows, to bound the number of series."""
        self._requests.labels(*self._base, model, code).inc()

    def refused(self, model: str, code: str) -> None:
        """``model``: as in ``answered``."""
        self._refused.labels(*self._base, model, code).inc()

    def cancelled(self, model: str, reason: str, requests: int = 1) -> None:
        """``reason``: ``caller_left``, ``unsafe`` or ``suspended``."""
        self._cancelled.labels(*self._base, model, reason).inc(requests)

    def interrupted(self, model: str) -> None:
        self._interrupted.labels(*self._base, model).inc()

    def resumed(self, model: str) -> None:
        self._resumed.labels(*self._base, model).inc()

    def preempted(self, model: str) -> None:
        self._preempted.labels(*self._base, model).inc()

    def checked(self, model: str, passed: bool) -> None:
        """The safety check looked at one picture."""
        self._checked.labels(*self._base, model).inc()
        self._unsafe.labels(*self._base, model).inc(not passed)

    def scored(self, model: str, score: float) -> None:
        self._scores.labels(*self._base, model).observe(score)

    def looked(self, model: str, check: str, seconds: float) -> None:
        """``check``: ``safety`` or ``quality``."""
        self._looks.labels(*self._base, model, check).observe(seconds)

    def stepped(self, model: str, batch: int, seconds: float) -> None:
        self._batches.labels(*self._base, model).observe(batch)
        self._steps.labels(*self._base, model).observe(seconds)

    def drawn(self, model: str, work_seconds: float) -> None:
        """One picture, which took ``work_seconds`` of the accelerator."""
        self._images.labels(*self._base, model).inc()
        self._run_seconds.labels(*self._base, model).inc(work_seconds)

    def completed(self, model: str, run_seconds: float, queue_seconds: float) -> None:
        """All pictures of one request."""
        self._generation.labels(*self._base, model).observe(run_seconds)
        self._waiting.labels(*self._base, model).observe(queue_seconds)

    def loaded(self, model: str, seconds: float, stages: Mapping[str, float]) -> None:
        self._loading.labels(*self._base, model).observe(seconds)
        for stage, part in stages.items():
            self._stages.labels(*self._base, model, stage).observe(part)

    def fetched(self, model: str, count: int) -> None:
        """``count``: bytes."""
        self._fetched.labels(*self._base, model).inc(count)

    def evicted(self, model: str) -> None:
        self._evicted.labels(*self._base, model).inc()

    def crashed(self, model: str) -> None:
        self._restarts.labels(*self._base, model).inc()

    def forget(self, model: str) -> None:
        """Drop the series of a model that this worker does not serve any more."""
        for metric in self._by_model:
            metric.remove_by_labels({"model": model})


class _Gauges(Collector):
    def __init__(self, base: tuple[str, str], models: Callable[[], Iterable[ModelGauges]]) -> None:
        self._base = base
        self._models = models

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not call ``models`` before its owner is complete."""
        return []

    def collect(self) -> Iterator[Metric]:
        models = list(self._models())
        yield self._family("resident", "1 where the model can serve at once", models, "resident")
        yield self._by_priority("queue_length", "Requests that wait, by priority", models, "queued")
        yield self._by_priority("running", "Requests being drawn, by priority", models, "running")
        yield self._family("work_seconds", "Estimated seconds of work left", models, "work_seconds")
        yield self._family(
            "demand_seconds",
            "Seconds that the accelerator drew; half is forgotten every 10 minutes",
            models,
            "demand_seconds",
        )
        yield self._family("rate_seconds", "Seconds per megapixel-step", models, "rate")
        yield self._family("model_memory_bytes", "Memory the model needs", models, "memory_bytes")
        yield self._family("memory_peak_bytes", "Most memory its engine held", models, "memory_peak_bytes")

    def _by_priority(
        self, name: str, text: str, models: Iterable[ModelGauges], attribute: str
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"imagefleet_worker_{name}", text, labels=(*LABELS, "priority"))
        for row in models:
            for priority, count in getattr(row, attribute).items():
                family.add_metric([*self._base, row.model, priority], count)
        return family

    def _family(self, name: str, text: str, rows: Iterable[ModelGauges], attribute: str) -> GaugeMetricFamily:
        """One gauge with a sample for each model that has the value: what was not measured has no sample."""
        family = GaugeMetricFamily(f"imagefleet_worker_{name}", text, labels=LABELS)
        for row in rows:
            value = getattr(row, attribute)
            if value is not None:
                family.add_metric([*self._base, row.model], float(value))
        return family
