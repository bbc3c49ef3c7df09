"""Models come, go and change in a pool that keeps its workers."""

from __future__ import annotations

import shutil
from pathlib import Path

import openai
import pytest
from PIL import Image

from tests.cluster.cluster import wait_for
from tests.cluster.fleet import MODELS, Fleet
from tests.e2e.images import client_of, conditions, draw, tiny_model, wait_ready
from tests.pictures import same
from tests.plugins.cluster import Kubectl

POOL = """
apiVersion: imagefleet.dev/v1alpha1
kind: InferencePool
metadata: {name: changing}
spec:
  models: [{name: tiny, model: MODEL}]
  worker: {accelerator: {count: 0}}
  replicas: 1
"""
VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: NAME}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadOnlyMany]
  storageClassName: ""
  claimRef: {namespace: NAMESPACE, name: weights}
  hostPath: {path: FOLDER}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: weights, namespace: NAMESPACE}
spec:
  accessModes: [ReadOnlyMany]
  storageClassName: ""
  volumeName: NAME
  resources: {requests: {storage: 1Gi}}
---
apiVersion: imagefleet.dev/v1alpha1
kind: ImageModel
metadata: {name: tiny-claim, namespace: NAMESPACE}
spec:
  source: {uri: "pvc://weights/tiny-2"}
  defaults: {steps: 4, size: 64x64}
"""
RESOURCE = "inferencepools.imagefleet.dev/changing"


def pixels(fleet: Fleet, kubectl: Kubectl) -> Image.Image:
    return draw(fleet.gateways()[0], f"{kubectl.namespace}/tiny", seed=3).convert("RGB")


def workers(kubectl: Kubectl) -> set[str]:
    pods = kubectl.get("pods", "-l", "imagefleet.dev/pool=changing")["items"]
    return {pod["metadata"]["uid"] for pod in pods}


def serves(kubectl: Kubectl, model: str) -> bool:
    (entry,) = kubectl.get(RESOURCE)["status"]["models"]
    return bool(entry["stable"] == model and entry["ready"])


def test_another_model_takes_over_on_the_same_worker(fleet: Fleet, shared_kubectl: Kubectl) -> None:
    shared_kubectl.apply(
        "---".join([tiny_model("tiny-1"), tiny_model("tiny-2"), POOL.replace("MODEL", "tiny-1")])
    )
    wait_ready(shared_kubectl, "changing")
    before, same_worker = pixels(fleet, shared_kubectl), workers(shared_kubectl)
    shared_kubectl.apply(POOL.replace("MODEL", "tiny-2"))
    wait_for(lambda: serves(shared_kubectl, "tiny-2"))
    assert not same(before, pixels(fleet, shared_kubectl))
    assert workers(shared_kubectl) == same_worker, "a model is placed; no worker starts anew"


def test_a_model_on_a_claim_draws_what_its_files_draw(
    fleet: Fleet, shared_kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = readable_copy(tmp_path_factory.mktemp("volume"))
    from_image = pixels(fleet, shared_kubectl)
    namespace = shared_kubectl.namespace
    texts = {"NAMESPACE": namespace, "NAME": f"weights-{namespace}", "FOLDER": str(folder)}
    manifest = VOLUME
    for word, text in texts.items():
        manifest = manifest.replace(word, text)
    shared_kubectl.apply(manifest)
    shared_kubectl.apply(POOL.replace("MODEL", "tiny-claim"))
    wait_for(lambda: serves(shared_kubectl, "tiny-claim"))
    wait_ready(shared_kubectl, "changing")
    assert same(from_image, pixels(fleet, shared_kubectl))
    model = shared_kubectl.get("imagemodels.imagefleet.dev/tiny-claim")
    twin = shared_kubectl.get("imagemodels.imagefleet.dev/tiny-2")
    assert model["status"]["digest"] == twin["status"]["digest"]


def test_files_that_change_after_they_were_verified_are_never_served(
    fleet: Fleet, shared_kubectl: Kubectl
) -> None:
    volume = fleet.cluster.get(f"persistentvolume/weights-{shared_kubectl.namespace}")
    config = Path(volume["spec"]["hostPath"]["path"], "tiny-2", "model_index.json")
    config.write_text(config.read_text() + "\n")
    (worker,) = shared_kubectl.get("pods", "-l", "imagefleet.dev/pool=changing")["items"]
    shared_kubectl("delete", "pod", worker["metadata"]["name"])

    def refused() -> bool:
        found = conditions(shared_kubectl.get(RESOURCE)).get("ModelsPlaced", {})
        return found.get("status") == "False" and "digest" in found.get("message", "").lower()

    wait_for(refused)
    client = client_of(fleet.gateways()[0])
    with pytest.raises(openai.APIStatusError) as error:
        client.images.generate(model=f"{shared_kubectl.namespace}/tiny", prompt="a red circle", size="64x64")
    assert error.value.status_code == 503
    assert error.value.code


def readable_copy(folder: Path) -> Path:
    """A copy of tiny-2 that workers may read, who are not root."""
    shutil.copytree(MODELS / "tiny-2", folder / "tiny-2")
    folder.chmod(0o755)
    return folder
