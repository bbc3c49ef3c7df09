"""Leader election against a Lease in memory, under clocks that the test owns."""

import asyncio
import copy
from typing import Any

import pytest
from imagefleet_operator.client import ApiError, ApiUnreachableError, KubeClient
from imagefleet_operator.election import Election, LeaseSettings
from imagefleet_operator.kinds import Kind


class Leases(KubeClient):
    """An API server with one Lease; ``broken`` makes every call fail."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken: Exception | None = None

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        self._check()
        return copy.deepcopy(self.lease)

    async def create(self, kind: Kind, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        self._check()
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists", "there is one")
        return self._store(body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self._check()
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ApiError(409, "Conflict", "changed meanwhile")
        return self._store(body)

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return self.lease

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


class Time:
    """Time that only sleeping moves: whoever sleeps longest ago wakes first, as on one machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self._real_sleep = asyncio.sleep
        monkeypatch.setattr("imagefleet_operator.election.asyncio.sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await self._real_sleep(0)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def candidate(leases: Leases, name: str, clock: Time) -> Election:
    return Election(leases, LeaseSettings("ns", name), clock)


async def test_the_first_leads_and_the_second_waits_until_the_lease_has_run_out(clock: Time) -> None:
    leases = Leases()
    await candidate(leases, "a", clock).acquire()
    assert leases.holder == "a"
    began = clock.now
    await candidate(leases, "b", clock).acquire()
    assert leases.holder == "b"
    assert clock.now - began >= 15
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 2


async def test_a_lease_that_is_renewed_is_not_taken(clock: Time) -> None:
    leases = Leases()
    leader, follower = candidate(leases, "a", clock), candidate(leases, "b", clock)
    await leader.acquire()
    holding, waiting = asyncio.create_task(leader.hold()), asyncio.create_task(follower.acquire())
    for _ in range(200):
        await asyncio.wait([holding], timeout=0)
    assert leases.holder == "a"
    assert not waiting.done()
    holding.cancel()
    waiting.cancel()


async def test_a_released_lease_is_taken_at_once(clock: Time) -> None:
    leases = Leases()
    leader = candidate(leases, "a", clock)
    await leader.acquire()
    await leader.release()
    began = clock.now
    await candidate(leases, "b", clock).acquire()
    assert (leases.holder, clock.now) == ("b", began)


async def test_the_same_identity_leads_again_without_waiting(clock: Time) -> None:
    leases = Leases()
    await candidate(leases, "a", clock).acquire()
    began = clock.now
    await candidate(leases, "a", clock).acquire()
    assert clock.now == began


@pytest.mark.parametrize(
    "broken",
    [ApiUnreachableError("down"), ApiError(500, "", "etcd"), TimeoutError()],
    ids=["down", "error", "slow"],
)
async def test_a_leader_that_cannot_renew_ends_before_another_may_begin(
    broken: Exception, clock: Time
) -> None:
    leases = Leases()
    leader = candidate(leases, "a", clock)
    await leader.acquire()
    began = clock.now
    leases.broken = broken
    await leader.hold()
    assert 10 <= clock.now - began < 15


async def test_no_request_outlasts_the_time_in_which_to_renew(
    clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[float] = []

    def timeout(seconds: float) -> asyncio.Timeout:
        ends.append(clock.now + seconds)
        return asyncio.timeouts.timeout(None)

    leases = Leases()
    leader = candidate(leases, "a", clock)
    await leader.acquire()
    began = clock.now
    leases.broken = ApiUnreachableError("down")
    monkeypatch.setattr("imagefleet_operator.election.asyncio.timeout", timeout)
    await leader.hold()
    assert max(ends) <= began + 10


async def test_a_leader_whose_lease_was_taken_ends_at_once(clock: Time) -> None:
    leases = Leases()
    leader = candidate(leases, "a", clock)
    await leader.acquire()
    assert leases.lease is not None
    leases.lease["spec"]["holderIdentity"] = "b"
    began = clock.now
    await leader.hold()
    assert clock.now - began == 2


async def test_of_two_that_see_it_free_one_gets_it(clock: Time) -> None:
    leases = Leases()
    one, other = candidate(leases, "a", clock), candidate(leases, "b", clock)
    first = asyncio.create_task(one.acquire())
    second = asyncio.create_task(other.acquire())
    done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    second.cancel()


def test_durations_that_would_let_two_lead_are_refused() -> None:
    with pytest.raises(ValueError, match="retry < renew < lease"):
        LeaseSettings("ns", "a", lease_seconds=10, renew_seconds=10)
