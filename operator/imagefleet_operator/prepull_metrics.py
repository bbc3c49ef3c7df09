"""How far nodes are prepared, as metrics, read from the pools' statuses whenever metrics are."""

from collections.abc import Iterable

from prometheus_client import Gauge

from imagefleet_operator.plan.types import Parent, PoolSpec

NODES = Gauge(
    "imagefleet_prepull_nodes",
    "Nodes that are to be prepared for a pool's workers, and those that are.",
    ["namespace", "pool", "state"],
)


def refresh(pools: Iterable[Parent[PoolSpec]]) -> None:
    """Bring the gauge to the statuses."""
    NODES.clear()
    for pool in pools:
        found = pool.status.get("prePull")
        if found:
            for state, field in (("wanted", "nodes"), ("ready", "ready")):
                NODES.labels(pool.namespace, pool.name, state).set(found[field])
