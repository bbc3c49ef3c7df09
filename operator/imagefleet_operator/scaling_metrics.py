"""The numbers of workers and what they follow from as metrics, read from statuses and from what gateways say whenever
metrics are."""

from collections.abc import Callable, Iterable

from prometheus_client import Gauge

from imagefleet_operator.plan.capacity_types import Load
from imagefleet_operator.plan.types import Parent, PoolSpec

POOL = ["namespace", "pool"]

DESIRED = Gauge("imagefleet_scaling_desired_replicas", "Workers that should take requests.", POOL)
REPLICAS = Gauge("imagefleet_scaling_replicas", "Workers by what they are there for.", [*POOL, "role"])
HELD = Gauge("imagefleet_scaling_held_work_seconds", "GPU-seconds that wait at gateways.", POOL)
START = Gauge("imagefleet_scaling_start_seconds", "Seconds from a pod's creation until it is ready.", POOL)
ROLES = ("active", "warm", "leaving")


def refresh(pools: Iterable[Parent[PoolSpec]], load: Callable[[str, str], Load]) -> None:
    """Bring all metrics up to date; what is of no pool any more is dropped. ``load`` is asked for that of a pool."""
    for gauge in (DESIRED, REPLICAS, HELD, START):
        gauge.clear()
    for pool in pools:
        scaling, where = pool.status.get("scaling"), (pool.namespace, pool.name)
        if not scaling:
            continue
        DESIRED.labels(*where).set(scaling["desiredReplicas"])
        for role in ROLES:
            REPLICAS.labels(*where, role).set(scaling.get(role, 0))
        if "startSeconds" in scaling:
            START.labels(*where).set(scaling["startSeconds"])
        told = load(*where)
        if told.age is not None:
            HELD.labels(*where).set(told.sum.held_seconds)
