"""Workers that wait warm, a number that somebody else writes, and an operator that is killed while workers start."""

from __future__ import annotations

import pytest

from tests.e2e.capacity.pools import RESOURCE, Pool

# Requests may wait for longer than any start takes, so that no worker stands by for what may come.
STEADY = {"minReplicas": 1, "maxReplicas": 1, "waitSeconds": 3600}


@pytest.fixture(scope="module")
def warm(pictures: Pool) -> Pool:
    """One worker that takes requests, and a warm one."""
    pictures.apply("warm-pool", scaling=STEADY | {"maxReplicas": 2}, warmPool={"replicas": 1})
    pictures.wait(lambda: pictures.condition("Ready") == ("True", "Ready"))
    pictures.wait(lambda: pictures.status().get("warm") == {"replicas": 1, "ready": 1})
    return pictures


def test_a_warm_worker_holds_the_model_and_gets_no_request_until_it_is_needed(warm: Pool) -> None:
    assert (len(warm.pods()), warm.serving()) == (2, 1)
    started = {pod["metadata"]["uid"] for pod in warm.pods()}

    warm.kubectl(
        "patch",
        RESOURCE,
        "--type=merge",
        '--patch={"spec": {"scaling": {"minReplicas": 2}, "warmPool": null}}',
    )
    warm.wait(lambda: warm.serving() == 2)
    with warm.callers(2) as callers:
        callers.wait_for_more(4)
    assert callers.failed == {}
    assert {pod["metadata"]["uid"] for pod in warm.pods()} == started, "nobody had to start"


def test_kubectl_scale_is_followed_within_the_bounds_and_workers_finish_first(warm: Pool) -> None:
    bounds = {"mode": "External", "minReplicas": 1, "maxReplicas": 2}
    warm.apply("warm-pool", replicas=2, scaling=bounds, warmPool=None)
    warm.wait(lambda: warm.condition("ScalingActive") == ("True", "External") and warm.serving() == 2)

    with warm.callers(4) as callers:
        callers.wait_for_more(4)
        warm.kubectl("scale", RESOURCE, "--replicas=1")
        warm.wait(lambda: len(warm.pods()) == 1)
        callers.wait_for_more(4)
    assert callers.failed == {}, "the one that went had finished"

    warm.kubectl("scale", RESOURCE, "--replicas=5")
    warm.wait(lambda: warm.condition("ScalingActive") == ("False", "ReplicasOutOfBounds"))
    warm.wait(lambda: len(warm.pods()) == 2)


def test_kubectl_scale_is_refused_where_the_demand_decides(warm: Pool) -> None:
    warm.apply("warm-pool", scaling=STEADY, warmPool=None)
    with pytest.raises(Exception, match=r"spec\.scaling decides the number of workers"):
        warm.kubectl("scale", RESOURCE, "--replicas=3")


def test_an_operator_that_is_killed_while_workers_start_goes_on_where_it_was(warm: Pool) -> None:
    warm.apply(
        "warm-pool",
        scaling=STEADY | {"minReplicas": 0, "maxReplicas": 2, "zeroAfterSeconds": 3600},
        warmPool=None,
    )
    warm.wait(lambda: warm.condition("ScalingActive")[0] == "True")
    before = warm.scaling()["desiredReplicas"]
    warm.kubectl("patch", RESOURCE, "--type=merge", '--patch={"spec": {"scaling": {"minReplicas": 2}}}')
    warm.wait(lambda: warm.scaling().get("desiredReplicas") == 2)
    warm.fleet.cluster.kubectl(
        "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force",
        namespace=warm.fleet.namespace,
    )  # fmt: skip
    warm.kubectl("patch", RESOURCE, "--type=merge", '--patch={"spec": {"scaling": {"minReplicas": 0}}}')
    warm.wait(lambda: warm.serving() == 2)
    assert warm.scaling()["desiredReplicas"] == 2 >= before, "it takes nobody away at its start"
