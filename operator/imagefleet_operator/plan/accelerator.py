"""What the accelerators of a pool do, as one line of its status."""

from collections.abc import Iterable, Sequence

from imagefleet_operator.plan.rounding import settled, stepped
from imagefleet_operator.plan.types import Device, Json, Worker

Numbers = Iterable[float | None]


def accelerator_status(old: Json | None, workers: Sequence[Worker]) -> Json | None:
    """``status.accelerator`` of all devices of the workers that stay; None where there is no device.

    Means over devices for utilisation, sums for memory and power, the hottest one's temperature; what no
    device gives is absent. A number moves only when it has moved visibly, see ``rounding``.
    """
    devices = [d for w in workers if w.report and not w.pod.deleting for d in w.report.devices]
    if not devices:
        return None
    before = old or {}
    names = sorted({d.accelerator for d in devices})
    used = _sum(d.memory_used_bytes for d in devices)
    total = _sum(d.memory_total_bytes for d in devices)
    numbers: dict[str, float | None] = {
        "utilization": stepped(before.get("utilization"), _mean(devices), step=0.1),
        "memoryUsedBytes": _whole(settled(before.get("memoryUsedBytes"), used, within=0.05, digits=3)),
        "memoryTotalBytes": total,
        "temperatureCelsius": stepped(
            before.get("temperatureCelsius"), _max(d.temperature_celsius for d in devices), step=5
        ),
        "powerWatts": settled(
            before.get("powerWatts"), _sum(d.power_watts for d in devices), within=0.15, digits=2
        ),
    }
    known = {key: value for key, value in numbers.items() if value is not None}
    return {"name": ", ".join(names), "count": len(devices), **known}


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _known(values: Numbers) -> list[float]:
    return [v for v in values if v is not None]


def _sum(values: Numbers) -> float | None:
    known = _known(values)
    return sum(known) if known else None


def _max(values: Numbers) -> float | None:
    return max(_known(values), default=None)


def _mean(devices: Sequence[Device]) -> float | None:
    known = _known(d.utilization for d in devices)
    return sum(known) / len(known) if known else None
