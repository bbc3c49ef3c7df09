"""The whole fleet, installed with Helm on the session's cluster, and what its tests do with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.fleet import Fleet
from tests.plugins.cluster import Kubectl


@pytest.fixture(scope="session")
def fleet(cluster: Cluster) -> Iterator[Fleet]:
    """The chart with its defaults: one operator, two gateways."""
    installed = Fleet(cluster)
    installed.install()
    yield installed
    # Nobody waits for the pods: the session's cluster ends next, and tests/integration/test_chart.py does.
    installed.helm("uninstall", installed.release)


@pytest.fixture(scope="module")
def shared_kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    """kubectl in one namespace for all tests of a module: starting workers takes its time."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield Kubectl(cluster, name)
    cluster.kubectl("delete", "namespace", name)
