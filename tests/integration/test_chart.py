"""The chart on a real API server: install, upgrade, uninstall."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import PATIENCE, Cluster, wait_for
from tests.cluster.fleet import CHART
from tests.cluster.node.config import NodeSpec
from tests.integration.helm import Helm, HelmError, of_kind

RELEASE = "imagefleet"
DEPLOYMENTS = ("imagefleet-operator", "imagefleet-gateway")
CRDS = ("imagemodels.imagefleet.dev", "inferencepools.imagefleet.dev")
NAMESPACED = (
    "deployments,services,serviceaccounts,secrets,configmaps,networkpolicies,poddisruptionbudgets,roles,rolebindings,"
    "pods"
)
CLUSTER_WIDE = "clusterroles,clusterrolebindings"
# Where a test is about objects alone.
NO_PODS: dict[str, Any] = {"operator": {"replicas": 0}, "gateway": {"replicas": 0}}
# Not the children of pools and models: their instance is the pool or the model.
OURS = f"app.kubernetes.io/part-of=imagefleet,app.kubernetes.io/instance={RELEASE}"
NAMESPACE = "imagefleet-system"
# (account, verb, resource, allowed)
ACCESS = (
    ("imagefleet-operator", "patch", "deployments.apps", True),
    ("imagefleet-operator", "patch", "inferencepools/status.imagefleet.dev", True),
    ("imagefleet-operator", "patch", "inferencepools.imagefleet.dev", False),
    ("imagefleet-operator", "list", "pods", True),
    ("imagefleet-operator", "delete", "deployments.apps", True),
    ("imagefleet-operator", "delete", "services", False),
    ("imagefleet-operator", "delete", "pods", False),
    ("imagefleet-operator", "create", "pods/eviction", True),
    ("imagefleet-operator", "get", "secrets", False),
    ("imagefleet-operator", "create", "pods/exec", False),
    ("imagefleet-operator", "update", "leases.coordination.k8s.io", False),
    ("imagefleet-gateway", "watch", "pods", True),
    ("imagefleet-gateway", "list", "inferencepools.imagefleet.dev", True),
    ("imagefleet-gateway", "patch", "pods", False),
    ("imagefleet-gateway", "get", "secrets", False),
)
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own: other tests would not like that CRDs change here.

    It has a namespace that admits restricted pods alone.
    """
    folder = tmp_path_factory.mktemp("chart-cluster") / "it"
    running = Cluster.start(folder, nodes=(NodeSpec("node-1"),), owned=True)
    running.kubectl("create", "namespace", NAMESPACE)
    running.kubectl("label", "namespace", NAMESPACE, RESTRICTED)
    yield running
    running.stop()


@dataclass(frozen=True)
class Release:
    cluster: Cluster
    namespace: str
    helm: Helm

    def install(
        self, values: dict[str, Any] | None = None, chart: Path = CHART, release: str = RELEASE
    ) -> str:
        """The notes."""
        return self.helm.run(
            "install", release, str(chart), f"--namespace={self.namespace}", values=values or {}
        )

    def upgrade(self, values: dict[str, Any] | None = None, chart: Path = CHART) -> str:
        return self.helm.run(
            "upgrade", RELEASE, str(chart), f"--namespace={self.namespace}", values=values or {}
        )

    def wait_until_available(self) -> None:
        for deployment in DEPLOYMENTS:
            self.kubectl("rollout", "status", f"deployment/{deployment}", PATIENCE)
        self.cluster.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in CRDS))

    def uninstall(self, release: str = RELEASE) -> str:
        return self.helm.run(
            "uninstall", release, f"--namespace={self.namespace}", "--ignore-not-found", "--wait"
        )

    def get(self, *arguments: str) -> dict[str, Any]:
        return self.cluster.get(*arguments, namespace=self.namespace)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl(*arguments, namespace=self.namespace, stdin=stdin)

    def caller_key(self) -> str:
        return str(self.get("secret", "imagefleet-caller-key")["data"]["caller.pem"])

    def allowed(self, asked: Sequence[tuple[str, str, str]]) -> list[bool]:
        """For each (ServiceAccount of the release, verb, resource): whether it may, in another namespace."""
        reviews = [self._review(*question) for question in asked]
        answers = self.kubectl("create", "-f", "-", "-o", "yaml", stdin=yaml.safe_dump_all(reviews))
        return [bool(answer["status"]["allowed"]) for answer in yaml.safe_load_all(answers)]

    def _review(self, account: str, verb: str, resource: str) -> dict[str, Any]:
        attributes = {"verb": verb, "namespace": "default", **_attributes(resource)}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{self.namespace}:{account}",
                "resourceAttributes": attributes,
            },
        }


def _attributes(resource: str) -> dict[str, str]:
    """`pods`, `deployments.apps` or `inferencepools/status.imagefleet.dev` as an access review wants it."""
    path, _, group = resource.partition(".")
    name, _, subresource = path.partition("/")
    return {"group": group, "resource": name, "subresource": subresource}


@pytest.fixture
def release(cluster: Cluster) -> Iterator[Release]:
    """Nothing is installed yet. The CRDs of earlier tests stay, as they do for whoever installs again."""
    release = Release(cluster, NAMESPACE, Helm(kubeconfig=cluster.kubeconfig))
    yield release
    release.uninstall()


@pytest.fixture
def changed_chart(tmp_path: Path) -> Path:
    """The chart of a next version, whose ImageModel has one more field."""
    chart = tmp_path / "imagefleet"
    shutil.copytree(CHART, chart)
    description = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**description, "version": "0.1.1"}))
    (path,) = (chart / "files" / "crds").glob("*imagemodels.yaml")
    crd = yaml.safe_load(path.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"]["novelty"] = {"type": "string"}
    path.write_text(yaml.safe_dump(crd))
    return chart


def pod_templates(release: Release) -> dict[str, Any]:
    return {name: release.get("deployment", name)["spec"]["template"] for name in DEPLOYMENTS}


def test_what_is_installed_becomes_available_in_a_restricted_namespace(release: Release) -> None:
    release.install()
    release.wait_until_available()
    ready = {name: release.get("deployment", name)["status"]["readyReplicas"] for name in DEPLOYMENTS}
    assert ready == {"imagefleet-operator": 1, "imagefleet-gateway": 2}


def test_the_notes_say_what_to_do_next(release: Release) -> None:
    notes = release.install(NO_PODS)
    assert f"kubectl -n {release.namespace} rollout status deployment/imagefleet-gateway" in notes
    assert f"kubectl -n {release.namespace} port-forward service/imagefleet-gateway 8080:8080" in notes
    assert "http://127.0.0.1:8080/v1/images/generations" in notes
    assert "image.registry is empty" in notes


def test_the_manifests_of_the_notes_are_accepted(release: Release) -> None:
    notes = release.install(NO_PODS)
    (indented,) = re.findall(r"<<EOF\n(.*?)\n *EOF\n", notes, re.DOTALL)
    manifest = re.sub(r"^ {5}", "", indented, flags=re.MULTILINE)
    release.cluster.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in CRDS))
    applied = release.kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifest)
    assert applied.splitlines() == [
        "imagemodel.imagefleet.dev/tiny-1 created (server dry run)",
        "inferencepool.imagefleet.dev/first created (server dry run)",
    ]


def test_an_upgrade_keeps_the_key_and_restarts_nothing(release: Release) -> None:
    release.install(NO_PODS)
    key, templates = release.caller_key(), pod_templates(release)
    release.upgrade({**NO_PODS, "networkPolicy": {"enabled": False}})
    assert release.caller_key() == key
    assert pod_templates(release) == templates


def test_an_upgrade_upgrades_the_crds(release: Release, changed_chart: Path) -> None:
    release.install(NO_PODS)
    release.upgrade(NO_PODS, chart=changed_chart)
    crd = release.get("crd", "imagemodels.imagefleet.dev")
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert schema["properties"]["spec"]["properties"]["novelty"] == {"type": "string"}


def test_uninstalling_leaves_the_crds_and_what_they_hold_and_nothing_else(release: Release) -> None:
    release.install()
    release.wait_until_available()
    model = {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": "ImageModel",
        "metadata": {"name": "kept"},
        "spec": {"source": {"uri": "file:///models/kept"}},
    }
    release.kubectl("apply", "-f", "-", stdin=json.dumps(model))
    release.uninstall()
    wait_for(lambda: release.get(NAMESPACED, "--selector", OURS)["items"] == [])
    assert release.cluster.get(CLUSTER_WIDE, "--selector", OURS)["items"] == []
    assert release.get("imagemodel", "kept")["spec"]["source"]["uri"] == "file:///models/kept"
    release.kubectl("delete", "imagemodel", "kept")


def test_installing_again_takes_the_kept_crds_over(release: Release) -> None:
    release.install(NO_PODS)
    release.uninstall()
    release.install(NO_PODS)
    assert release.get("crd", CRDS[0])["metadata"]["annotations"]["meta.helm.sh/release-name"] == RELEASE


def test_a_second_release_is_refused_as_one_serves_the_whole_cluster(release: Release) -> None:
    release.install(NO_PODS)
    with pytest.raises(HelmError, match=r"imagefleet\.dev.*invalid ownership metadata"):
        release.install(NO_PODS, release="another")


def test_a_mistake_in_values_installs_nothing(release: Release) -> None:
    with pytest.raises(HelmError, match="additional properties 'gatway' not allowed"):
        release.install({"gatway": {"replicas": 3}})
    assert release.get(NAMESPACED, "--selector", OURS)["items"] == []


def test_a_key_of_ones_own_is_used_and_left_alone(release: Release) -> None:
    (secret,) = of_kind(release.helm.template(), "Secret").values()
    pem = secret["data"]["caller.pem"]
    own = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own-key"}, "data": {"caller.pem": pem}}
    release.kubectl("apply", "-f", "-", stdin=json.dumps(own))
    release.install({"callerKey": {"existingSecret": "own-key"}})
    release.wait_until_available()
    release.uninstall()
    assert release.get("secret", "own-key")["data"] == {"caller.pem": pem}
    release.kubectl("delete", "secret", "own-key")


@pytest.mark.parametrize("values", sorted(path.name for path in (CHART / "ci").glob("*-values.yaml")))
def test_the_api_server_knows_every_field_that_is_rendered(release: Release, values: str) -> None:
    existing = set(release.cluster.kubectl("get", "namespaces", "-o", "name").split())
    objects = release.helm.template(None, f"--values={CHART / 'ci' / values}")
    for name in {found["metadata"].get("namespace") for found in objects} - {None}:
        if f"namespace/{name}" not in existing:
            release.cluster.kubectl("create", "namespace", name)
    known = [found for found in objects if found["kind"] != "PodMonitor"]
    text = yaml.safe_dump_all(known)
    applied = release.cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    assert len(applied.splitlines()) == len(known)


def test_a_bare_rendering_applied_twice_changes_nothing(release: Release) -> None:
    """As GitOps tools do it, with a key of one's own; the CRDs are left to another application."""
    values = {**NO_PODS, "callerKey": {"existingSecret": "own-key"}, "crds": {"install": False}}
    first, second = (
        yaml.safe_dump_all(release.helm.template(values, f"--namespace={release.namespace}"))
        for _ in range(2)
    )
    release.kubectl("apply", "--server-side", "-f", "-", stdin=first)
    try:
        assert release.kubectl("diff", "--server-side", "-f", "-", stdin=second) == ""
    finally:
        release.kubectl("delete", "-f", "-", stdin=first)


def test_each_program_may_do_its_work_in_every_namespace_and_no_more(release: Release) -> None:
    release.install(NO_PODS)
    answers = release.allowed([row[:3] for row in ACCESS])
    assert [row for row, allowed in zip(ACCESS, answers, strict=True) if allowed is not row[3]] == []


def test_the_built_in_roles_cover_both_kinds(release: Release) -> None:
    release.install(NO_PODS)
    rights = {"view": "get", "edit": "create", "admin": "delete"}
    # The controller manager copies them there.
    wait_for(lambda: all(_grants(release, role, verb) for role, verb in rights.items()))
    assert not _grants(release, "view", "create")


def _grants(release: Release, role: str, verb: str) -> bool:
    rules = release.get("clusterrole", role).get("rules") or []
    return any("inferencepools" in rule.get("resources", []) and verb in rule["verbs"] for rule in rules)
