"""When a status that differs is worth a write."""

from collections.abc import Sequence

from imagefleet_operator.plan.types import Json

DETAIL_SECONDS = 5.0
"""Between writes that change no more than counts, reasons and messages: a starting pool changes these many
times."""
NUMBER_SECONDS = 60.0
"""Between writes that change measured numbers alone."""
COUNTED = ("Cached",)
"""Conditions that say no more than the counts: on demand, models come and go at any time."""


def write_delay(old: Json, new: Json, since_last: float | None) -> float | None:
    """Seconds to wait before ``new`` is written over ``old``; None: they are the same.

    ``since_last`` is the time since the last write, None where there was none since the operator started.
    Changed conditions, models and generations are written at once. Worked example: only ``replicas`` changed
    and the last write was 2 s ago: 3.
    """
    if old == new:
        return None
    least = _least_interval(old, new)
    return 0.0 if since_last is None else max(0.0, least - since_last)


def _least_interval(old: Json, new: Json) -> float:
    if _measured_apart(old) == _measured_apart(new):
        return NUMBER_SECONDS
    if _essence(old) == _essence(new):
        return DETAIL_SECONDS
    return 0.0


def _measured_apart(status: Json) -> Json:
    """The status with measured numbers left out; that there are any, and of which accelerators, stays."""
    devices = status.get("accelerator") or {}
    speeds = status.get("performance") or ()
    shape = {
        "accelerator": (devices.get("name"), devices.get("count")),
        "performance": [
            (entry["accelerator"], sorted(entry), _names(entry.get("sizes"))) for entry in speeds
        ],
    }
    return {**status, **shape}


def _essence(status: Json) -> tuple[Json, set[tuple[str, str]]]:
    """What is worth a write at once."""
    left_out = ("accelerator", "performance", "replicas", "readyReplicas", "copies", "conditions")
    rest = {key: value for key, value in status.items() if key not in left_out}
    told = (c for c in status.get("conditions") or () if c["type"] not in COUNTED)
    return rest, {(c["type"], c["status"]) for c in told}


def _names(sizes: Sequence[Json] | None) -> list[str]:
    return [entry["size"] for entry in sizes or ()]
