"""A cluster of its own with an operator outside of it, and a pool that has settled."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import PATIENCE, REPOSITORY, Cluster
from tests.cluster.node.config import NodeSpec
from tests.cluster.outside import OutsideOperator, make_account, write_caller_key, write_kubeconfig
from tests.integration.controller.pools import STARTER, image_model, pool
from tests.plugins.cluster import Kubectl


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own, so that no other operator works in it."""
    folder = tmp_path_factory.mktemp("operator-cluster") / "it"
    running = Cluster.start(folder, nodes=[NodeSpec("node-1", gpus=8)], owned=True)
    running.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "crds"))
    running.kubectl("wait", "--for=condition=Established", "-f", str(REPOSITORY / "crds"), PATIENCE)
    yield running
    running.stop()


@pytest.fixture(scope="package")
def cache() -> Iterator[Path]:
    """The node cache, a folder of the nodes."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture(scope="package")
def start(cluster: Cluster, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[STARTER]:
    """Starts operators by name; all are killed in the end. Leases are renewed often: tests count in them."""
    folder = tmp_path_factory.mktemp("operator")
    kubeconfig = write_kubeconfig(cluster, folder / "kubeconfig", make_account(cluster))
    key = write_caller_key(folder / "caller.pem")
    started: list[OutsideOperator] = []

    def starter(identity: str) -> OutsideOperator:
        made = OutsideOperator(cluster, kubeconfig, key, folder / f"{identity}.log", identity=identity)
        made.start()
        started.append(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEFLEET_RETRY_SECONDS", "0.5")
        patch.setenv("IMAGEFLEET_CACHE_TYPE", "hostPath")
        patch.setenv("IMAGEFLEET_CACHE_PATH", str(cache))
        yield starter
    for made in started:
        made.kill()


@pytest.fixture(scope="package")
def operator(start: STARTER) -> OutsideOperator:
    """The operator that most tests talk to."""
    return start("first")


@pytest.fixture(scope="package")
def models() -> Iterator[Path]:
    """A folder that passes for a model, where pods see it too: /tmp is their own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        weights = folder / "shapes" / "unet"
        weights.mkdir(parents=True)
        index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
        (folder / "shapes" / "model_index.json").write_text(json.dumps(index))
        header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        content = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
        (weights / "diffusion_pytorch_model.safetensors").write_bytes(content)
        for path in (folder, folder / "shapes", weights):
            path.chmod(0o755)
        yield folder


@pytest.fixture
def settled(kubectl: Kubectl, operator: OutsideOperator, models: Path) -> Kubectl:
    """A namespace with a pool of one ready fake worker that holds its model."""
    kubectl.apply(image_model(models))
    kubectl.apply(pool())
    kubectl("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/thumbs", PATIENCE)
    return kubectl
