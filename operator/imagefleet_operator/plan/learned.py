"""What scaling has learned of a pool, as its status keeps it: ``status.scaling.learned``."""

import json
import math

from imagefleet_operator.plan.conditions import timestamp
from imagefleet_operator.plan.forecast import Forecaster
from imagefleet_operator.plan.scaling import CAUTION_MOST
from imagefleet_operator.plan.times import seconds_of
from imagefleet_operator.plan.types import Json

VERSION = 1
WRITE_SECONDS = 1_800.0
"""Between two writes: patterns have phases of half an hour."""


def kept(old: Json | None, forecaster: Forecaster, caution: float, since: float, now: float) -> Json | None:
    """What to write: what is written as long as that is not old. ``since``: when learning began."""
    written = seconds_of(old.get("time")) if old else since
    if now - written < WRITE_SECONDS:
        return old
    told = {"caution": float(f"{caution:.3g}"), **forecaster.learned()}
    text = json.dumps(told, separators=(",", ":"))
    if old and old.get("text") == text:
        return old
    return {"version": VERSION, "time": timestamp(now), "text": text}


def restore(written: Json | None, forecaster: Forecaster) -> float | None:
    """Take over what was written; the caution, or None where there is nothing that can be read."""
    if not written or written.get("version") != VERSION:
        return None
    try:
        told = json.loads(written["text"])
        caution = float(told["caution"])
        if not math.isfinite(caution):
            return None
        forecaster.restore(told)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return min(max(caution, 0.0), CAUTION_MOST)
