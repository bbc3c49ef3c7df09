"""Leader election by a Lease: one replica leads, the others wait.

Own code, as the client library's election compares wall clocks, waits for requests without a limit and goes
on leading while one hangs. Here all durations are measured on the own monotonic clock, every request has a
deadline, and leading ends before another replica may begin: ``renew_seconds`` < ``lease_seconds``.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from imagefleet_operator.client import ApiError, ApiUnreachableError, KubeClient
from imagefleet_operator.kinds import LEASE
from imagefleet_operator.plan.types import Json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Which Lease, who we are, and the three durations in seconds."""

    namespace: str
    identity: str
    name: str = "imagefleet-operator"
    lease_seconds: float = 15
    """Others wait this long after the last renewal that they saw."""
    renew_seconds: float = 10
    """The leader gives up when it could not renew for this long."""
    retry_seconds: float = 2
    """Between two attempts."""

    def __post_init__(self) -> None:
        if not self.retry_seconds < self.renew_seconds < self.lease_seconds:
            raise ValueError(
                "lease durations must be retry < renew < lease, for example 2, 10 and 15 seconds, but are "
                f"{self.retry_seconds:g}, {self.renew_seconds:g} and {self.lease_seconds:g}"
            )


class Election:
    """One candidate. ``acquire`` returns when it leads; ``hold`` returns when it does so no longer."""

    def __init__(
        self, client: KubeClient, settings: LeaseSettings, clock: Callable[[], float] | None = None
    ) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock or asyncio.get_running_loop().time
        self._seen: tuple[str, str, int] | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0

    async def acquire(self) -> None:
        """Wait until we lead."""
        waiting_for = None
        while not await self._attempt(self._settings.renew_seconds):
            if self._seen and self._seen[0] != waiting_for:
                waiting_for = self._seen[0]
                logger.info("waiting: %s leads", waiting_for or "nobody")
            await asyncio.sleep(self._settings.retry_seconds)
        logger.info("leading as %s", self._settings.identity)

    async def hold(self) -> None:
        """Renew until that has failed for ``renew_seconds``, or someone else has taken the Lease."""
        while (left := self._left()) > 0:
            await asyncio.sleep(min(self._settings.retry_seconds, left))
            if not await self._attempt(self._left()) and self._taken():
                return

    def _left(self) -> float:
        """Seconds until we must have renewed. A request that takes longer comes too late to be waited for."""
        return self._renewed_at + self._settings.renew_seconds - self._clock()

    async def release(self) -> None:
        """Give the Lease up, so that another replica need not wait for its end."""
        try:
            lease = await self._read()
            if lease and _holder(lease) == self._settings.identity:
                lease["spec"].update(holderIdentity="", leaseDurationSeconds=1)
                await self._client.replace(LEASE, self._settings.namespace, self._settings.name, lease)
        except (ApiError, ApiUnreachableError) as error:
            logger.info("the lease was not released, it runs out by itself: %s", error)

    async def _attempt(self, limit: float) -> bool:
        """Take or renew the Lease within ``limit`` seconds; False where someone else has it or the API server
        does not have it so."""
        started = self._clock()
        try:
            async with asyncio.timeout(min(limit, self._settings.renew_seconds / 2)):
                taken = await self._take()
        except (ApiError, ApiUnreachableError, TimeoutError) as error:
            if not (isinstance(error, ApiError) and error.status == 409):
                logger.warning("lease %s: %s", self._settings.name, str(error) or "no answer in time")
            return False
        if taken:
            self._renewed_at = started
            self._seen = None
        return taken

    async def _read(self) -> Json | None:
        return await self._client.get(LEASE, self._settings.namespace, self._settings.name)

    async def _take(self) -> bool:
        lease = await self._read()
        namespace, name = self._settings.namespace, self._settings.name
        if lease is None:
            body = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": name, "namespace": namespace},
                "spec": self._spec(None),
            }
            await self._client.create(LEASE, namespace, body)
            return True
        self._notice(lease)
        if _holder(lease) not in ("", self._settings.identity) and not self._expired(lease):
            return False
        lease["spec"] = self._spec(lease)
        await self._client.replace(LEASE, namespace, name, lease)
        return True

    def _notice(self, lease: Json) -> None:
        """Remember when this state of the Lease was first seen: its own times are another machine's clock."""
        spec = lease.get("spec") or {}
        seen = (_holder(lease), str(spec.get("renewTime")), int(spec.get("leaseTransitions") or 0))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()

    def _expired(self, lease: Json) -> bool:
        duration = float(
            (lease.get("spec") or {}).get("leaseDurationSeconds") or self._settings.lease_seconds
        )
        return self._clock() - self._seen_at >= duration

    def _taken(self) -> bool:
        """Whether someone else was seen to hold it since we last did."""
        return self._seen is not None and self._seen[0] not in ("", self._settings.identity)

    def _spec(self, lease: Json | None) -> Json:
        old = (lease or {}).get("spec") or {}
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = lease is not None and _holder(lease) == self._settings.identity
        return {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": max(1, round(self._settings.lease_seconds)),
            "acquireTime": old.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if ours else 1),
        }


def _holder(lease: Json) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")
