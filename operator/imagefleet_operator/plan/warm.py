"""How many warm workers there should be at a time."""

from imagefleet_operator.plan.capacity_types import WarmSpec, WarmWindow

DAY_SECONDS = 86_400
THURSDAY = 3
"""The day of the week on which the epoch began."""


def warm_replicas(warm: WarmSpec, now: float) -> int:
    """The largest number of the windows that hold, else ``replicas``. ``now`` is in seconds since the epoch.

    Worked example: with 1 and a window of 3 from 08:00 to 18:00 on every day there are 3 at 08:00 and 1 at 18:00.
    """
    return max((w.replicas for w in warm.windows if holds(w, now)), default=warm.replicas)


def holds(window: WarmWindow, now: float) -> bool:
    """Whether a time is within a window. Worked example: from 22:00 to 02:00 on Mondays holds on Tuesday at 01:59."""
    day, seconds = divmod(int(now), DAY_SECONDS)
    weekday, minute = (day + THURSDAY) % 7, seconds // 60
    if window.start < window.end:
        return weekday in window.days and window.start <= minute < window.end
    began_today = weekday in window.days and minute >= window.start
    return began_today or ((weekday - 1) % 7 in window.days and minute < window.end)


def next_change(warm: WarmSpec, now: float) -> float | None:
    """Seconds until a window may begin or end; None where there is none."""
    minutes = {m for window in warm.windows for m in (window.start, window.end)}
    today = now % DAY_SECONDS
    waits = [(60 * minute - today) % DAY_SECONDS or float(DAY_SECONDS) for minute in minutes]
    return min(waits, default=None)
