"""When an engine that does not answer counts as hung. Pure; generous, for to kill one that is only slow costs more."""

from __future__ import annotations

# A worn network volume. Files are read twice: to be hashed, and to be loaded.
SLOWEST_BYTES_PER_SECOND = 20e6
READS = 2
# How many times its estimate a drawing may take.
DRAW_MARGIN = 4.0


def load_seconds(size_bytes: int, least_seconds: float) -> float:
    """Seconds that reading a folder, and then loading it, may each take: ``least_seconds``, or more for large folders.

    Worked example: 24 GB may take 2 x 24e9 / 20e6 = 2,400 s.
    """
    return max(least_seconds, READS * size_bytes / SLOWEST_BYTES_PER_SECOND)


def draw_seconds(estimate: float, max_request_seconds: float) -> float:
    """Seconds that a drawing may take: four times its estimate, and no less than the longest that may be asked for.

    Worked examples, with at most 300 s to ask for: an estimate of 2 s may take 300 s, one of 200 s may take 800 s.
    """
    return max(DRAW_MARGIN * estimate, max_request_seconds)
