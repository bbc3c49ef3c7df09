"""The operator against a real API server: what it makes, repairs, refuses and leaves alone, also when it is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.audit import AuditLog
from tests.cluster.cluster import PATIENCE, Cluster, wait_for
from tests.cluster.outside import USER, OutsideOperator
from tests.integration.controller.pools import (
    CHILDREN,
    STARTER,
    await_condition,
    condition,
    exists,
    image_model,
    pool,
)
from tests.plugins.cluster import Kubectl


def test_a_pool_gets_its_children_its_model_and_its_status(settled: Kubectl) -> None:
    found = settled.get("inferencepools.imagefleet.dev", "thumbs")
    for kind in CHILDREN:
        (owner,) = settled.get(kind, "thumbs-workers")["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (found["metadata"]["uid"], True)
    status = found["status"]
    assert (status["observedGeneration"], status["replicas"], status["readyReplicas"]) == (1, 1, 1)
    assert status["models"] == [
        {
            "name": "shapes",
            "stable": "shapes",
            "traffic": [{"model": "shapes", "percent": 100}],
            "resident": 1,
            "ready": True,
        }
    ]
    (pod,) = settled.get("pods", "-l", status["selector"])["items"]
    assert json.loads(pod["metadata"]["annotations"]["imagefleet.dev/placement"]) == {
        "shapes": {"pinned": True}
    }
    model = settled.get("imagemodels.imagefleet.dev", "shapes")["status"]
    assert model["className"] == "StableDiffusionPipeline"
    assert model["digest"].startswith("sha256:")


def test_nothing_is_written_at_rest(settled: Kubectl, audit: AuditLog) -> None:
    def quiet_for_ten_seconds() -> bool:
        mark = audit.mark()
        wait_for(lambda: len(list(audit.events(since=mark, verb="update", resource="leases"))) >= 20)
        return not [e for e in audit.events(since=mark, user=USER, writes=True) if e.resource != "leases"]

    wait_for(quiet_for_ten_seconds)


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_deleted_child_comes_back(kind: str, settled: Kubectl) -> None:
    before = settled.get(kind, "thumbs-workers")["metadata"]["uid"]
    settled("delete", kind, "thumbs-workers", "--wait=false")
    wait_for(
        lambda: (
            exists(settled, kind, "thumbs-workers")
            and settled.get(kind, "thumbs-workers")["metadata"]["uid"] != before
        ),
    )


@pytest.mark.parametrize(
    ("kind", "patch", "path", "want"),
    [
        pytest.param("deployment", {"spec": {"replicas": 5}}, "spec.replicas", 1, id="a changed value"),
        pytest.param("service", {"spec": {"selector": None}}, "spec.selector", ..., id="a removed field"),
        pytest.param(
            "poddisruptionbudget",
            {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}},
            "metadata.labels.app.kubernetes.io/managed-by",
            "imagefleet",
            id="the label by which it is watched",
        ),
    ],
)
def test_a_hand_edited_child_is_mended(
    kind: str, patch: dict[str, Any], path: str, want: object, settled: Kubectl
) -> None:
    def value() -> Any:
        found: Any = settled.get(kind, "thumbs-workers")
        for part in path.split(".", 2):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    before = value()
    settled("patch", kind, "thumbs-workers", "--type=merge", "-p", json.dumps(patch))
    wait_for(lambda: value() == before)
    assert want in (..., before)


def test_what_others_add_to_a_child_stays(settled: Kubectl) -> None:
    settled("annotate", "deployment", "thumbs-workers", "team.example/owner=me")
    settled("scale", "inferencepools.imagefleet.dev/thumbs", "--replicas=2")
    wait_for(lambda: settled.get("deployment", "thumbs-workers")["spec"]["replicas"] == 2)
    annotations = settled.get("deployment", "thumbs-workers")["metadata"]["annotations"]
    assert annotations["team.example/owner"] == "me"


def test_a_child_that_is_not_ours_is_refused_and_left_alone(
    kubectl: Kubectl, operator: OutsideOperator, models: Path
) -> None:
    kubectl("create", "service", "clusterip", "thumbs-workers", "--tcp=80")
    before = kubectl.get("service", "thumbs-workers")
    kubectl.apply(image_model(models))
    kubectl.apply(pool())
    stalled = await_condition(
        kubectl, "inferencepools.imagefleet.dev", "thumbs", "Stalled=True/ChildNotOwned"
    )
    assert "Service thumbs-workers" in stalled["message"]
    assert kubectl.get("service", "thumbs-workers") == before
    kubectl("delete", "service", "thumbs-workers")
    kubectl("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/thumbs", PATIENCE)
    assert condition(kubectl, "inferencepools.imagefleet.dev", "thumbs", "Stalled=True/ChildNotOwned") is None


def test_a_pool_that_is_made_anew_waits_for_the_end_of_the_old_children(settled: Kubectl) -> None:
    settled("delete", "inferencepools.imagefleet.dev", "thumbs")
    settled.apply(pool())
    settled("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/thumbs", PATIENCE)
    events = settled("get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}")
    assert "ChildNotOwned" not in events.split()


def test_a_deleted_pool_leaves_nothing_behind(settled: Kubectl) -> None:
    settled("delete", "inferencepools.imagefleet.dev", "thumbs", PATIENCE)
    wait_for(lambda: not any(exists(settled, kind, "thumbs-workers") for kind in CHILDREN))
    wait_for(lambda: not settled.get("pods", "-l", "imagefleet.dev/pool=thumbs")["items"])


def test_a_killed_operator_starts_again_and_changes_nothing(
    settled: Kubectl, operator: OutsideOperator, audit: AuditLog
) -> None:
    def versions() -> dict[str, str]:
        return {kind: settled.get(kind, "thumbs-workers")["metadata"]["resourceVersion"] for kind in CHILDREN}

    def measured() -> bool:
        status = settled.get("imagemodels.imagefleet.dev", "shapes")["status"]
        return bool(status["copies"]["available"] == 1 and status.get("performance"))

    wait_for(measured)
    before = versions()
    operator.kill()
    mark = audit.mark()
    operator.start()
    settled("patch", "service", "thumbs-workers", "--type=merge", "-p", '{"spec":{"selector":null}}')
    wait_for(lambda: settled.get("service", "thumbs-workers")["spec"].get("selector"))
    after = versions()
    assert {kind: after[kind] for kind in CHILDREN if kind != "service"} == {
        kind: before[kind] for kind in CHILDREN if kind != "service"
    }
    written = {
        e.resource for e in audit.events(since=mark, user=USER, writes=True, namespace=settled.namespace)
    }
    assert written <= {"services"}


def test_one_of_two_leads_and_the_other_takes_over(
    settled: Kubectl, start: STARTER, operator: OutsideOperator, cluster: Cluster
) -> None:
    def leader() -> str:
        lease = cluster.get("lease", "imagefleet-operator", namespace="default")
        return str(lease["spec"]["holderIdentity"])

    second = start("second")
    assert leader() == "first"
    operator.kill()
    try:
        wait_for(lambda: leader() == "second")
        settled("delete", "service", "thumbs-workers", "--wait=false")
        wait_for(lambda: exists(settled, "service", "thumbs-workers"))
    finally:
        second.kill()
        operator.start()
        wait_for(lambda: leader() == "first")
