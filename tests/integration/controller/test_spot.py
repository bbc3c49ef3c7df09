"""The operator against a real API server: workers on spot nodes, on demand where these lack, and interrupted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import PATIENCE, Cluster, wait_for
from tests.cluster.outside import OutsideOperator
from tests.integration.controller.pools import await_condition, exists, image_model, pool
from tests.plugins.cluster import Kubectl

POOL = "inferencepools.imagefleet.dev"
TAINT = {"key": "kind", "value": "spot", "effect": "NoSchedule"}
SPOT: dict[str, Any] = {
    "nodeSelector": {"kind": "spot"},
    "tolerations": [{"key": "kind", "operator": "Exists"}],
    "interruptionTaints": ["example.com/going"],
    "fallbackSeconds": 2,
}
NODES = ("spot-1", "spot-2")


@pytest.fixture(scope="module")
def spot_nodes(cluster: Cluster) -> Iterator[None]:
    for name in NODES:
        cluster.add_node(name, labels={"kind": "spot"}, taints=[TAINT])
    yield
    for name in NODES:
        cluster.remove_node(name)


@pytest.fixture
def spotted(kubectl: Kubectl, operator: OutsideOperator, models: Path, spot_nodes: None) -> Kubectl:
    """A namespace with a pool of three fake workers: two on spot nodes, one on demand."""
    kubectl.apply(image_model(models))
    apply(kubectl, onDemandPercent=33)
    ready(kubectl)
    return kubectl


def apply(kubectl: Kubectl, replicas: int = 3, **spot: Any) -> None:
    kubectl.apply(pool(replicas=replicas, spot={**SPOT, **spot}))


def ready(kubectl: Kubectl) -> None:
    kubectl("wait", "--for=condition=Ready", f"{POOL}/thumbs", PATIENCE)


def workers(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The pods that the pool's scale subresource selects, those that end left out."""
    selector = kubectl.get(POOL, "thumbs")["status"]["selector"]
    found = kubectl.get("pods", "-l", selector)["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def places(kubectl: Kubectl) -> Counter[tuple[str, str]]:
    """How many ready workers there are by capacity and kind of node."""
    return Counter(
        (
            pod["metadata"]["labels"].get("imagefleet.dev/capacity", ""),
            "spot" if pod["spec"]["nodeName"] in NODES else "other",
        )
        for pod in workers(kubectl)
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    )


SHARED = Counter({("spot", "spot"): 2, ("on-demand", "other"): 1})


def test_a_pools_workers_are_shared_between_two_deployments_and_counted_together(spotted: Kubectl) -> None:
    assert places(spotted) == SHARED
    status = spotted.get(POOL, "thumbs")["status"]
    assert (status["replicas"], status["readyReplicas"]) == (3, 3)
    assert spotted.get("poddisruptionbudget", "thumbs-workers")["status"]["expectedPods"] == 3
    spotted(
        "patch", "deployment", "thumbs-workers-on-demand", "--type=merge", "-p", '{"spec":{"replicas":0}}'
    )
    wait_for(lambda: places(spotted) == SHARED)


def test_a_pool_that_has_no_spot_any_more_keeps_its_workers_on_demand_until_they_are_replaced(
    spotted: Kubectl,
) -> None:
    spotted.apply(pool(replicas=2))
    wait_for(lambda: not exists(spotted, "deployment", "thumbs-workers-on-demand"))
    assert places(spotted)["", "other"] == 2, "the others were ready before"
    wait_for(lambda: places(spotted) == Counter({("", "other"): 2}))
    ready(spotted)
    assert not [
        c for c in spotted.get(POOL, "thumbs")["status"]["conditions"] if c["type"] == "SpotAvailable"
    ]


def test_a_worker_whose_node_is_about_to_go_hands_over_and_is_replaced(
    spotted: Kubectl, cluster: Cluster
) -> None:
    goes = next(pod for pod in workers(spotted) if pod["spec"]["nodeName"] in NODES)
    name, node = goes["metadata"]["name"], goes["spec"]["nodeName"]
    cluster.kubectl("taint", "node", node, "example.com/going=:PreferNoSchedule")
    try:
        wait_for(lambda: name not in {pod["metadata"]["name"] for pod in workers(spotted)})
        told = spotted.get("events.events.k8s.io", "--field-selector=reason=SpotInterrupted")["items"]
        assert {event["regarding"]["name"] for event in told} == {"thumbs"}
        assert all("example.com/going" in event["note"] for event in told)
    finally:
        cluster.kubectl("taint", "node", node, "example.com/going-")
    wait_for(lambda: places(spotted) == SHARED)


def test_workers_on_demand_stand_in_until_there_are_spot_nodes_again(
    spotted: Kubectl, cluster: Cluster
) -> None:
    cluster.kubectl("cordon", *NODES)
    try:
        spotted("delete", "pods", "-l", "imagefleet.dev/capacity=spot", "--wait=false")
        await_condition(spotted, POOL, "thumbs", "SpotAvailable=False/OnDemandFallback")
        wait_for(lambda: places(spotted) == Counter({("on-demand", "other"): 3}))
        ready(spotted)
        status = spotted.get(POOL, "thumbs")["status"]
        assert (status["replicas"], status["readyReplicas"]) == (3, 3)
    finally:
        cluster.kubectl("uncordon", *NODES)
    wait_for(lambda: places(spotted) == SHARED)
    await_condition(spotted, POOL, "thumbs", "SpotAvailable=True/SpotAvailable")
    told = json.dumps(spotted.get("events.events.k8s.io", "--field-selector=regarding.kind=InferencePool"))
    assert '"OnDemandFallback"' in told
