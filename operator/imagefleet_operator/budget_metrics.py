"""Budgets as metrics, read from the pools' statuses whenever metrics are.

Counters begin at zero with each day (UTC), as they would with a process that starts anew.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from imagefleet_operator.plan.spend_types import HOUR
from imagefleet_operator.plan.types import Json, Parent, PoolSpec

STATES = ("Within", "Throttled", "Degraded", "Exhausted")
POOL = ("namespace", "pool")
Samples = Iterator[tuple[tuple[str, ...], float]]


def _held(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    yield (), spend["gpuHours"] * HOUR


def _busy(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    for model in spend.get("models") or ():
        yield (model["model"],), model["busyGpuHours"] * HOUR


def _cost(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    if "cost" in spend:
        yield (), spend["cost"]


def _limit(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    if "limitGpuHours" in budget:
        yield (), budget["limitGpuHours"] * HOUR


def _used(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    if budget.get("limitGpuHours"):
        yield (), spend["gpuHours"] / budget["limitGpuHours"]


def _state(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    for state in STATES:
        yield (state,), float(budget.get("state") == state)


def _ceiling(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    if "ceiling" in budget:
        yield (), float(budget["ceiling"])


def _tenants(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    limits = spec.budget.tenants if spec is not None and spec.budget is not None else {}
    for tenant in spend.get("tenants") or ():
        limit = limits.get(tenant["name"])
        if limit:
            yield (tenant["name"],), tenant["gpuHours"] * HOUR / limit


def _tenant_work(spend: Json, budget: Json, spec: PoolSpec | None) -> Samples:
    for tenant in spend.get("tenants") or ():
        yield (tenant["name"],), tenant["gpuHours"] * HOUR


Family = tuple[
    type[CounterMetricFamily | GaugeMetricFamily], str, str, tuple[str, ...], Callable[..., Samples]
]
FAMILIES: tuple[Family, ...] = (
    (
        CounterMetricFamily,
        "imagefleet_spend_held_gpu_seconds",
        "Time that a pool's pods held accelerators today, idle included.",
        (),
        _held,
    ),
    (
        CounterMetricFamily,
        "imagefleet_spend_gpu_seconds",
        "Of that, time in which an ImageModel's work was drawn.",
        ("model",),
        _busy,
    ),
    (
        CounterMetricFamily,
        "imagefleet_spend_tenant_gpu_seconds",
        "Work drawn today for a tenant's requests.",
        ("tenant",),
        _tenant_work,
    ),
    (CounterMetricFamily, "imagefleet_spend_cost", "Cost of the time held today.", (), _cost),
    (GaugeMetricFamily, "imagefleet_budget_limit_gpu_seconds", "A pool's limit for a day.", (), _limit),
    (GaugeMetricFamily, "imagefleet_budget_used_ratio", "Share of today's limit that is used up.", (), _used),
    (
        GaugeMetricFamily,
        "imagefleet_budget_tenant_used_ratio",
        "Share of a tenant's limit that is used up today.",
        ("tenant",),
        _tenants,
    ),
    (
        GaugeMetricFamily,
        "imagefleet_budget_state",
        "1 for the state that a pool's budget is in, else 0.",
        ("state",),
        _state,
    ),
    (
        GaugeMetricFamily,
        "imagefleet_budget_ceiling_replicas",
        "The most workers that the budget allows; absent while it allows all that are asked for.",
        (),
        _ceiling,
    ),
)


class BudgetMetrics(Collector):
    """``pools`` gives the pools as they are known."""

    def __init__(self, pools: Callable[[], Iterable[Parent[Any]]]) -> None:
        self._pools = pools

    def describe(self) -> list[Metric]:
        """The families, without asking the pools for anything."""
        return [kind(name, words, labels=(*POOL, *more)) for kind, name, words, more, _ in FAMILIES]

    def collect(self) -> Iterator[Metric]:
        """Of pools that have a budget and were counted."""
        counted = [pool for pool in self._pools() if pool.status.get("spend")]
        for kind, name, words, more, values in FAMILIES:
            family = kind(name, words, labels=(*POOL, *more))
            for pool in counted:
                budget = pool.status.get("budget") or {}
                for labels, value in values(pool.status["spend"], budget, pool.spec):
                    family.add_metric((pool.namespace, pool.name, *labels), value)
            yield family
