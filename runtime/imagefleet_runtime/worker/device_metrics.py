"""The accelerators' metrics, read when Prometheus asks. What was not measured has no sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from imagefleet_runtime.worker.nvml import Device

LABELS = ("namespace", "pool", "device", "accelerator")
PREFIX = "imagefleet_worker_accelerator_"
Samples = Iterable[tuple[tuple[str, ...], float | None]]

GAUGES: tuple[tuple[str, str, Callable[[Device], float | None]], ...] = (
    ("utilization_ratio", "Part of the time in which some kernel ran", lambda device: device.utilization),
    ("memory_used_bytes", "Memory in use", lambda device: device.memory_used_bytes),
    ("memory_total_bytes", "Memory", lambda device: device.memory_total_bytes),
    ("temperature_celsius", "Temperature", lambda device: device.temperature_celsius),
    ("power_watts", "Power drawn", lambda device: device.power_watts),
    ("fault", "1 where nothing should be drawn on it", lambda device: float(device.health.fault is not None)),
    (
        "repair_pending",
        "1 where bad memory is to be replaced at the next reset",
        lambda device: device.health.repair_pending,
    ),
)


class DeviceMetrics(Collector):
    """``base``: namespace and pool."""

    def __init__(self, base: tuple[str, str], devices: Callable[[], Iterable[Device]]) -> None:
        self._base = base
        self._devices = devices

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the devices."""
        return []

    def collect(self) -> Iterator[Metric]:
        devices = list(self._devices())
        for name, text, value in GAUGES:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=LABELS)
            yield self._filled(gauge, devices, partial(_one, value))
        throttled = GaugeMetricFamily(
            f"{PREFIX}throttled", "1 where the clocks are held down, by reason", labels=(*LABELS, "reason")
        )
        yield self._filled(throttled, devices, lambda device: _labelled(device.health.throttled))
        rows = GaugeMetricFamily(
            f"{PREFIX}remapped_rows", "Rows of memory that were replaced", labels=(*LABELS, "kind")
        )
        yield self._filled(rows, devices, lambda device: _labelled(device.health.remapped_rows))
        ecc = CounterMetricFamily(
            f"{PREFIX}ecc_errors", "Errors of its memory", labels=(*LABELS, "kind", "scope")
        )
        yield self._filled(ecc, devices, lambda device: device.health.ecc_errors.items())
        xids = CounterMetricFamily(
            f"{PREFIX}xid_errors", "Xid errors since the worker started", labels=(*LABELS, "xid")
        )
        yield self._filled(xids, devices, lambda device: _labelled(device.health.xids or {}))

    def _filled(
        self,
        family: CounterMetricFamily | GaugeMetricFamily,
        devices: Iterable[Device],
        samples: Callable[[Device], Samples],
    ) -> Metric:
        for device in devices:
            for labels, value in samples(device):
                if value is not None:
                    family.add_metric(
                        (*self._base, str(device.index), device.accelerator, *labels), float(value)
                    )
        return family


def _one(value: Callable[[Device], float | None], device: Device) -> Samples:
    return [((), value(device))]


def _labelled(values: Mapping[Any, float]) -> Samples:
    """A sample for each of ``values``, by the name of one more label."""
    return [((str(label),), value) for label, value in values.items()]
