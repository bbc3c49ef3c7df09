"""What a pool's ``spec.worker.spot`` says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SPOT, ON_DEMAND = "spot", "on-demand"
"""Values of the label ``imagefleet.dev/capacity``."""


@dataclass(frozen=True, slots=True)
class SpotSpec:
    """Where spot nodes are, and how many workers stay off them."""

    node_selector: Mapping[str, str]
    tolerations: tuple[dict[str, Any], ...] = ()
    on_demand_percent: int | None = None
    on_demand_replicas: int | None = None
    """At most one of the two is set; neither: no worker stays off."""
    fallback_seconds: float = 60.0
    """A spot worker without a node for so long is stood in for."""
    interruption_taints: frozenset[str] = field(default_factory=frozenset)
    """Keys."""
