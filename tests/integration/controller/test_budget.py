"""Budgets against a real API server, with real pods: what is counted, and that the Deployment obeys."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import yaml

from tests.cluster.cluster import wait_for
from tests.integration.controller.pools import await_condition, pool
from tests.plugins.cluster import Kubectl

POOLS = "inferencepools.imagefleet.dev"
QUICK: Mapping[str, Any] = {"maxRequestSeconds": 5}
"""A worker costs 110 s then until it has ended."""


def with_budget(hours: str, replicas: int = 1, worker: Mapping[str, Any] = QUICK, **fields: Any) -> str:
    made = yaml.safe_load(pool(replicas=replicas, **worker))
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
    wait_for(lambda: replicas(settled) == 0)
    wait_for(lambda: not settled.get("pods", "-l", "imagefleet.dev/pool=thumbs")["items"])
    settled.apply(with_budget("10"))
    await_condition(settled, POOLS, "thumbs", "Ready=True/Ready")
    assert replicas(settled) == 1
    assert status(settled)["budget"]["state"] == "Within"


def test_what_pods_hold_is_counted_from_their_scheduling_to_their_end(settled: Kubectl) -> None:
    settled.apply(with_budget("10", worker={}, costPerGpuHour="3600"))
    await_condition(settled, POOLS, "thumbs", "WithinBudget=True/WithinBudget")
    wait_for(lambda: [w["state"] for w in status(settled)["spend"].get("workers", ())] == ["Holding"])
    (pod,) = settled.get("pods", "-l", "imagefleet.dev/pool=thumbs")["items"]
    scheduled = next(c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    since = datetime.fromisoformat(scheduled["lastTransitionTime"]).timestamp()

    ending = time.time()
    settled.apply(with_budget("10", replicas=0, worker={}, costPerGpuHour="3600"))
    wait_for(lambda: "workers" not in status(settled)["spend"])
    gone = time.time()
    spend = status(settled)["spend"]
    held = spend["gpuHours"] * 3600
    # A pod's end is told in whole seconds, or known when the pod is gone.
    assert ending - since - 1 <= held <= gone - since
    assert spend["cost"] == round(spend["gpuHours"] * 3600, 6)
    assert datetime.fromisoformat(spend["countedAt"]).timestamp() <= gone
