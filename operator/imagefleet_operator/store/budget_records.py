"""From ``spec.budget`` to the values of plans: both kinds of limits become GPU-seconds a day."""

from sys import intern

from imagefleet_operator import api
from imagefleet_operator.plan.spend_types import HOUR, BudgetSpec


def budget_record(budget: api.Budget | None) -> BudgetSpec | None:
    """``spec.budget``; None where there is none.

    Worked example: 100 hours, and 200 a day at 2.50 an hour, are 80 hours: 288,000 s.
    """
    if budget is None:
        return None
    price = None if budget.cost_per_gpu_hour is None else float(budget.cost_per_gpu_hour)
    tenants = {
        intern(tenant.name): _limit(tenant.gpu_hours_per_day, tenant.cost_per_day, price)
        for tenant in budget.tenants
    }
    return BudgetSpec(
        limit=_limit(budget.gpu_hours_per_day, budget.cost_per_day, price),
        price=price,
        alert_at=budget.alert_at,
        on_exhausted=budget.on_exhausted,
        reduce_at=float(budget.reduce_at),
        tenants={name: limit for name, limit in tenants.items() if limit is not None},
    )


def _limit(hours: str | None, cost: str | None, price: float | None) -> float | None:
    limits = [] if hours is None else [float(hours) * HOUR]
    if cost is not None and price is not None:
        limits.append(float(cost) / price * HOUR)
    return min(limits, default=None)
