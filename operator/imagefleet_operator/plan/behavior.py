"""How fast a number of replicas may change: ``behavior`` of ``autoscaling/v2``.

Meaning and defaults of the fields are Kubernetes' (*Horizontal Pod Autoscaling*, "Configurable scaling behavior", and
``pkg/controller/podautoscaler/horizontal.go``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Select = Literal["Max", "Min", "Disabled"]


@dataclass(frozen=True, slots=True)
class Limit:
    """One of ``policies``: at most ``value`` Pods, or percent of the replicas, within ``period_seconds``."""

    type: Literal["Pods", "Percent"]
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """``scaleUp`` or ``scaleDown``. No policies: no limit."""

    stabilization_window_seconds: float = 0.0
    policies: tuple[Limit, ...] = ()
    select_policy: Select = "Max"
    tolerance: float = 0.0
    """Changes by no more than this share of the replicas are not made."""


@dataclass(frozen=True, slots=True)
class Behavior:
    """Both directions. By default a burst gets its workers at once, and a worker goes when it was not needed for a
    minute: what it takes to start one."""

    scale_up: Rules = Rules()
    scale_down: Rules = Rules(60.0)


KUBERNETES = Behavior(
    Rules(0.0, (Limit("Percent", 100, 15), Limit("Pods", 4, 15))),
    Rules(300.0, (Limit("Percent", 100, 15),)),
)
"""The defaults of a HorizontalPodAutoscaler."""


@dataclass(frozen=True, slots=True)
class Past:
    """What limits need to know: (time, replicas wanted) and (time, change made), oldest first."""

    wanted: tuple[tuple[float, int], ...] = ()
    changes: tuple[tuple[float, int], ...] = ()


def limited(behavior: Behavior, past: Past, wanted: int, current: int, now: float) -> tuple[int, Past]:
    """Replicas to have, after stabilization, tolerance and policies, and the past for the next time.

    Worked example (KUBERNETES): of 10 replicas, wanted 30: the larger of 20 (100 %) and 14 (4 pods) is 20. Wanted 5 a
    minute after 8 were wanted: 8, the most of the last 300 s.
    """
    recent = (*past.wanted, (now, wanted))
    stable = _stabilized(behavior, recent, current, now)
    if abs(stable - current) <= _rules(behavior, stable, current).tolerance * current:
        stable = current
    allowed = _allowed(behavior, past.changes, stable, current, now)
    changes = past.changes if allowed == current else (*past.changes, (now, allowed - current))
    keep = max(r.stabilization_window_seconds for r in (behavior.scale_up, behavior.scale_down))
    period = max(
        (p.period_seconds for r in (behavior.scale_up, behavior.scale_down) for p in r.policies), default=0
    )
    return allowed, Past(
        tuple(w for w in recent if w[0] > now - keep), tuple(c for c in changes if c[0] > now - period)
    )


def _rules(behavior: Behavior, wanted: int, current: int) -> Rules:
    return behavior.scale_up if wanted > current else behavior.scale_down


def _stabilized(behavior: Behavior, recent: Sequence[tuple[float, int]], current: int, now: float) -> int:
    """Up only as far as was wanted throughout ``scaleUp``'s window, down only as far as throughout
    ``scaleDown``'s."""
    newest = recent[-1][1]
    up_since = now - behavior.scale_up.stabilization_window_seconds
    down_since = now - behavior.scale_down.stabilization_window_seconds
    up = min([newest, *(w for t, w in recent if t > up_since)])
    down = max([newest, *(w for t, w in recent if t > down_since)])
    return up if current < up else down if current > down else current


def _allowed(
    behavior: Behavior, changes: Sequence[tuple[float, int]], wanted: int, current: int, now: float
) -> int:
    if wanted == current:
        return current
    up = wanted > current
    rules = _rules(behavior, wanted, current)
    if rules.select_policy == "Disabled":
        return current
    if not rules.policies:
        return wanted
    bounds = [_bound(p, changes, current, up, now) for p in rules.policies]
    # "Max" is the policy that allows the larger change.
    largest = (rules.select_policy == "Max") == up
    bound = max(bounds) if largest else min(bounds)
    return max(current, min(wanted, bound)) if up else min(current, max(wanted, bound))


def _bound(policy: Limit, changes: Sequence[tuple[float, int]], current: int, up: bool, now: float) -> int:
    """Replicas that one policy allows, counted from those that there were at the begin of its period."""
    since = [c for t, c in changes if t > now - policy.period_seconds]
    if up:
        start = current - sum(c for c in since if c > 0)
        if policy.type == "Pods":
            return start + policy.value
        return math.ceil(start * (1 + policy.value / 100))
    start = current - sum(c for c in since if c < 0)
    if policy.type == "Pods":
        return start - policy.value
    return int(start * (1 - policy.value / 100))
