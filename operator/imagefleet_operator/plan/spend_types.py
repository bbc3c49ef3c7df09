"""The values that budgets are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

HOUR = 3600.0
OTHER = "other"
"""The tenant of all requests that name none of the spec's."""


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """``spec.budget``: times in GPU-seconds a day, both kinds of limits in one."""

    limit: float | None = None
    """None: only tenants have limits."""
    price: float | None = None
    """Of a GPU-hour."""
    alert_at: tuple[str, ...] = ()
    """As the spec writes them."""
    on_exhausted: str = "stop"
    reduce_at: float = 0.8
    tenants: Mapping[str, float] = field(default_factory=dict)
    """Limits by tenant."""


Work = Mapping[tuple[str, str], float]
"""GPU-seconds by ImageModel and tenant; copies that nobody waits for have an empty tenant."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one gateway's process has counted of a pool since it started."""

    drawn: Work = field(default_factory=dict)
    in_flight: Work = field(default_factory=dict)
    """Estimates of what is under way."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A pod's hold on its accelerators, in seconds since the epoch."""

    pod: str
    since: float | None = None
    """When it was scheduled; None: not yet."""
    until: float | None = None
    """When its containers had ended; None: they have not."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent of the day that began at ``start``, up to ``counted_at``. Times in GPU-seconds."""

    start: float
    counted_at: float
    seconds: float = 0.0
    """Held, idle included."""
    models: Mapping[str, float] = field(default_factory=dict)
    """Busy, by ImageModel; never more than ``seconds`` in all."""
    tenants: Mapping[str, float] = field(default_factory=dict)
    in_flight: Mapping[str, float] = field(default_factory=dict)
    """By tenant, as of now."""
    workers: Mapping[str, str] = field(default_factory=dict)
    """Pods that were there, and how far each was counted: Pending, Holding or Ended."""
    gateways: Mapping[str, Work] = field(default_factory=dict)
    """How far each gateway process's counters have been added up."""

    @property
    def busy(self) -> float:
        """Of ``seconds`` those in which work was drawn."""
        return sum(self.models.values())
