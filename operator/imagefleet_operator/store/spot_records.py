"""From ``spec.worker.spot`` to what plans are made of."""

from imagefleet_operator.api import Spot
from imagefleet_operator.plan.spot_types import SpotSpec


def spot_record(spot: Spot) -> SpotSpec:
    """Where spot nodes are, and how many workers stay off them."""
    return SpotSpec(
        node_selector=dict(spot.node_selector),
        tolerations=spot.tolerations,
        on_demand_percent=spot.on_demand_percent,
        on_demand_replicas=spot.on_demand_replicas,
        fallback_seconds=spot.fallback_seconds,
        interruption_taints=frozenset(spot.interruption_taints),
    )
