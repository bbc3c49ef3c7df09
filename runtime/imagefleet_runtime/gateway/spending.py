"""Who had how much drawn in pools that have a budget: counters since the gateway started, for the operator."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .quota import Header
from .resources import PoolView
from .snapshot import Share

Spender = tuple[str, str, str, str]
"""Namespace, pool, ImageModel and tenant."""
NOBODY = ""
"""The tenant of copies that nobody waits for."""


class Account:
    """What one tenant had drawn by one ImageModel of a pool."""

    __slots__ = ("in_flight", "requests", "work_seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.work_seconds = 0.0
        """Seconds of the device, as the workers say, as estimated where they do not."""
        self.in_flight = 0.0
        """Estimated seconds of what is on workers now."""

    def begin(self, estimate: float) -> None:
        """A request was sent to a worker."""
        self.requests += 1
        self.in_flight += estimate

    def end(self, estimate: float, drawn: float) -> None:
        """It came back."""
        self.in_flight = max(0.0, self.in_flight - estimate)
        self.work_seconds += drawn


class Spending:
    """Nothing is counted for a pool without a budget, and only names of its spec have accounts."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self.started = f"{wall():.3f}"
        """Tells this process from the one before it in the same pod."""
        self._accounts: dict[Spender, Account] = {}

    def of(self, share: Share, headers: Sequence[Header]) -> Account | None:
        """The account of a caller's request; None where the pool has no budget."""
        return None if share.budget is None else self._account(share, share.budget.tenant(headers))

    def of_copy(self, share: Share) -> Account | None:
        """The account of a copy that nobody waits for."""
        return None if share.budget is None else self._account(share, NOBODY)

    def _account(self, share: Share, tenant: str) -> Account:
        spender = (*share.key, tenant)
        account = self._accounts.get(spender)
        if account is None:
            account = self._accounts[spender] = Account()
        return account

    def keep(self, pools: Iterable[PoolView]) -> None:
        """Forget pools that have gone or have no budget any more."""
        kept = {(pool.namespace, pool.name) for pool in pools if pool.budget is not None}
        for spender in [spender for spender in self._accounts if spender[:2] not in kept]:
            del self._accounts[spender]

    def report(self) -> list[dict[str, Any]]:
        """`tenants` of `GET /v1/gateway`."""
        return [
            {
                "namespace": namespace,
                "pool": pool,
                "model": model,
                "tenant": tenant,
                "workSeconds": account.work_seconds,
                "inFlightSeconds": account.in_flight,
                "requests": account.requests,
            }
            for (namespace, pool, model, tenant), account in self._accounts.items()
        ]
