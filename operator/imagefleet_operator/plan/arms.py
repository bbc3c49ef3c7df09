"""What gateways counted, as a status tells it: few digits, nothing that was not measured."""

from math import exp, isfinite

from imagefleet_operator.plan.analysis import Judgement
from imagefleet_operator.plan.rollout_types import Arm, NameFigures
from imagefleet_operator.plan.rounding import significant
from imagefleet_operator.plan.types import Json

DIGITS = 3


def arm_of(figures: NameFigures | None, window: str, model: str) -> Arm:
    """What was counted of a model since the window began; nothing where nobody says, or says it of another window."""
    if figures is None or not window or figures.window != window:
        return Arm()
    return figures.arms.get(model, Arm())


def figures_status(model: str, arm: Arm, percent: int | None = None) -> Json:
    """One model's figures.

    Worked example: 1 error in 40 requests, 38 of 40 pictures safe, no score, 40 times 0.011 s per megapixel-step:
    ``{"model": "m", "requests": 40, "errorRate": 0.025, ..., "safetyPassRate": 0.95, "secondsPerMegapixelStep":
    0.011}``.
    """
    mean = arm.latency.mean
    measured = {
        "errorRate": _share(arm.errors, arm.requests),
        "outOfMemoryRate": _share(arm.out_of_memory, arm.requests),
        "safetyPassRate": _share(arm.checked - arm.unsafe, arm.checked),
        "qualityScore": arm.quality.mean,
        "secondsPerMegapixelStep": None if mean is None or abs(mean) > 700 else exp(mean),
    }
    return {
        "model": model,
        **({} if percent is None else {"percent": percent}),
        "requests": arm.requests,
        **{key: told for key, value in measured.items() if (told := number(value)) is not None},
    }


def analysis_status(judgement: Judgement) -> Json:
    """``status.models[].rollout.analysis``."""
    return {
        "verdict": str(judgement.outcome),
        "metrics": [
            {
                "metric": str(f.metric),
                "verdict": str(f.outcome),
                **{
                    k: n
                    for k, v in (("stable", f.stable), ("canary", f.canary))
                    if (n := number(v)) is not None
                },
                "message": f.message,
            }
            for f in judgement.findings
        ],
    }


def number(value: float | None) -> float | None:
    """With few digits; None where it is no number."""
    return None if value is None or not isfinite(value) else significant(value, DIGITS)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
