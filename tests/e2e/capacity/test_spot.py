"""Pictures that nobody waits for, on spot nodes that are taken away."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from tests.cluster.cluster import REPOSITORY, Cluster, wait_for
from tests.e2e.capacity.pools import Json, Pool
from tests.e2e.images import draw
from tests.e2e.rollouts.pools import shapes_model
from tests.pictures import same

LABEL = "karpenter.sh/capacity-type"
NODES = ("spot-1", "spot-2")
LONG: Json = {"seed": 11, "num_inference_steps": 200}
MODEL = "shapes-long"
RUNNING = re.compile(r'^imagefleet_worker_running\{.*priority="batch".*\} ([0-9.]+)$', re.MULTILINE)


@pytest.fixture(scope="module")
def spot_nodes(cluster: Cluster) -> Iterator[None]:
    for name in NODES:
        taint = {"key": LABEL, "value": "spot", "effect": "NoSchedule"}
        cluster.add_node(name, labels={LABEL: "spot"}, taints=[taint])
    yield
    for name in NODES:
        cluster.remove_node(name)


@pytest.fixture(scope="module")
def overnight(pictures: Pool, spot_nodes: None) -> Pool:
    """The pool of the example with two workers, both on spot nodes, that hold a model of long requests."""
    manifest = yaml.safe_load((REPOSITORY / "examples" / "spot" / "2-pool.yaml").read_text())
    spot = manifest["spec"]["worker"]["spot"] | {"onDemandPercent": 0, "fallbackSeconds": 3}
    worker = {"accelerator": {"count": 0}, "spot": spot}
    pictures.kubectl.apply(json.dumps(shapes_model(MODEL, "shapes-1", limits={"maxSteps": 200})))
    entry = {"name": "shapes", "model": MODEL, "minResident": 2}
    pictures.apply("spot", replicas=2, worker=worker, models=[entry])
    settled(pictures)
    return pictures


def settled(pool: Pool) -> None:
    """Until two workers hold the model, none of them about to end, and all requests go there."""
    pool.wait(lambda: pool.condition("Ready") == ("True", "Ready") and pool.serving() == 2, seconds=300)
    to_it = [{"model": MODEL, "percent": 100}]
    pool.wait(lambda: [entry["traffic"] for entry in pool.status().get("models", ())] == [to_it])


def nodes(pool: Pool) -> set[str]:
    return {pod["spec"].get("nodeName", "") for pod in pool.pods()}


def busy(pool: Pool) -> Json | None:
    """The worker that draws the batch request."""
    return next((pod for pod in pool.pods() if running(pod["status"].get("podIP", ""))), None)


def running(ip: str) -> bool:
    """Whether a worker draws, by its metrics."""
    try:
        with urllib.request.urlopen(f"http://{ip}:8000/metrics", timeout=5) as answer:
            return any(float(count) for count in RUNNING.findall(answer.read().decode()))
    except OSError:
        return False


def taint(pool: Pool, pod: Json) -> None:
    """The node of a worker is about to go."""
    pool.fleet.cluster.kubectl("taint", "node", pod["spec"]["nodeName"], "karpenter.sh/disrupted=:NoSchedule")


def untaint(cluster: Cluster) -> None:
    """All spot nodes stay."""
    for node in cluster.get("nodes", "-l", f"{LABEL}=spot")["items"]:
        if any(taint["key"] == "karpenter.sh/disrupted" for taint in node["spec"].get("taints", ())):
            cluster.kubectl("taint", "node", node["metadata"]["name"], "karpenter.sh/disrupted-")


def delete(pool: Pool, pod: Json) -> None:
    """Its kubelet sends SIGTERM, as when the node shuts down."""
    pool.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")


@pytest.mark.parametrize("interrupt", [taint, delete])
def test_what_an_interrupted_worker_draws_comes_from_another_one_and_is_the_same_picture(
    interrupt: Callable[[Pool, Json], None], overnight: Pool
) -> None:
    settled(overnight)
    assert nodes(overnight) <= set(NODES)
    gateway, route = overnight.fleet.gateways()[0], f"{overnight.kubectl.namespace}/shapes"
    undisturbed, before = draw(gateway, route, **LONG), resumed(gateway)
    with ThreadPoolExecutor(1) as callers:
        picture = callers.submit(draw, gateway, route, **LONG)
        try:
            pod = wait_for(lambda: busy(overnight))
            assert pod is not None
            interrupt(overnight, pod)
            assert same(picture.result(120), undisturbed)
        finally:
            untaint(overnight.fleet.cluster)
    assert resumed(gateway) == before + 1, "it went on where it was left off"


def resumed(gateway: str) -> float:
    """Requests that went on where an interrupted worker had left off."""
    with urllib.request.urlopen(f"{gateway}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith("imagefleet_gateway_resumed_total{")
    )


def test_workers_on_demand_draw_while_there_are_no_spot_nodes(overnight: Pool) -> None:
    settled(overnight)
    overnight.fleet.cluster.kubectl("cordon", *NODES)
    try:
        overnight.kubectl("delete", "pods", "-l", "imagefleet.dev/capacity=spot", "--wait=false")
        overnight.wait(lambda: overnight.condition("SpotAvailable") == ("False", "OnDemandFallback"))
        settled(overnight)
        draw(overnight.fleet.gateways()[0], f"{overnight.kubectl.namespace}/shapes")
    finally:
        overnight.fleet.cluster.kubectl("uncordon", *NODES)
    assert {"SpotInterrupted", "OnDemandFallback"} <= overnight.events()
