"""No workers while nobody asks, and back with the first request."""

from __future__ import annotations

from tests.e2e.capacity.pools import Pool

SOON = {"scaleDown": {"stabilizationWindowSeconds": 2}}


def test_a_burst_to_a_pool_without_workers_is_answered_and_the_workers_go_again(pictures: Pool) -> None:
    scaling = {"minReplicas": 0, "maxReplicas": 2, "zeroAfterSeconds": 3, "behavior": SOON}
    pictures.apply("scale-to-zero", scaling=scaling)
    pictures.wait(lambda: pictures.condition("Ready") == ("True", "ScaledToZero"))
    assert pictures.pods() == []

    with pictures.callers(4) as callers:
        callers.wait_for_more(8)
    assert callers.failed == {}, "nobody is sent away while a worker starts"
    assert 1 <= len(pictures.pods()) <= 2
    pictures.wait(lambda: pictures.scaling().get("startSeconds"))

    pictures.wait(lambda: pictures.condition("Ready") == ("True", "ScaledToZero"))
    pictures.wait(lambda: pictures.pods() == [])
    reasons = [decision["reason"] for decision in pictures.scaling()["decisions"]]
    assert reasons[-1] == "Unused"
    assert reasons[0] in ("Demand", "Backlog")
