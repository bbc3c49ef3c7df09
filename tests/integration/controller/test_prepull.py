"""The operator against a real API server: nodes have models before workers come."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import yaml

from tests.cluster.cluster import PATIENCE, wait_for
from tests.cluster.outside import OutsideOperator
from tests.integration.controller.pools import await_condition, exists, manifest, pool
from tests.plugins.cluster import Kubectl
from tests.servers.hub import Hub, files_of

POOL = "inferencepools.imagefleet.dev"


def preparing(*, wanted: bool = True, replicas: int = 0) -> str:
    found = yaml.safe_load(pool(replicas=replicas))
    found["spec"]["prePull"] = wanted
    return yaml.safe_dump(found)


def on_the_hub(hub: Hub) -> str:
    """The model, and the Secret that says where the hub is."""
    keys = {"token": "of-the-tests", "endpoint": hub.endpoint}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "data": data}
    source = {"uri": hub.uri, "secretRef": {"name": "hub"}}
    return yaml.safe_dump(secret) + "---\n" + manifest("ImageModel", "shapes", {"source": source})


def verified(kubectl: Kubectl, hub: Hub) -> None:
    """The model is there, and its verification has fetched its files."""
    kubectl.apply(on_the_hub(hub))
    kubectl("wait", "--for=condition=Ready", "imagemodels.imagefleet.dev/shapes", PATIENCE)


def weights(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*.safetensors") if path.stat().st_size]


def empty(cache: Path) -> None:
    """Take away what the verification has fetched."""
    for part in cache.iterdir():
        shutil.rmtree(part) if part.is_dir() else part.unlink()


def test_a_node_has_a_models_files_before_the_first_worker_comes(
    kubectl: Kubectl, operator: OutsideOperator, models: Path, cache: Path
) -> None:
    hub = Hub(files_of(models / "shapes"), token="of-the-tests")
    with hub.running():
        verified(kubectl, hub)
        empty(cache)
        kubectl.apply(preparing())
        told = await_condition(kubectl, POOL, "thumbs", "PrePulled=True/PrePulled")
    assert told["message"] == "1 of 1 nodes have the workers' image and 1 models."
    assert weights(cache)
    status = kubectl.get(POOL, "thumbs")["status"]
    assert (status["prePull"], status["replicas"]) == ({"nodes": 1, "ready": 1}, 0)
    kubectl.apply(preparing(wanted=False))
    wait_for(lambda: not exists(kubectl, "daemonset", "thumbs-prepull"))
    wait_for(lambda: "prePull" not in kubectl.get(POOL, "thumbs")["status"])


def test_a_model_that_cannot_be_fetched_is_tried_again_and_told_of(
    kubectl: Kubectl, operator: OutsideOperator, models: Path, cache: Path
) -> None:
    hub = Hub(files_of(models / "shapes"), token="of-the-tests")
    with hub.running():
        verified(kubectl, hub)
    empty(cache)
    kubectl.apply(preparing())
    await_condition(kubectl, POOL, "thumbs", "PrePulled=False/PrePulling")

    def restarts() -> int:
        found = kubectl.get("pods", "-l", "app.kubernetes.io/name=imagefleet-prepull")["items"]
        statuses = (s for pod in found for s in pod["status"].get("initContainerStatuses", ()))
        return max((s["restartCount"] for s in statuses), default=0)

    wait_for(lambda: restarts() >= 1)
    assert kubectl.get(POOL, "thumbs")["status"]["prePull"] == {"nodes": 1, "ready": 0}
