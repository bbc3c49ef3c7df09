"""The two resources in a real API server: what it takes, refuses, fills in and shows.

The tests have a control plane of their own, in which no operator runs: nothing but they writes a status.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from imagefleet_operator.api import ImageModel, InferencePool
from imagefleet_operator.store.records import pool_record

from scripts.api_reference import fields
from scripts.generate_crds import KINDS, custom_resource_definition
from tests.cluster.cluster import PATIENCE, Cluster, KubectlError
from tests.cluster.node.config import NodeSpec
from tests.integration.manifests import (
    FOLDER,
    BadManifest,
    bad_manifests,
    condition_manifests,
    good_manifests,
    refused_manifests,
)
from tests.plugins.cluster import Kubectl

CRDS = Path("crds")
EXAMPLES = sorted(Path("examples").glob("*/*.yaml"))
MODEL = (FOLDER / "good" / "model-shortest.yaml").read_text()
POOL = (FOLDER / "good" / "pool-shortest.yaml").read_text()
READY = {
    "type": "Ready",
    "status": "False",
    "observedGeneration": 1,
    "lastTransitionTime": "2026-01-02T03:04:05Z",
    "reason": "WorkersStarting",
    "message": "0 of 1 workers are ready.",
}
MODEL_STATUS, POOL_STATUS = (
    yaml.safe_load((FOLDER / "status" / f"{kind}.yaml").read_text()) for kind in ("model", "pool")
)
NOT_OURS = {".apiVersion", ".kind", ".metadata"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that has the CRDs and no operator."""
    running = Cluster.start(
        tmp_path_factory.mktemp("api") / "it", nodes=[NodeSpec("node-1", gpus=0)], owned=True
    )
    running.kubectl("apply", "-f", str(CRDS))
    running.kubectl("wait", "--for=condition=Established", "-f", str(CRDS), PATIENCE)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def namespaces(cluster: Cluster) -> Iterator[str]:
    """Namespaces that nobody used. Many are made at a time, and none is deleted: the cluster ends with the module."""
    return (name for first in itertools.count(0, 50) for name in _made(cluster, first, first + 50))


def _made(cluster: Cluster, first: int, end: int) -> list[str]:
    names = [f"api-{number}" for number in range(first, end)]
    made = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
    cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(made))
    return names


@pytest.fixture
def namespace(namespaces: Iterator[str]) -> str:
    return next(namespaces)


@pytest.fixture(scope="module")
def refusals(shared: Kubectl) -> dict[str, str]:
    """What kubectl prints of each bad manifest, by its path; all in one call, for most of a call is its start."""
    files = [f"--filename={bad.path}" for bad in refused_manifests()]
    said: dict[str, str] = {}
    path = ""
    for line in refusal_of(shared, "apply", *files).splitlines():
        found = re.search(rf'"({re.escape(str(FOLDER))}[^"]+)"', line)
        path = found[1] if found else path
        said[path] = said.get(path, "") + line + "\n"
    return said


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Kubectl:
    """For tests that leave nothing behind; the others get a namespace each."""
    cluster.kubectl("create", "namespace", "shared")
    return Kubectl(cluster, "shared")


def refusal_of(kubectl: Kubectl, *args: str, stdin: str | None = None) -> str:
    with pytest.raises(KubectlError) as caught:
        kubectl(*args, stdin=stdin)
    return str(caught.value)


def dry_run(kubectl: Kubectl, manifest: str) -> dict[str, Any]:
    """The resource as the API server would store it."""
    made: dict[str, Any] = json.loads(
        kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=manifest)
    )
    return made


def patch_status(kubectl: Kubectl, name: str, status: dict[str, Any]) -> None:
    kubectl("patch", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def table(text: str) -> list[list[str]]:
    """The cells of what `kubectl get` prints; two spaces at least stand between columns."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_there_are_at_least_forty_different_mistakes() -> None:
    assert len({manifest.path.stem for manifest in bad_manifests()}) >= 40


@pytest.mark.parametrize("bad", refused_manifests(), ids=lambda bad: bad.path.stem)
def test_a_bad_manifest_is_refused_with_a_message_that_says_how_to_mend_it(
    refusals: dict[str, str], bad: BadManifest
) -> None:
    message = refusals[str(bad.path)]
    assert re.search(str(bad.refusal), message), message


@pytest.mark.parametrize(
    "path", [*good_manifests(), *EXAMPLES], ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_a_good_manifest_is_taken_and_applying_it_again_changes_nothing(kubectl: Kubectl, path: Path) -> None:
    assert kubectl("apply", "-f", str(path)).strip().endswith("created")
    assert kubectl("apply", "-f", str(path)).strip().endswith("unchanged")


@pytest.mark.parametrize("path", good_manifests(), ids=lambda path: path.stem)
def test_server_side_apply_settles(kubectl: Kubectl, path: Path) -> None:
    # The API server fills the default status in when it reads, and stores it with the first apply after that.
    versions = [
        kubectl("apply", "--server-side", "-o", "jsonpath={.metadata.resourceVersion}", "-f", str(path))
        for _ in range(3)
    ]
    assert versions[1] == versions[2]


@pytest.mark.parametrize("bad", condition_manifests(), ids=lambda bad: bad.path.stem)
def test_what_only_the_operator_can_find_wrong_is_taken(shared: Kubectl, bad: BadManifest) -> None:
    shared("create", "--dry-run=server", "-f", str(bad.path))
    assert bad.condition is not None
    assert bad.condition.kind in {document["kind"] for document in bad.documents}


@pytest.mark.parametrize("path", good_manifests(), ids=lambda path: path.stem)
def test_the_defaults_of_the_api_server_are_those_of_the_operator(shared: Kubectl, path: Path) -> None:
    manifest = path.read_text()
    stored = dry_run(shared, manifest)
    kind: type[ImageModel] | type[InferencePool] = (
        ImageModel if stored["kind"] == "ImageModel" else InferencePool
    )
    given = yaml.safe_load(manifest)
    assert kind.parse(stored).spec == kind.parse(stored | {"spec": given["spec"]}).spec


def test_the_shortest_model_gets_every_default(shared: Kubectl) -> None:
    assert dry_run(shared, MODEL)["spec"] == {
        "source": {"uri": "file:///models/tiny-1"},
        "pipeline": {
            "className": "AutoPipelineForText2Image",
            "dtype": "auto",
            "quantization": "none",
            "compile": "none",
            "attention": "auto",
        },
        "defaults": {"steps": 20, "guidanceScale": 5, "size": "512x512"},
        "limits": {"maxMegapixels": 1.1, "maxSteps": 50, "maxImages": 4},
    }


def test_the_shortest_pool_gets_every_default_outside_lists(shared: Kubectl) -> None:
    assert dry_run(shared, POOL)["spec"] == {
        "models": [{"name": "tiny", "model": "tiny-1"}],
        "prePull": False,
        "replicas": 1,
        "suspend": False,
        "tier": "interactive",
        "worker": {"accelerator": {"resource": "nvidia.com/gpu", "count": 1}, "maxRequestSeconds": 300},
    }


@pytest.mark.parametrize("manifest", [MODEL, POOL], ids=["model", "pool"])
def test_a_new_resource_says_that_nobody_has_seen_it(shared: Kubectl, manifest: str) -> None:
    assert dry_run(shared, manifest)["status"] == {"observedGeneration": -1}


def test_a_status_in_a_manifest_is_dropped(shared: Kubectl) -> None:
    claimed = MODEL + "status: {observedGeneration: 1, digest: 'sha256:0'}\n"
    assert dry_run(shared, claimed)["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize(
    "patch",
    [
        {"defaults": {"steps": 4, "size": "64x64"}},
        {"limits": {"maxSteps": 100}},
        {"sizes": ["512x512"]},
        {"capabilities": ["inpainting"]},
        {"memory": "7Gi"},
        {"license": {"spdx": "MIT"}},
    ],
    ids=lambda patch: next(iter(patch)),
)
def test_what_does_not_make_another_model_of_it_may_change(kubectl: Kubectl, patch: dict[str, Any]) -> None:
    kubectl.apply(MODEL)
    kubectl("patch", "imgmodel/shortest", "--type=merge", "-p", json.dumps({"spec": patch}))
    assert kubectl.get("imgmodel/shortest")["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("patch", "want"),
    [
        ({"source": {"uri": "file:///models/tiny-2"}}, "spec.source cannot be changed"),
        ({"source": {"digest": "sha256:" + "0" * 64}}, "spec.source cannot be changed"),
        ({"pipeline": {"className": "FluxPipeline"}}, "spec.pipeline cannot be changed"),
        ({"pipeline": {"dtype": "float16"}}, "spec.pipeline cannot be changed"),
        ({"pipeline": {"stepCache": {"type": "TaylorSeer"}}}, "spec.pipeline cannot be changed"),
        (
            {"adapters": [{"name": "pixel", "source": {"uri": "file:///models/pixel"}}]},
            "spec.adapters cannot be changed",
        ),
    ],
    ids=["uri", "digest", "class", "dtype", "step cache", "adapters"],
)
def test_what_makes_another_model_of_it_cannot_change(
    kubectl: Kubectl, patch: dict[str, Any], want: str
) -> None:
    kubectl.apply(MODEL)
    message = refusal_of(
        kubectl, "patch", "imgmodel/shortest", "--type=merge", "-p", json.dumps({"spec": patch})
    )
    assert want in message
    assert "make a new ImageModel" in message


def test_the_order_of_adapters_means_nothing(kubectl: Kubectl) -> None:
    manifest = yaml.safe_load((FOLDER / "good" / "model-remote.yaml").read_text())
    kubectl.apply(yaml.safe_dump(manifest))
    manifest["spec"]["adapters"].reverse()
    kubectl.apply(yaml.safe_dump(manifest))


def test_a_model_of_an_older_version_gets_the_new_defaults_and_may_still_be_changed(kubectl: Kubectl) -> None:
    """What was stored before the options came has none of them."""
    kubectl.apply(MODEL)
    kubectl("patch", "imgmodel/shortest", "--type=merge", "-p", '{"spec":{"pipeline":{"compile":null}}}')
    kubectl("patch", "imgmodel/shortest", "--type=merge", "-p", '{"spec":{"adapters":[]}}')
    assert kubectl.get("imgmodel/shortest")["spec"]["pipeline"]["compile"] == "none"


def test_kubectl_scale_changes_the_replicas_of_a_pool(kubectl: Kubectl) -> None:
    kubectl.apply(POOL)
    kubectl("scale", "inferencepools.imagefleet.dev/shortest", "--replicas=3")
    assert kubectl.get("imgpool/shortest")["spec"]["replicas"] == 3
    kubectl("scale", "imgpool/shortest", "--replicas=0")
    assert kubectl.get("imgpool/shortest")["spec"]["replicas"] == 0


def test_the_scale_of_a_pool_shows_its_workers_and_their_selector(kubectl: Kubectl) -> None:
    kubectl.apply(POOL)
    patch_status(kubectl, "imgpool/shortest", {"replicas": 1, "selector": "imagefleet.dev/pool=shortest"})
    scale = kubectl.get("imgpool/shortest", "--subresource=scale")
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"] == {"replicas": 1, "selector": "imagefleet.dev/pool=shortest"}


def test_a_status_does_not_count_as_a_change_of_the_spec(kubectl: Kubectl) -> None:
    kubectl.apply(POOL)
    patch_status(kubectl, "imgpool/shortest", {"observedGeneration": 1, "conditions": [READY]})
    pool = kubectl.get("imgpool/shortest")
    assert pool["metadata"]["generation"] == 1
    assert pool["status"]["conditions"] == [READY]


@pytest.mark.parametrize(
    ("missing", "want"),
    [(key, f"status.conditions[0].{key}: Required value") for key in sorted(READY)],
)
def test_a_condition_is_complete(kubectl: Kubectl, missing: str, want: str) -> None:
    kubectl.apply(POOL)
    partial = {key: value for key, value in READY.items() if key != missing}
    with pytest.raises(KubectlError, match=re.escape(want)):
        patch_status(kubectl, "imgpool/shortest", {"conditions": [partial]})


def test_kubectl_wait_reads_the_conditions(kubectl: Kubectl) -> None:
    kubectl.apply(POOL)
    patch_status(kubectl, "imgpool/shortest", {"observedGeneration": 1, "conditions": [READY]})
    kubectl("wait", "--for=condition=Ready=False", "imgpool/shortest", PATIENCE)


def test_a_pool_is_shown_in_columns(kubectl: Kubectl) -> None:
    kubectl.apply(POOL)
    patch_status(kubectl, "imgpool/shortest", POOL_STATUS)
    head, row = table(kubectl("get", "imgpool"))
    rolling = ["STABLE", "CANARY", "WEIGHT", "STEP"]
    assert head == ["NAME", "READY", "DESIRED", "UP", "MODEL", *rolling, "REASON", "AGE"]
    assert row[:5] == ["shortest", "False", "3", "2", "tiny"]
    assert row[5:-1] == ["tiny-1", "tiny-2", "5%", "2/5", "WorkersStarting"]
    wide, wide_row = table(kubectl("get", "imgpool", "-o", "wide"))
    assert wide[len(head) :] == ["WORKERS", "PHASE", "ACCELERATOR", "MESSAGE"]
    assert wide_row[len(head) :] == ["3", "Paused", "NVIDIA-H200", "2 of 3 workers are ready."]


def test_a_pool_that_moves_nowhere_shows_its_stable_model(kubectl: Kubectl) -> None:
    kubectl.apply(POOL)
    status = {"desiredReplicas": 1, "rollout": {"stable": "tiny-1"}, "conditions": [READY]}
    patch_status(kubectl, "imgpool/shortest", status)
    (_, row) = table(kubectl("get", "imgpool"))
    assert row[:-1] == ["shortest", "False", "1", "tiny", "tiny-1", "WorkersStarting"]


def test_a_model_is_shown_in_columns(kubectl: Kubectl) -> None:
    kubectl.apply(MODEL)
    patch_status(kubectl, "imgmodel/shortest", MODEL_STATUS)
    head, row = table(kubectl("get", "imgmodel"))
    assert head == ["NAME", "READY", "CLASS", "BYTES", "COPIES", "CACHED", "REASON", "AGE"]
    assert row[:-1] == ["shortest", "False", "FluxPipeline", "1234", "3", "Fetching", "WorkersStarting"]
    wide, wide_row = table(kubectl("get", "imgmodel", "-o", "wide"))
    assert wide[len(head) :] == ["SOURCE", "DIGEST", "MESSAGE"]
    assert wide_row[len(head) :] == ["file:///models/tiny-1", "sha256:abc", "0 of 1 workers are ready."]


@pytest.mark.parametrize(
    ("manifest", "name", "status"),
    [(MODEL, "imgmodel/shortest", MODEL_STATUS), (POOL, "imgpool/shortest", POOL_STATUS)],
    ids=["model", "pool"],
)
def test_nothing_of_a_status_is_lost(
    kubectl: Kubectl, manifest: str, name: str, status: dict[str, Any]
) -> None:
    kubectl.apply(manifest)
    patch_status(kubectl, name, status)
    assert kubectl.get(name)["status"] == {"observedGeneration": -1, **status}


def test_who_changed_a_model_last_is_read_from_the_managed_fields(kubectl: Kubectl) -> None:
    def authors() -> dict[str, str]:
        return dict(pool_record(kubectl.get("imgpool/shortest", "--show-managed-fields")).authors)

    kubectl.apply(POOL)
    assert authors() == {"tiny": "kubectl-client-side-apply"}
    patch_status(kubectl, "imgpool/shortest", POOL_STATUS)
    kubectl("scale", "imgpool/shortest", "--replicas=3")
    assert authors() == {"tiny": "kubectl-client-side-apply"}
    kubectl(
        *("apply", "--server-side", "--force-conflicts", "--field-manager=gitops", "-f", "-"),
        stdin=POOL.replace("tiny-1", "tiny-2"),
    )
    assert authors() == {"tiny": "gitops"}


def test_one_category_lists_both_kinds(kubectl: Kubectl) -> None:
    kubectl.apply(MODEL)
    kubectl.apply(POOL)
    names = kubectl("get", "imagefleet", "-o", "name").split()
    assert sorted(names) == ["imagemodel.imagefleet.dev/shortest", "inferencepool.imagefleet.dev/shortest"]


def test_the_short_name_of_another_projects_pool_is_not_claimed(shared: Kubectl) -> None:
    assert "doesn't have a resource type" in refusal_of(shared, "get", "infpool")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource.KIND)
def test_kubectl_explains_every_field(shared: Kubectl, kind: Any) -> None:
    schema = custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    told = " ".join(shared("explain", kind.resource.PLURAL, "--recursive=false").split())
    assert schema["description"] in told
    documents = json.loads(shared("get", "--raw", "/openapi/v3/apis/imagefleet.dev/v1alpha1"))
    (published,) = (
        value
        for name, value in documents["components"]["schemas"].items()
        if name.endswith(f".{kind.resource.KIND}")
    )
    published_fields = {path: field.get("description") for path, field, _ in fields(published, "")}
    for path, field, _ in fields(schema, ""):
        if path not in NOT_OURS:
            assert published_fields[path] == field["description"]


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("imagemodel.spec.source.uri", "pvc://CLAIM/PATH is a folder of the PersistentVolumeClaim CLAIM"),
        (
            "imgmodel.spec.pipeline.dtype",
            "ENUM: auto float32 float16 bfloat16 DESCRIPTION: The number format",
        ),
        ("imgmodel.spec.adapters.source.uri", "hf://OWNER/NAME@COMMIT[/FOLDER] is a repository"),
        ("imgmodel.spec.pipeline.stepCache.threshold", "Of FirstBlock: the largest relative change"),
        (
            "imgpool.spec.models.minResident",
            "Workers that always hold the model, ready to draw; 1 where absent.",
        ),
        ("inferencepools.imagefleet.dev.spec.replicas", "kubectl scale"),
        ("imgpool.spec.models.rollout.steps.setWeight", "The canary gets this share of the requests"),
        ("imgpool.status.suspensions.until", "absent while it holds"),
        ("imgpool.spec.worker.podTemplate.spec.containers.name", "Tells it apart"),
        ("imgpool.status.accelerator.powerWatts", "Power drawn, the sum."),
    ],
)
def test_kubectl_explain_prints_the_reference(shared: Kubectl, path: str, want: str) -> None:
    assert want in " ".join(shared("explain", path).split())


def test_a_pod_template_keeps_fields_that_the_crd_does_not_list(shared: Kubectl) -> None:
    complete = (FOLDER / "good" / "pool-complete.yaml").read_text()
    spec = dry_run(shared, complete)["spec"]["worker"]["podTemplate"]["spec"]
    assert spec == yaml.safe_load(complete)["spec"]["worker"]["podTemplate"]["spec"]


def test_unknown_fields_are_dropped_where_the_client_does_not_ask_to_refuse_them(kubectl: Kubectl) -> None:
    unknown = MODEL.replace("spec: {", "spec: {digest: x, ")
    made = json.loads(kubectl("create", "--validate=false", "-o", "json", "-f", "-", stdin=unknown))
    assert "digest" not in made["spec"]
