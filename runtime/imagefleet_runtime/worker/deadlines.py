"""When an engine that does not answer counts as hung. Pure; generous, for to kill one that is only slow costs more."""

from __future__ import annotations

# A worn network volume. Files are read twice: to be hashed, and to be loaded.
SLOWEST_BYTES_PER_SECOND = 20e6
READS = 2
# How many times its estimate a drawing may stay silent.
SILENCE_MARGIN = 4.0


def load_seconds(size_bytes: int, least_seconds: float) -> float:
    """Seconds that reading a folder, and then each stage of loading it, may take: ``least_seconds``, or more for large
    folders.

    Worked example: 24 GB may take 2 x 24e9 / 20e6 = 2,400 s.
    """
    return max(least_seconds, READS * size_bytes / SLOWEST_BYTES_PER_SECOND)


def silence_seconds(estimate: float, max_request_seconds: float) -> float:
    """Seconds that a drawing may go without a step or an answer: four times the estimate of all of it, and no less than
    the longest that may be asked for (one step may compile code for minutes).

    Worked examples, with at most 300 s to ask for: an estimate of 2 s may be silent for 300 s, one of 200 s for 800 s.
    """
    return max(SILENCE_MARGIN * estimate, max_request_seconds)
