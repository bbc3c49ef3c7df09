"""How a pool and its tenants stand in the pool's budget, as the operator says, and who a request's tenant is.

Pure: clock and headers are arguments.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from .schemas import Budget, Degraded, Pool, PoolStatus

Header = tuple[bytes, bytes]

WITHIN, DEGRADED, EXHAUSTED = "Within", "Degraded", "Exhausted"
_ORDER = (WITHIN, "Throttled", DEGRADED, EXHAUSTED)
OTHER = "other"
"""The tenant of requests that name none of the spec's."""
# Sides of pictures are multiples of this.
_SIDE_STEP = 8


@dataclass(frozen=True)
class BudgetView:
    """A pool's budget."""

    state: str = WITHIN
    limit_gpu_hours: float | None = None
    resets_at: float | None = None
    """Seconds since the epoch; what the operator said is of no account after that."""
    tenant_header: bytes = b""
    """In lower case; empty: there are no tenants."""
    tenants: tuple[tuple[str, str], ...] = ()
    """(name, state) of those that the spec names."""

    def tenant(self, headers: Iterable[Header]) -> str:
        """Whose request it is. A value that the spec does not name is nobody's: it is neither counted nor logged."""
        if not self.tenant_header:
            return OTHER
        value = next((value for name, value in headers if name == self.tenant_header), b"")
        named = value.decode("latin-1").strip()
        return named if any(named == name for name, _ in self.tenants) else OTHER

    def standing(self, tenant: str, now: float) -> str:
        """What a tenant's requests get: the worse of the pool's state and its own. `now` as `resets_at`."""
        if self.resets_at is not None and now >= self.resets_at:
            return WITHIN
        own = next((state for name, state in self.tenants if name == tenant), WITHIN)
        return max(self.state, own, key=_rank)


def _rank(state: str) -> int:
    return _ORDER.index(state) if state in _ORDER else 0


def read_budget(pool: Pool) -> BudgetView | None:
    """None for a pool without a budget. A tenant that the operator has not judged yet is within its limit."""
    spec, status = pool.spec.budget, pool.status or PoolStatus()
    if spec is None:
        return None
    budget, spend = status.budget or Budget(), status.spend
    states = {tenant.name: tenant.state for tenant in budget.tenants or []}
    return BudgetView(
        state=budget.state,
        limit_gpu_hours=budget.limit_gpu_hours,
        resets_at=datetime.fromisoformat(spend.resets_at).timestamp() if spend and spend.resets_at else None,
        tenant_header=(spec.tenant_header or "").lower().encode(),
        tenants=tuple((tenant.name, states.get(tenant.name, WITHIN)) for tenant in spec.tenants or []),
    )


@dataclass(frozen=True)
class Reduced:
    """What an ImageModel's pictures are reduced to while a budget asks for it. None: as they are asked for."""

    steps: int | None = None
    pixels: int | None = None

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size in the same shape, of no more pixels.

        Worked example: 512x768 with 65,536 pixels at most is 208x312 (a 256x256 holds as many): 209 x 313.5 with sides
        that are multiples of 8.
        """
        width, height = size
        if self.pixels is None or width * height <= self.pixels:
            return size
        scale = math.sqrt(self.pixels / (width * height))
        sides = (max(_SIDE_STEP, int(side * scale) // _SIDE_STEP * _SIDE_STEP) for side in size)
        return next(sides), next(sides)


def read_reduced(degraded: Degraded | None) -> Reduced | None:
    """None for an ImageModel that is never reduced."""
    if degraded is None or (degraded.steps is None and degraded.size is None):
        return None
    width, _, height = (degraded.size or "").partition("x")
    return Reduced(degraded.steps, int(width) * int(height) if degraded.size else None)
