"""From ``spec.scaling`` and ``spec.warmPool`` to the values of plans: texts become numbers, what is absent the
default."""

from imagefleet_operator import api
from imagefleet_operator.plan.behavior import Behavior, Limit, Rules
from imagefleet_operator.plan.capacity_types import PoolScaling, WarmSpec, WarmWindow
from imagefleet_operator.plan.scaling import ScalingSpec

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EVERY_DAY = frozenset(range(len(DAYS)))
ABSENT = Behavior()


def scaling_record(scaling: api.Scaling) -> PoolScaling:
    """Who decides, and within which bounds."""
    behavior = scaling.behavior
    return PoolScaling(
        ScalingSpec(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            target_utilization=float(scaling.target_utilization),
            wait_seconds=float(scaling.wait_seconds),
            objective=float(scaling.objective),
            zero_seconds=float(scaling.zero_after_seconds),
            behavior=Behavior(
                _rules(behavior.scale_up, ABSENT.scale_up), _rules(behavior.scale_down, ABSENT.scale_down)
            ),
        ),
        external=scaling.mode == "External",
    )


def _rules(rules: api.ScalingRules, absent: Rules) -> Rules:
    window = rules.stabilization_window_seconds
    return Rules(
        stabilization_window_seconds=absent.stabilization_window_seconds if window is None else float(window),
        policies=tuple(Limit(p.type, p.value, float(p.period_seconds)) for p in rules.policies),
        select_policy=rules.select_policy,
        tolerance=float(rules.tolerance or 0),
    )


def warm_record(warm: api.WarmPool) -> WarmSpec:
    """How many warm workers there are at which time."""
    return WarmSpec(
        replicas=warm.replicas,
        on_accelerator=warm.weights == "Accelerator",
        windows=tuple(_window(window) for window in warm.schedule),
        forecast=warm.forecast,
    )


def _window(window: api.WarmWindow) -> WarmWindow:
    days = frozenset(DAYS.index(day) for day in window.days)
    return WarmWindow(days or EVERY_DAY, _minutes(window.start), _minutes(window.end), window.replicas)


def _minutes(text: str) -> int:
    """Worked example: ``07:30`` is 450."""
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)
