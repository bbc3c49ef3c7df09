"""Refusals of requests that are too much for this worker. Pure."""

from __future__ import annotations

import math

from imagefleet_runtime.worker import errors
from imagefleet_runtime.worker.messages import Draw
from imagefleet_runtime.worker.model import Model


def check_length(work_seconds: float, max_request_seconds: float) -> None:
    """Raises ApiError (request_too_long)."""
    if work_seconds > max_request_seconds:
        raise errors.invalid(
            "request_too_long",
            f"this would take about {math.ceil(work_seconds)} s; at most {max_request_seconds:g} s are allowed. "
            "Ask for fewer pixels, steps or images",
        )


def check_memory(draw: Draw, model: Model, limit_bytes: int) -> None:
    """Refuse a picture that is not expected to fit into ``limit_bytes`` even alone.

    Raises ApiError (size_exceeds_memory) that names the limit and the largest size of this shape that fits.
    """
    width, height, footprint = draw.width, draw.height, model.footprint
    if footprint.fits(width, height, 1, limit_bytes):
        return
    multiple = model.capabilities.size_multiple if model.capabilities else 1
    smaller = footprint.largest_size(width, height, multiple, limit_bytes)
    peak = footprint.peak(width, height, 1)
    needs = "ran out of memory before" if peak is None or peak <= limit_bytes else f"needs about {_gib(peak)}"
    mend = (
        "no size of this shape fits"
        if smaller is None
        else f"the largest of this shape that fits is {smaller[0]}x{smaller[1]}"
    )
    raise errors.invalid(
        "size_exceeds_memory",
        f"{width}x{height} {needs}; {model.name} may use {_gib(limit_bytes)} here ({limit_bytes} bytes); {mend}",
        "size",
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
