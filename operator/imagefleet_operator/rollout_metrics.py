"""Rollouts, suspensions and error budgets as metrics, read from the pools' statuses whenever metrics are."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import Counter, Gauge

from imagefleet_operator.plan.types import Json, Name, Parent, PoolSpec

PHASES = ("Preparing", "Paused", "Analyzing", "Promoting", "Aborted")
ENTRY = ["namespace", "pool", "name"]

WEIGHT = Gauge(
    "imagefleet_rollout_weight_percent",
    "Share of the requests that a model of a pool's entry gets.",
    [*ENTRY, "model"],
)
PHASE = Gauge(
    "imagefleet_rollout_phase", "1 for the phase that an entry's rollout is in, else 0.", [*ENTRY, "phase"]
)
ROLLOUTS = Counter(
    "imagefleet_rollouts_total", "Rollouts that ended since we lead.", ["namespace", "pool", "verdict"]
)
SUSPENDED = Gauge(
    "imagefleet_suspended", "1 while a model of a pool's entry is suspended.", [*ENTRY, "model"]
)
BURN_RATE = Gauge(
    "imagefleet_error_budget_burn_rate",
    "How fast callers of an entry use up its error budget; 1 uses it up exactly.",
    [*ENTRY, "window"],
)
GAUGES = (WEIGHT, PHASE, SUSPENDED, BURN_RATE)


class RolloutMetrics:
    """What the statuses say. Rollouts are counted when they come to a history that is known: what it held when it was
    first seen has been counted by those who led before."""

    def __init__(self) -> None:
        self._known: dict[Name, frozenset[tuple[Any, ...]]] = {}

    def refresh(self, pools: Iterable[Parent[PoolSpec]]) -> None:
        """Bring all metrics to the statuses; what is of no pool any more is dropped."""
        for gauge in GAUGES:
            gauge.clear()
        known = {}
        for pool in pools:
            _set_gauges(pool)
            name = (pool.namespace, pool.name)
            known[name] = frozenset(_ended(pool.status))
            for ended in known[name] - self._known.get(name, known[name]):
                ROLLOUTS.labels(pool.namespace, pool.name, ended[0]).inc()
        for namespace, gone in self._known.keys() - known.keys():
            ROLLOUTS.remove_by_labels({"namespace": namespace, "pool": gone})
        self._known = known


def _set_gauges(pool: Parent[PoolSpec]) -> None:
    where = (pool.namespace, pool.name)
    for entry in pool.status.get("models") or ():
        _set_entry((*where, entry["name"]), entry)
    for suspended in pool.status.get("suspensions") or ():
        if "until" not in suspended:
            SUSPENDED.labels(*where, suspended["name"], suspended["model"]).set(1)


def _set_entry(where: tuple[str, str, str], entry: Json) -> None:
    for share in entry.get("traffic") or ():
        WEIGHT.labels(*where, share["model"]).set(share["percent"])
    if entry.get("rollout"):
        for phase in PHASES:
            PHASE.labels(*where, phase).set(entry["rollout"].get("phase") == phase)
    for window, rate in _burn_rates(entry.get("budget") or {}):
        BURN_RATE.labels(*where, window).set(rate)


def _burn_rates(budget: Json) -> Iterator[tuple[str, float]]:
    for window, field in (("short", "shortBurnRate"), ("long", "longBurnRate")):
        if field in budget:
            yield window, budget[field]


def _ended(status: Json) -> Iterator[tuple[Any, ...]]:
    """Each rollout of the history, its verdict first."""
    for entry in status.get("history") or ():
        yield tuple(entry.get(key) for key in ("verdict", "name", "from", "to", "startedAt", "endedAt"))
