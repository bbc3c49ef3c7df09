"""Mistakes that the API server cannot see end in a condition, and hurt nobody else.

The files are those of tests/integration/manifests/bad whose first line is `# condition: KIND/TYPE=STATUS REASON`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import REPOSITORY, wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.images import conditions, draw, tiny_model, wait_ready
from tests.plugins.cluster import Kubectl

FOLDER = REPOSITORY / "tests" / "integration" / "manifests" / "bad"
HEADER = re.compile(r"# condition: (?P<kind>\w+)/(?P<type>\w+)=(?P<status>\w+) (?P<reason>\w+)")
BYSTANDER = """
apiVersion: imagefleet.dev/v1alpha1
kind: InferencePool
metadata: {name: bystander}
spec:
  models: [{name: bystander, model: tiny-1}]
  worker: {accelerator: {count: 0}}
  replicas: 1
"""


def bad_manifests() -> dict[Path, re.Match[str]]:
    headers = {
        path: HEADER.fullmatch(path.read_text().splitlines()[0]) for path in sorted(FOLDER.glob("*.yaml"))
    }
    return {path: header for path, header in headers.items() if header}


def test_each_mistake_ends_in_its_condition_and_no_other_pool_minds(
    fleet: Fleet, shared_kubectl: Kubectl, kubectl: Kubectl
) -> None:
    shared_kubectl.apply(tiny_model("tiny-1") + "---" + BYSTANDER)
    wait_ready(shared_kubectl, "bystander")
    before = restarts(fleet)
    manifests = bad_manifests()
    assert len(manifests) >= 10
    # tiny-1 stands in several of them; each file's own part is what it is about.
    for path in manifests:
        kubectl("apply", "-f", str(path))
    wrong = {path.stem: wait_for_condition(kubectl, path, header) for path, header in manifests.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
    assert restarts(fleet) == before, "no mistake restarts the operator"
    draw(fleet.gateways()[0], f"{shared_kubectl.namespace}/bystander")
    shared_kubectl("scale", "inferencepools.imagefleet.dev/bystander", "--replicas=2")
    wait_for(lambda: ready_workers(shared_kubectl) == 2)


def wait_for_condition(kubectl: Kubectl, path: Path, header: re.Match[str]) -> str:
    """Empty when the condition came, else what stands there instead."""
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    name = next(d["metadata"]["name"] for d in reversed(documents) if d["kind"] == header["kind"])
    resource = f"{header['kind'].lower()}s.imagefleet.dev/{name}"

    def reached() -> bool:
        found = conditions(kubectl.get(resource)).get(header["type"], {})
        return (found.get("status"), found.get("reason")) == (header["status"], header["reason"])

    try:
        wait_for(reached, every=0.5)
    except TimeoutError:
        return str(conditions(kubectl.get(resource)))
    return "" if message_of(kubectl, resource, header["type"]) else "the condition has no message"


def message_of(kubectl: Kubectl, resource: str, condition: str) -> str:
    return str(conditions(kubectl.get(resource))[condition].get("message", ""))


def restarts(fleet: Fleet) -> dict[str, int]:
    statuses = {pod["metadata"]["name"]: pod["status"]["containerStatuses"] for pod in fleet.pods("operator")}
    return {name: containers[0]["restartCount"] for name, containers in statuses.items()}


def ready_workers(kubectl: Kubectl) -> int:
    return int(kubectl.get("inferencepools.imagefleet.dev/bystander")["status"]["readyReplicas"])


@pytest.mark.parametrize("name", ["condition-model-digest-mismatch", "condition-model-of-pickles"])
def test_the_list_holds_the_mistakes_that_matter_most(name: str) -> None:
    assert name in {path.stem for path in bad_manifests()}
