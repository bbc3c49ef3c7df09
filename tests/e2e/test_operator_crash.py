"""The operator is killed after each single write of a pool's creation, in turn; the end is always the same."""

from __future__ import annotations

import json
import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import REPOSITORY, Cluster, wait_for
from tests.cluster.node.config import NodeSpec
from tests.cluster.outside import (
    OutsideOperator,
    certificate_authority,
    make_account,
    write_caller_key,
    write_kubeconfig,
)
from tests.e2e.images import conditions, tiny_model
from tests.e2e.write_proxy import WriteProxy
from tests.plugins.cluster import Kubectl

POOL = """
apiVersion: imagefleet.dev/v1alpha1
kind: InferencePool
metadata: {name: pictures}
spec:
  models: [{name: tiny, model: tiny-1}]
  worker: {accelerator: {count: 0}}
  replicas: 1
"""
CHILDREN = "deployments,services,serviceaccounts,poddisruptionbudgets,pods"
RESOURCES = "imagemodels.imagefleet.dev,inferencepools.imagefleet.dev"
# What differs between any two runs, or depends on how far the cluster's own controllers have come.
PASSING = frozenset(
    {
        "uid",
        "namespace",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "lastTransitionTime",
        "imagefleet.dev/applied-hash",
        "performance",
    }
)


class Bench:
    """A cluster without an operator, and the means to run one through the proxy."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.token = make_account(cluster)
        self.key = write_caller_key(folder / "caller.pem")
        self.tls = ssl.create_default_context(cadata=certificate_authority(cluster))

    def proxy(self) -> WriteProxy:
        return WriteProxy(self.cluster.server, self.tls)

    def operator(self, proxy: WriteProxy) -> OutsideOperator:
        kubeconfig = write_kubeconfig(
            self.cluster, self.folder / "operator.kubeconfig", self.token, proxy.address
        )
        return OutsideOperator(self.cluster, kubeconfig, self.key, self.folder / "operator.log")

    def namespace(self, name: str) -> Kubectl:
        self.cluster.kubectl("create", "namespace", name)
        return Kubectl(self.cluster, name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, image_mounts: dict[str, str]) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("crash")
    nodes = [NodeSpec("node-1")]
    cluster = Cluster.start(folder / "cluster", nodes=nodes, image_mounts=image_mounts, owned=True)
    cluster.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "crds"))
    yield Bench(cluster, folder)
    cluster.stop()


@pytest.mark.timeout(600)
def test_killed_after_any_write_the_end_state_is_that_of_an_undisturbed_run(bench: Bench) -> None:
    undisturbed = bench.namespace("undisturbed")
    writes = create_undisturbed(bench, undisturbed)
    assert len(writes) >= 7, f"four children, a Job, two statuses at least: {writes}"
    disturbed = [create_killed_after(bench, number) for number in range(1, len(writes) + 1)]
    with bench.proxy() as proxy, bench.operator(proxy):
        wanted = end_state(undisturbed)
        for number, kubectl in enumerate(disturbed, start=1):
            wait_for_ready(kubectl)
            assert end_state(kubectl) == wanted, f"killed after {number} of {writes}"


def create_undisturbed(bench: Bench, kubectl: Kubectl) -> list[str]:
    """The operator's writes from nothing to Ready."""
    with bench.proxy() as proxy, bench.operator(proxy):
        kubectl.apply(tiny_model("tiny-1") + "---" + POOL)
        wait_for_ready(kubectl)
        return list(proxy.writes)


def create_killed_after(bench: Bench, number: int) -> Kubectl:
    """The same in a namespace of its own, with the operator killed after its write `number`."""
    kubectl = bench.namespace(f"killed-{number}")
    with bench.proxy() as proxy:
        operator = bench.operator(proxy)
        with operator:
            # Whatever was left to do elsewhere is not what this run counts.
            proxy.only = f"/namespaces/{kubectl.namespace}/"
            proxy.stop_after = number
            proxy.on_stop = lambda: os.kill(operator.pid, signal.SIGKILL)
            kubectl.apply(tiny_model("tiny-1") + "---" + POOL)
            wait_for(lambda: len(proxy.writes) >= number or is_ready(kubectl))
    return kubectl


def wait_for_ready(kubectl: Kubectl) -> None:
    wait_for(lambda: is_ready(kubectl), every=0.3)


def is_ready(kubectl: Kubectl) -> bool:
    """Ready for good: with every figure of the status in place."""
    pool = kubectl.get("inferencepools.imagefleet.dev/pictures")
    model = kubectl.get("imagemodels.imagefleet.dev/tiny-1")
    ready = conditions(pool).get("Ready", {}).get("status") == "True"
    return ready and model["status"].get("copies", {}).get("available") == 1


def end_state(kubectl: Kubectl) -> dict[str, Any]:
    """Everything that the operator answers for, without what passes."""
    state = {}
    for one in (
        kubectl.get(CHILDREN, "-l", "imagefleet.dev/pool=pictures")["items"] + kubectl.get(RESOURCES)["items"]
    ):
        name = one["kind"] if one["kind"] == "Pod" else f"{one['kind']}/{one['metadata']['name']}"
        parts = {"metadata", "spec"} | ({"status"} if one["apiVersion"].startswith("imagefleet") else set())
        if one["kind"] == "Pod":
            one = {"metadata": {"annotations": one["metadata"]["annotations"]}}
        state[name] = lasting({part: one.get(part) for part in parts & set(one)})
    return dict(json.loads(json.dumps(state).replace(kubectl.namespace, "NAMESPACE")))


def lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: lasting(inner) for key, inner in value.items() if key not in PASSING}
    if isinstance(value, list):
        return [lasting(inner) for inner in value]
    return value
