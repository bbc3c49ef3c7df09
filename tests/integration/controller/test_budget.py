"""Budgets against a real API server, with real pods."""

from __future__ import annotations

from typing import Any

import yaml

from tests.cluster.cluster import wait_for
from tests.integration.controller.pools import await_condition, pool
from tests.plugins.cluster import Kubectl

POOLS = "inferencepools.imagefleet.dev"
SHORT = 5
"""Of maxRequestSeconds: a worker costs 110 s then until it has ended."""


def with_budget(hours: str, replicas: int = 1, **fields: Any) -> str:
    made = yaml.safe_load(pool(replicas=replicas, maxRequestSeconds=SHORT))
    made["spec"]["budget"] = {"gpuHoursPerDay": hours, **fields}
    return yaml.safe_dump(made)


def status(kubectl: Kubectl) -> dict[str, Any]:
    return dict(kubectl.get(POOLS, "thumbs")["status"])


def replicas(kubectl: Kubectl) -> int:
    return int(kubectl.get("deployment", "thumbs-workers")["spec"]["replicas"])


def test_a_pool_whose_limit_pays_for_no_worker_has_none_until_it_is_raised(settled: Kubectl) -> None:
    settled.apply(with_budget("0.01"))
    ready = await_condition(settled, POOLS, "thumbs", "Ready=False/BudgetExhausted")
    assert "costs up to 0.0306 hours until it has ended" in ready["message"]
    wait_for(lambda: replicas(settled) == 0, seconds=30)
    wait_for(lambda: not settled.get("pods", "-l", "imagefleet.dev/pool=thumbs")["items"], seconds=60)
    settled.apply(with_budget("10"))
    await_condition(settled, POOLS, "thumbs", "Ready=True/Ready")
    assert replicas(settled) == 1
    assert status(settled)["budget"]["state"] == "Within"
