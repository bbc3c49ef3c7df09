"""pytest fixtures for tests against the local cluster.

One cluster serves a whole test session; each test gets a namespace of its own. With IMAGEFLEET_TEST_CLUSTER
set to the folder of a cluster that runs already (`make cluster-up` leaves one in .cluster), the session uses
that one and leaves it running.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.audit import AuditLog
from tests.cluster.cluster import PATIENCE, Cluster
from tests.cluster.node.config import NodeSpec

NODES = (NodeSpec("node-1", gpus=8),)


class Kubectl:
    """The real kubectl in one namespace: `kubectl("get", "pods")` returns what it prints, or raises."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self.namespace = namespace

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self._cluster.kubectl(*args, namespace=self.namespace, stdin=stdin)

    def apply(self, manifest: str) -> str:
        return self("apply", "-f", "-", stdin=manifest)

    def get(self, *args: str) -> dict[str, Any]:
        """`kubectl get ... -o json`, read."""
        return self._cluster.get(*args, namespace=self.namespace)


@pytest.fixture(scope="session")
def image_mounts() -> dict[str, str]:
    """What images hold beside the host: path in every container -> folder of the host. Override it."""
    return {}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, image_mounts: dict[str, str]) -> Iterator[Cluster]:
    """A running cluster with one node of eight GPUs. It dies with the test process, however that ends."""
    existing = os.environ.get("IMAGEFLEET_TEST_CLUSTER")
    if existing:
        yield Cluster.start(Path(existing), nodes=NODES, image_mounts=image_mounts)
        return
    folder = tmp_path_factory.mktemp("cluster") / "it"
    running = Cluster.start(folder, nodes=NODES, image_mounts=image_mounts, owned=True)
    yield running
    running.stop()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace in which pods can be created. It is deleted afterwards, without waiting for it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", PATIENCE, namespace=name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubectl(cluster: Cluster, namespace: str) -> Kubectl:
    return Kubectl(cluster, namespace)


@pytest.fixture
def audit(cluster: Cluster) -> AuditLog:
    return AuditLog(cluster.layout.audit_log)
