"""A rollout on the whole fleet, on a local cluster with two gateways: how fast callers are back, how exact shares are.

The tiny models and pictures of few steps, so that what is measured is the fleet's doing and not the drawing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench._fleet import fleet
from bench.report import figure, progress
from tests.cluster.cluster import wait_for
from tests.e2e.callers import Callers
from tests.e2e.images import tiny_model, wait_ready
from tests.e2e.rollouts.pools import NAME, Json, Pool

STABLE, CANARY = "tiny-1", "tiny-2"
WEIGHTS = (5, 50)
REQUESTS = 1000
CALLERS = 8
STEPS = 1
ABORTS = 5
# What is promised: seconds from an abort to the last picture of the canary, and points of a share over 1,000 requests.
PROMISED_SECONDS = 2.0
PROMISED_POINTS = 1.0


def measured() -> None:
    """Print `switch_seconds` and `split_error`, the worst of all that was measured."""
    with _pool() as pool:
        errors = [_share_error(pool, weight) for weight in WEIGHTS]
        switches = [_switch_seconds(pool, number) for number in range(ABORTS)]
    figure("switch_seconds", max(switches), "s", PROMISED_SECONDS)
    figure("split_error", max(errors), "points", PROMISED_POINTS)


@contextmanager
def _pool() -> Iterator[Pool]:
    """One worker that serves the stable model."""
    with fleet() as (installed, kubectl):
        kubectl.apply("---\n".join(map(tiny_model, (STABLE, CANARY))))
        pool = Pool(installed, kubectl)
        pool.apply(_manifest(STABLE))
        wait_ready(kubectl, NAME)
        yield pool


def _manifest(model: str, weight: int = 0) -> Json:
    """A pool that serves `model`, or gives it so much of the requests and waits."""
    steps = [{"setWeight": weight}, {"pause": {}}] if weight else []
    analysis: Json = {"outOfMemoryRate": {}}  # nothing that ends the rollout
    return {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": 1,
            "worker": {"accelerator": {"count": 0}},
            "models": [{"name": "shapes", "model": model, "rollout": {"steps": steps, "analysis": analysis}}],
        },
    }


def _share_error(pool: Pool, weight: int) -> float:
    """Points by which the canary's share of 1,000 requests differs from its weight."""
    _begin(pool, weight)
    with _callers(pool) as load:
        load.wait_for_more(REQUESTS, seconds=300)
    served = [one.model for one in load.outcomes[:REQUESTS] if one.status == 200]
    share = served.count(CANARY) / len(served) * 100
    progress(f"weight {weight}: {share:.2f} % of {len(served)} requests")
    return abs(share - weight)


def _switch_seconds(pool: Pool, number: int) -> float:
    """From an abort's command to the last picture that a caller got of the canary."""
    _begin(pool, 50)
    with _callers(pool) as load:
        wait_for(lambda: load.served_by()[CANARY] >= CALLERS, seconds=60)
        decided = time.time()
        pool.command(f"abort shapes {number}")
        pool.wait_phase("Aborted")
        load.wait_for_more(20, sent_since=time.time() + PROMISED_SECONDS)
    last = max(one.at for one in load.outcomes if one.model == CANARY)
    progress(f"abort {number + 1}: the last picture of the canary after {last - decided:.2f} s")
    return last - decided


def _begin(pool: Pool, weight: int) -> None:
    pool.apply(_manifest(STABLE))
    pool.wait_served(STABLE)
    pool.apply(_manifest(CANARY, weight))
    pool.wait_phase("Paused")


def _callers(pool: Pool) -> Callers:
    return Callers(pool.fleet.gateways(), pool.route, callers=CALLERS, steps=STEPS)
