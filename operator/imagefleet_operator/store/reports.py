"""Reading a worker's report. What is missing or out of range is no opinion, never zero."""

import math
from collections.abc import Mapping
from sys import intern
from typing import Any

from imagefleet_operator.api.image_model import SIZE_CHECK
from imagefleet_operator.api.image_model_status import MAX_MEASURED_SIZES
from imagefleet_operator.plan.types import Device, ModelReport, Report, SizeReport

NAME_CHARACTERS = 128
"""Of an accelerator's name: as many as the status holds."""
MOST_BYTES = 2**53
"""No accelerator has more; sums of such numbers still fit what the API holds."""
STAGE_CHARACTERS = 32
MODES = ("text-to-image", "image-to-image", "inpainting")
STATES = ("Absent", "Loading", "Resident", "Failed")


class InvalidReportError(Exception):
    """A worker answered with something that is no report; it counts as no answer."""


def read_report(body: Any) -> Report:
    """The body of ``GET /v1/worker``. Raises InvalidReportError."""
    try:
        total = _whole(body["memory"], "totalBytes")
        if total is None:
            raise ValueError("memory.totalBytes is no number of bytes")
        return Report(
            memory_total_bytes=total,
            draining=bool(body.get("draining", False)),
            models=tuple(sorted((_model(m) for m in body.get("models") or ()), key=lambda m: m.model)),
            devices=tuple(_device(d) for d in body.get("devices") or ()),
            work_seconds=_number(body, "workSeconds"),
            requests=sum(_requests(m) for m in body.get("models") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidReportError(f"{type(error).__name__}: {error}") from error


def _model(body: Mapping[str, Any]) -> ModelReport:
    if body["state"] not in STATES:
        raise ValueError(f"a model's state is {body['state']!r}, none of {', '.join(STATES)}")
    return ModelReport(
        model=intern(str(body["model"])),
        state=intern(body["state"]),
        pinned=bool(body.get("pinned", False)),
        digest=str(body.get("digest") or ""),
        reason=str(body.get("reason") or ""),
        message=str(body.get("message") or "")[:500],
        memory_bytes=_whole(body, "memoryBytes"),
        seconds_per_megapixel_step=_number(body, "secondsPerMegapixelStep"),
        load_seconds=_number(body, "loadSeconds"),
        stage=intern(str(body.get("stage") or "")[:STAGE_CHARACTERS]),
        fetched_bytes=_whole(body, "fetchedBytes"),
        fetch_total_bytes=_whole(body, "fetchTotalBytes"),
        in_host_memory=body.get("inHostMemory") is True,
        modes=tuple(sorted({intern(mode) for mode in body.get("modes") or () if mode in MODES})),
        sizes=_sizes(body),
    )


def _requests(body: Mapping[str, Any]) -> int:
    return (_whole(body, "queued") or 0) + (_whole(body, "running") or 0)


def _sizes(body: Mapping[str, Any]) -> tuple[SizeReport, ...]:
    found: dict[str, SizeReport] = {}
    for entry in body.get("sizes") or ():
        size = str(entry.get("size"))
        if SIZE_CHECK.holds(size) and len(found) < MAX_MEASURED_SIZES:
            batch = _whole(entry, "maxBatch") or None
            found[size] = SizeReport(intern(size), batch, _number(entry, "secondsPerStep"))
    return tuple(found.values())


def _device(body: Mapping[str, Any]) -> Device:
    return Device(
        accelerator=intern(str(body.get("accelerator") or body.get("name") or "unknown")[:NAME_CHARACTERS]),
        utilization=_number(body, "utilization", most=1),
        memory_used_bytes=_whole(body, "memoryUsedBytes"),
        memory_total_bytes=_whole(body, "memoryTotalBytes"),
        temperature_celsius=_number(body, "temperatureCelsius"),
        power_watts=_number(body, "powerWatts"),
    )


def _number(body: Mapping[str, Any], key: str, most: float = math.inf) -> float | None:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= most else None


def _whole(body: Mapping[str, Any], key: str) -> int | None:
    value = _number(body, key, most=MOST_BYTES)
    return None if value is None else int(value)
