"""The operator and the gateway use every right that the chart grants them, and ask for no other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.audit import AuditLog
from tests.cluster.cluster import PATIENCE, wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.images import draw, tiny_model, wait_ready
from tests.plugins.cluster import Kubectl

Json = dict[str, Any]
COMPONENTS = ("operator", "gateway")
GOING = "rights.example.com/going"
SPOT: Json = {"nodeSelector": {"kubernetes.io/hostname": "node-1"}, "interruptionTaints": [GOING]}
NOWHERE = """
apiVersion: imagefleet.dev/v1alpha1
kind: ImageModel
metadata: {name: nowhere}
spec:
  source: {uri: "file:///models/nowhere"}
"""
Right = tuple[str, str]
"""A verb and a resource, with its subresource where it has one."""


@pytest.fixture(scope="module")
def journey(fleet: Fleet, shared_kubectl: Kubectl) -> None:
    """All that the two ask of the API server: they verify, serve, mend what was deleted, and check again what
    failed. Spot workers come, are interrupted, and go."""
    shared_kubectl.apply(f"{tiny_model('tiny-1')}---{NOWHERE}")
    shared_kubectl.apply(pool(pre_pull=True, spot=SPOT))
    wait_ready(shared_kubectl, "rights")
    draw(fleet.gateways()[0], f"{shared_kubectl.namespace}/rights")
    shared_kubectl("wait", "--for=condition=Stalled", "imagemodels.imagefleet.dev/nowhere", PATIENCE)
    for selected in (("service", "imagefleet.dev/pool=rights"), ("job", "imagefleet.dev/model=nowhere")):
        before = uids(shared_kubectl, *selected)
        shared_kubectl("delete", selected[0], "-l", selected[1])
        wait_for(lambda: uids(shared_kubectl, *selected) - before)  # noqa: B023
    interrupt(fleet, shared_kubectl)
    shared_kubectl.apply(pool())
    on_demand = ("deployment", "imagefleet.dev/pool=rights")
    wait_for(lambda: len(uids(shared_kubectl, *on_demand)) == 1)
    wait_for(lambda: not uids(shared_kubectl, "daemonset", "imagefleet.dev/pool=rights"))


def pool(*, pre_pull: bool = False, **worker: Json) -> str:
    """A pool of one worker."""
    models = [{"name": "rights", "model": "tiny-1"}]
    worker = {"accelerator": {"count": 0}, **worker}
    spec = {"models": models, "replicas": 1, "prePull": pre_pull, "worker": worker}
    head = {"apiVersion": "imagefleet.dev/v1alpha1", "kind": "InferencePool", "metadata": {"name": "rights"}}
    return json.dumps({**head, "spec": spec})


def interrupt(fleet: Fleet, kubectl: Kubectl) -> None:
    """Have the operator end the worker. The taint keeps nobody off the node."""
    (before,) = uids(kubectl, "pod", "imagefleet.dev/pool=rights")
    fleet.cluster.kubectl("taint", "node", "node-1", f"{GOING}=:PreferNoSchedule")
    try:
        wait_for(lambda: uids(kubectl, "pod", "imagefleet.dev/pool=rights") - {before})
    finally:
        fleet.cluster.kubectl("taint", "node", "node-1", f"{GOING}-")


def uids(kubectl: Kubectl, kind: str, label: str) -> set[str]:
    return {found["metadata"]["uid"] for found in kubectl.get(kind, "-l", label)["items"]}


def granted(fleet: Fleet, component: str) -> set[Right]:
    """What the roles of a component say; the local cluster gives nobody more."""
    label = f"app.kubernetes.io/instance={fleet.release},app.kubernetes.io/component={component}"
    roles = fleet.cluster.get("clusterroles,roles", "-l", label, namespace=fleet.namespace)["items"]
    return {
        (verb, resource)
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(fleet: Fleet, audit: AuditLog, component: str) -> set[Right]:
    """What was asked for and answered. A server-side apply that makes an object (201) is logged as a patch, and
    needs the right to create too."""
    account = f"system:serviceaccount:{fleet.namespace}:{fleet.release}-{component}"
    found = set()
    for event in audit.events(user=account):
        resource = f"{event.resource}/{event.subresource}" if event.subresource else event.resource
        if event.decision == "allow":
            found.add((event.verb, resource))
        if (event.verb, event.code) == ("patch", 201):
            found.add(("create", resource))
    return found


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_right_that_is_granted_is_used(
    component: str, fleet: Fleet, journey: None, audit: AuditLog
) -> None:
    unused = granted(fleet, component) - used(fleet, audit, component)
    assert unused == set()


@pytest.mark.parametrize("component", COMPONENTS)
def test_nothing_is_asked_for_that_is_not_granted(
    component: str, fleet: Fleet, journey: None, audit: AuditLog
) -> None:
    account = f"system:serviceaccount:{fleet.namespace}:{fleet.release}-{component}"
    events = [event for event in audit.events(user=account) if event.resource]
    assert events, "the audit log knows the account"
    assert [event for event in events if event.decision != "allow"] == []
