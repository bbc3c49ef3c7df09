"""A node dies under load, without a word."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e.capacity.pools import NAME, Json, Pool

NODE = "doomed"
SPREAD: Json = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": {"matchLabels": {"imagefleet.dev/pool": NAME}},
    # Workers of an earlier template, which others had, are on their way out.
    "matchLabelKeys": ["pod-template-hash"],
}
ENOUGH = 12


@pytest.fixture
def doomed_node(cluster: Cluster) -> Iterator[None]:
    cluster.add_node(NODE)
    yield
    cluster.remove_node(NODE)


def lose(cluster: Cluster) -> None:
    """The machine is gone at once, with its kubelet and its pods: nobody says goodbye, nor tells the API server."""
    (node,) = [record for record in cluster.node_processes() if record.name == f"node-{NODE}"]
    node.send(signal.SIGKILL)


def nodes(pool: Pool) -> set[str]:
    return {pod["spec"].get("nodeName", "") for pod in pool.pods()}


def test_callers_do_not_notice_that_a_node_is_lost(
    pictures: Pool, doomed_node: None, cluster: Cluster
) -> None:
    worker = {"accelerator": {"count": 0}, "podTemplate": {"spec": {"topologySpreadConstraints": [SPREAD]}}}
    pictures.apply("scale-to-zero", scaling=None, replicas=2, worker=worker)
    pictures.wait(lambda: pictures.condition("Ready")[0] == "True" and pictures.serving() == 2, seconds=120)
    pictures.wait(lambda: NODE in nodes(pictures) and len(nodes(pictures)) == 2)

    with pictures.callers(6) as callers:
        callers.wait_for_more(ENOUGH)
        lose(cluster)
        callers.wait_for_more(2 * ENOUGH)
    assert callers.failed == {}, "what the lost worker had is drawn by the other one"
    assert NODE in nodes(pictures), "the API server does not know yet"
