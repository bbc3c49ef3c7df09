"""What follows from a pool's budget: how many workers there may be, what gateways are told, and what people are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from imagefleet_operator.plan.ceiling import PAUSE_SECONDS, REACT_SECONDS, Fleet, ceiling, safe_seconds
from imagefleet_operator.plan.cluster_types import Pod
from imagefleet_operator.plan.conditions import Verdict, timestamp
from imagefleet_operator.plan.spend import DAY, PENDING, count, read_spend, spend_status
from imagefleet_operator.plan.spend_types import HOUR, BudgetSpec, Hold, Spend
from imagefleet_operator.plan.types import Json, PoolObserved, PoolSpec, grace_seconds

WITHIN, THROTTLED, DEGRADED, EXHAUSTED = "Within", "Throttled", "Degraded", "Exhausted"
REASONS = {WITHIN: "WithinBudget", THROTTLED: "BudgetThrottled", DEGRADED: "BudgetDegraded"}
LOOK_FIRST, LOOK_LAST = 1.0, 30.0
"""Seconds between two passes: the first where workers are about to go, the last where they can all stay for long."""
LOOKS = 4
"""In the time that the workers there are can all stay."""
LIMIT_DIGITS = 9


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """How a pool stands in its budget."""

    budget: BudgetSpec
    spend: Spend
    state: str
    ceiling: int | None
    replicas: int
    """Those that are asked for, at most ``ceiling``."""
    asked: int
    message: str
    again: float
    """Seconds after which to look again."""

    @property
    def binding(self) -> bool:
        """Whether there are fewer workers than asked for."""
        return self.replicas < self.asked

    @property
    def tenants(self) -> Mapping[str, str]:
        """The state of each."""
        return {name: _tenant(self.budget, self.spend, name) for name in self.budget.tenants}

    @property
    def verdict(self) -> Verdict:
        """The ``WithinBudget`` condition."""
        reason = REASONS.get(self.state, "BudgetExhausted")
        return Verdict(self.state == WITHIN, reason, self.message)

    @property
    def status(self) -> Json:
        """``status.budget`` and ``status.spend``."""
        limit = self.budget.limit
        shown = self.ceiling if self.binding or self.state == EXHAUSTED else None
        parts: Json = {
            "ceiling": shown,
            "limitGpuHours": None if limit is None else _limit_hours(limit),
            "alerts": self._alerts() or None,
            "tenants": [{"name": n, "state": s} for n, s in sorted(self.tenants.items())] or None,
        }
        given = {key: part for key, part in parts.items() if part is not None}
        return {
            "budget": {"state": self.state, "message": self.message, **given},
            "spend": spend_status(self.spend, self.budget),
        }

    def _alerts(self) -> list[str]:
        """Of a budget that is used up all were reached: its last part is kept for what workers cost while they end."""
        used = _used(self.budget, self.spend)
        return sorted(a for a in self.budget.alert_at if self.state == EXHAUSTED or used >= float(a))


def asked(observed: PoolObserved) -> int:
    """How many workers are wanted, were it not for the budget: those that wait warm or leave included."""
    spec = observed.pool.spec
    if observed.replicas is not None or spec is None:
        return observed.replicas or 0
    return spec.replicas


def plan_budget(observed: PoolObserved, now: float) -> BudgetPlan | None:
    """How a pool stands; None where it has no budget."""
    spec = observed.pool.spec
    if spec is None or spec.budget is None:
        return None
    wanted = asked(observed)
    budget, old = spec.budget, read_spend(observed.pool.status)
    pods = [worker.pod for worker in observed.workers]
    units = max(1, spec.accelerator_count)
    spend = count(old, [_hold(pod) for pod in pods], units, observed.counts, now)
    fleet = _fleet(observed, spec, _ceiling_before(observed.pool.status, budget, spend), now)
    most = ceiling(budget, spend, fleet, now)
    replicas = wanted if most is None else min(wanted, most)
    state = _state(budget, spend, most, wanted)
    made = BudgetPlan(
        budget, spend, state, most, replicas, wanted, "", _look_again(budget, spend, fleet, now)
    )
    return replace(made, message=_message(made, fleet, spec.accelerator_count))


def unrecorded(observed: PoolObserved) -> bool:
    """Whether a pod is not in the status yet, or not as one that holds an accelerator.

    It is to be written there before anything ends that pod: an operator that starts in between would never know of it.
    """
    spec, known = observed.pool.spec, read_spend(observed.pool.status)
    if spec is None or spec.budget is None:
        return False
    recorded = known.workers if known is not None else {}
    states = ((worker.pod, recorded.get(worker.pod.name)) for worker in observed.workers)
    return any(state is None or (state == PENDING and pod.scheduled_at) for pod, state in states)


def within_budget(spec: PoolSpec, plan: BudgetPlan | None) -> PoolSpec:
    """The spec as the budget lets it be: fewer replicas, and models on no more than these. Warm workers and those that
    leave go first."""
    if plan is None or plan.replicas >= spec.replicas:
        return spec
    most = plan.replicas
    models = tuple(replace(entry, min_resident=min(entry.min_resident, most)) for entry in spec.models)
    return replace(spec, replicas=most, models=models if most else spec.models, shortened=plan.message)


def _hold(pod: Pod) -> Hold:
    return Hold(pod.name, pod.scheduled_at or None, pod.ended_at or None)


def _fleet(observed: PoolObserved, spec: PoolSpec, before: int | None, now: float) -> Fleet:
    """Workers beyond what was asked for last are on their way out, whether or not we have been told, and as many may
    come in their place. So may they for workers that are to be replaced."""
    grace = float(grace_seconds(spec.max_request_seconds))
    pods = [worker.pod for worker in observed.workers if not worker.pod.ended_at]
    there = sum(not pod.deleting for pod in pods)
    state = observed.deployment
    asked, replaced = (there, 0) if state is None else (state.desired, max(0, state.replicas - state.updated))
    leaving = [pod.deletion_at + REACT_SECONDS for pod in pods if pod.deleting]
    ending = now + grace + REACT_SECONDS
    return Fleet(
        units=max(1, spec.accelerator_count),
        grace=grace,
        staying=asked,
        leaving=(*leaving, *[ending] * max(0, there - asked), *[ending + PAUSE_SECONDS] * replaced),
        ceiling=before,
        overlap=2 if spec.spot else 1,
    )


def _ceiling_before(status: Json, budget: BudgetSpec, spend: Spend) -> int | None:
    """The ceiling that has been in force today, under the limit as it is now."""
    old, day = status.get("budget") or {}, (status.get("spend") or {}).get("resetsAt")
    if budget.limit is None or day != timestamp(spend.start + DAY):
        return None
    if old.get("limitGpuHours") != _limit_hours(budget.limit):
        return None
    found: int | None = old.get("ceiling")
    return found


def _state(budget: BudgetSpec, spend: Spend, most: int | None, asked: int) -> str:
    if most is None:
        return WITHIN
    if most == 0:
        return EXHAUSTED
    reduced = _used(budget, spend) >= budget.reduce_at
    if reduced and budget.on_exhausted == "degrade":
        return DEGRADED
    paced = reduced and budget.on_exhausted == "throttle"
    return THROTTLED if paced or most < asked else WITHIN


def _tenant(budget: BudgetSpec, spend: Spend, name: str) -> str:
    """What is under way counts as spent, or a tenant could ask for any amount before the first reply."""
    used = spend.tenants.get(name, 0.0) + spend.in_flight.get(name, 0.0)
    limit = budget.tenants[name]
    if used >= limit:
        return EXHAUSTED
    degraded = budget.on_exhausted == "degrade" and used >= budget.reduce_at * limit
    return DEGRADED if degraded else WITHIN


def _used(budget: BudgetSpec, spend: Spend) -> float:
    """The share of the limit that is used up."""
    return 0.0 if budget.limit is None else spend.seconds / budget.limit


def _limit_hours(limit: float) -> float:
    return round(limit / HOUR, LIMIT_DIGITS)


def _look_again(budget: BudgetSpec, spend: Spend, fleet: Fleet, now: float) -> float:
    """Far less than the operator may be away, often near the limit, and at midnight."""
    safe = safe_seconds(budget, spend, fleet) / LOOKS
    soon = LOOK_LAST if safe == inf else min(LOOK_LAST, max(LOOK_FIRST, safe))
    return min(soon, max(LOOK_FIRST, spend.start + DAY - now))


def _message(plan: BudgetPlan, fleet: Fleet, accelerators: int) -> str:
    limit = plan.budget.limit
    if limit is None:
        return "Only tenants have limits."
    unit = "GPU-hours" if accelerators else "worker-hours"
    resets = timestamp(plan.spend.start + DAY)
    used = f"{int(100 * _used(plan.budget, plan.spend))} % of {limit / HOUR:g} {unit} a day are used up"
    if plan.state == EXHAUSTED:
        return _exhausted(f"{used}", limit, fleet, resets)
    if plan.binding:
        return f"{used}: {plan.replicas} workers instead of {plan.asked}, at most, until {resets}."
    if plan.state == DEGRADED:
        return f"{used}: pictures are reduced to what their models' degraded says, until {resets}."
    return f"{used}; the day ends at {resets}."


def _exhausted(used: str, limit: float, fleet: Fleet, resets: str) -> str:
    least = (fleet.ending + PAUSE_SECONDS) * fleet.units
    if limit < least:
        return (
            f"A single worker costs up to {least / HOUR:.3g} hours until it has ended, more than the limit: raise "
            "gpuHoursPerDay or costPerDay, or lower worker.maxRequestSeconds."
        )
    return f"{used}, and what is left is kept for what workers cost while they end: no worker until {resets}."
