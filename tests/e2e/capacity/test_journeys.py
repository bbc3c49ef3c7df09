"""Workers that wait warm, a number that somebody else writes, and an operator that is killed while workers start."""

from __future__ import annotations

import pytest

from tests.e2e.capacity.pools import RESOURCE, Pool

# Requests may wait for longer than any start takes, so that no worker stands by for what may come.
STEADY = {"minReplicas": 1, "maxReplicas": 1, "waitSeconds": 3600}


@pytest.mark.parametrize("weights", ["HostMemory", "Accelerator"])
def test_a_warm_worker_gets_no_request_until_it_is_needed(pictures: Pool, weights: str) -> None:
    pool = {"replicas": 1, "weights": weights}
    pictures.apply("warm-pool", scaling=STEADY | {"maxReplicas": 2}, warmPool=pool)
    pictures.wait(lambda: pictures.status().get("warm") == {"replicas": 1, "ready": 1})
    pictures.wait(lambda: pictures.condition("Ready") == ("True", "Ready"))
    assert (len(pictures.pods()), pictures.serving()) == (2, 1)
    started = {pod["metadata"]["uid"] for pod in pictures.pods()}

    pictures.kubectl(
        "patch",
        RESOURCE,
        "--type=merge",
        '--patch={"spec": {"scaling": {"minReplicas": 2}, "warmPool": null}}',
    )
    pictures.wait(lambda: pictures.serving() == 2)
    with pictures.callers(2) as callers:
        callers.wait_for_more(4)
    assert callers.failed == {}
    assert {pod["metadata"]["uid"] for pod in pictures.pods()} == started, "nobody had to start"


def test_kubectl_scale_is_followed_within_the_bounds_and_workers_finish_first(pictures: Pool) -> None:
    bounds = {"mode": "External", "minReplicas": 1, "maxReplicas": 2}
    pictures.apply("warm-pool", replicas=2, scaling=bounds, warmPool=None)
    pictures.wait(
        lambda: pictures.condition("ScalingActive") == ("True", "External") and pictures.serving() == 2
    )

    with pictures.callers(4) as callers:
        callers.wait_for_more(4)
        pictures.kubectl("scale", RESOURCE, "--replicas=1")
        pictures.wait(lambda: len(pictures.pods()) == 1)
        callers.wait_for_more(4)
    assert callers.failed == {}, "the one that went had finished"

    pictures.kubectl("scale", RESOURCE, "--replicas=5")
    pictures.wait(lambda: pictures.condition("ScalingActive") == ("False", "ReplicasOutOfBounds"))
    pictures.wait(lambda: len(pictures.pods()) == 2)


def test_kubectl_scale_is_refused_where_the_demand_decides(pictures: Pool) -> None:
    pictures.apply("warm-pool", scaling=STEADY, warmPool=None)
    with pytest.raises(Exception, match=r"spec\.scaling decides the number of workers"):
        pictures.kubectl("scale", RESOURCE, "--replicas=3")


def test_an_operator_that_is_killed_while_workers_start_goes_on_where_it_was(pictures: Pool) -> None:
    pictures.apply(
        "warm-pool",
        scaling=STEADY | {"minReplicas": 0, "maxReplicas": 2, "zeroAfterSeconds": 3600},
        warmPool=None,
    )
    pictures.wait(lambda: pictures.condition("ScalingActive")[0] == "True")
    before = pictures.scaling()["desiredReplicas"]
    pictures.kubectl("patch", RESOURCE, "--type=merge", '--patch={"spec": {"scaling": {"minReplicas": 2}}}')
    pictures.wait(lambda: pictures.scaling().get("desiredReplicas") == 2)
    pictures.fleet.cluster.kubectl(
        "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force",
        namespace=pictures.fleet.namespace,
    )  # fmt: skip
    pictures.kubectl("patch", RESOURCE, "--type=merge", '--patch={"spec": {"scaling": {"minReplicas": 0}}}')
    pictures.wait(lambda: pictures.serving() == 2)
    assert pictures.scaling()["desiredReplicas"] == 2 >= before, "it takes nobody away at its start"
