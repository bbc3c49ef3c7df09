"""The operator against a real API server: what it makes, repairs, refuses and says, and what it leaves alone."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.audit import AuditLog
from tests.cluster.cluster import REPOSITORY, Cluster, wait_for
from tests.cluster.node.config import NodeSpec
from tests.cluster.outside import USER, OutsideOperator, make_account, write_caller_key, write_kubeconfig
from tests.plugins.cluster import Kubectl

CHILDREN = ("deployment", "service", "serviceaccount", "poddisruptionbudget")
FAKE_WORKER = [sys.executable, str(REPOSITORY / "tests" / "integration" / "fake_worker.py")]
STARTER = Callable[[str], OutsideOperator]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own, so that no other operator works in it."""
    folder = tmp_path_factory.mktemp("operator-cluster") / "it"
    running = Cluster.start(folder, nodes=[NodeSpec("node-1", gpus=8)], owned=True)
    running.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "crds"))
    running.kubectl("wait", "--for=condition=Established", "-f", str(REPOSITORY / "crds"), "--timeout=30s")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def start(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[STARTER]:
    """Starts operators by name; all are killed in the end. Short leases, so that none waits long for another."""
    folder = tmp_path_factory.mktemp("operator")
    kubeconfig = write_kubeconfig(cluster, folder / "kubeconfig", make_account(cluster))
    key = write_caller_key(folder / "caller.pem")
    started: list[OutsideOperator] = []

    def starter(identity: str) -> OutsideOperator:
        made = OutsideOperator(cluster, kubeconfig, key, folder / f"{identity}.log", identity)
        made.start()
        started.append(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in (("LEASE", "4"), ("RENEW", "3"), ("RETRY", "0.5")):
            patch.setenv(f"IMAGEFLEET_{name}_SECONDS", seconds)
        yield starter
    for made in started:
        made.kill()


@pytest.fixture(scope="module")
def operator(start: STARTER) -> OutsideOperator:
    """The operator that most tests talk to."""
    return start("first")


@pytest.fixture(scope="module")
def models() -> Iterator[Path]:
    """A folder that passes for a model, where pods see it too: /tmp is their own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        weights = folder / "shapes" / "unet"
        weights.mkdir(parents=True)
        index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
        (folder / "shapes" / "model_index.json").write_text(json.dumps(index))
        header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        content = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
        (weights / "diffusion_pytorch_model.safetensors").write_bytes(content)
        for path in (folder, folder / "shapes", weights):
            path.chmod(0o755)
        yield folder


def pool(
    name: str = "thumbs",
    model: str = "shapes",
    replicas: int = 1,
    fake: Mapping[str, str] = {},
    **worker: Any,
) -> str:
    """A pool of fake workers; `fake`: their environment."""
    env = [{"name": variable, "value": value} for variable, value in fake.items()]
    container = {"name": "worker", "command": FAKE_WORKER, "args": [], "env": env}
    template = {"spec": {"containers": [container]}}
    spec = {
        "models": [{"name": "shapes", "model": model}],
        "replicas": replicas,
        "worker": {"podTemplate": template, "accelerator": {"count": 0}, **worker},
    }
    return manifest("InferencePool", name, spec)


def image_model(
    models: Path,
    name: str = "shapes",
    folder: str = "shapes",
    pipeline: Mapping[str, str] = {},
    **source: Any,
) -> str:
    """A model whose files are in the folder."""
    source = {"uri": f"file://{models / folder}", **source}
    return manifest("ImageModel", name, {"source": source, "pipeline": dict(pipeline)})


def manifest(kind: str, name: str, spec: dict[str, Any]) -> str:
    document = {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    return yaml.safe_dump(document)


def condition(kubectl: Kubectl, kind: str, name: str, wanted: str) -> dict[str, Any] | None:
    """The condition ``Type=Status/Reason`` where it is so now, else None."""
    status = kubectl.get(kind, name).get("status", {})
    for found in status.get("conditions", ()):
        if f"{found['type']}={found['status']}/{found['reason']}" == wanted:
            return dict(found)
    return None


def await_condition(
    kubectl: Kubectl, kind: str, name: str, wanted: str, seconds: float = 60
) -> dict[str, Any]:
    wait_for(lambda: condition(kubectl, kind, name, wanted) is not None, seconds=seconds)
    found = condition(kubectl, kind, name, wanted)
    assert found is not None
    return found


def exists(kubectl: Kubectl, kind: str, name: str) -> bool:
    return bool(kubectl("get", kind, name, "--ignore-not-found", "-o", "name").strip())


@pytest.fixture
def settled(kubectl: Kubectl, operator: OutsideOperator, models: Path) -> Kubectl:
    """A namespace with a pool of one ready fake worker that holds its model."""
    kubectl.apply(image_model(models))
    kubectl.apply(pool())
    kubectl("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/thumbs", "--timeout=90s")
    return kubectl


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
        os.sched_yield()
        wait_for(
            lambda: sum(1 for e in audit.events(since=mark, verb="update", resource="leases")) >= 20,
            seconds=60,
        )
        return not [e for e in audit.events(since=mark, user=USER, writes=True) if e.resource != "leases"]

    wait_for(quiet_for_ten_seconds, seconds=120)


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_deleted_child_comes_back(kind: str, settled: Kubectl) -> None:
    before = settled.get(kind, "thumbs-workers")["metadata"]["uid"]
    settled("delete", kind, "thumbs-workers", "--wait=false")
    wait_for(
        lambda: (
            exists(settled, kind, "thumbs-workers")
            and settled.get(kind, "thumbs-workers")["metadata"]["uid"] != before
        ),
        seconds=30,
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
    wait_for(lambda: value() == before, seconds=30)
    assert want in (..., before)


def test_what_others_add_to_a_child_stays(settled: Kubectl) -> None:
    settled("annotate", "deployment", "thumbs-workers", "team.example/owner=me")
    settled("scale", "inferencepools.imagefleet.dev/thumbs", "--replicas=2")
    wait_for(lambda: settled.get("deployment", "thumbs-workers")["spec"]["replicas"] == 2, seconds=30)
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
    kubectl("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/thumbs", "--timeout=90s")
    assert condition(kubectl, "inferencepools.imagefleet.dev", "thumbs", "Stalled=True/ChildNotOwned") is None


def test_a_child_that_the_api_server_refuses_stalls_its_pool_alone(
    settled: Kubectl, models: Path, operator: OutsideOperator
) -> None:
    bad = yaml.safe_load(pool("bad"))
    bad["spec"]["worker"]["podTemplate"]["spec"]["restartPolicy"] = "Sometimes"
    settled.apply(yaml.safe_dump(bad))
    stalled = await_condition(settled, "inferencepools.imagefleet.dev", "bad", "Stalled=True/ChildRejected")
    assert "restartPolicy" in stalled["message"]
    settled.apply(pool("good"))
    settled("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/good", "--timeout=90s")


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        pytest.param(pool(model="nowhere"), "ModelsPlaced=False/ModelNotFound", id="no such model"),
        pytest.param(
            pool(accelerator={"resource": "example.com/tpu", "count": 1}),
            "WorkersReady=False/WorkersUnschedulable",
            id="no such accelerator",
        ),
        pytest.param(pool(replicas=0), "Ready=True/ScaledToZero", id="zero replicas"),
    ],
)
def test_a_pool_says_what_is_wrong(
    spec: str, wanted: str, kubectl: Kubectl, operator: OutsideOperator
) -> None:
    kubectl.apply(spec)
    found = await_condition(kubectl, "inferencepools.imagefleet.dev", "thumbs", wanted)
    assert found["message"]


@pytest.mark.parametrize(
    ("folder", "source", "reason"),
    [
        pytest.param("shapes", {"digest": "sha256:" + "0" * 64}, "DigestMismatch", id="another digest"),
        pytest.param("nowhere", {}, "SourceNotFound", id="no folder"),
    ],
)
def test_bad_files_never_make_a_model_ready(
    folder: str,
    source: dict[str, str],
    reason: str,
    kubectl: Kubectl,
    models: Path,
    operator: OutsideOperator,
) -> None:
    kubectl.apply(image_model(models, "bad", folder, {}, **source))
    await_condition(kubectl, "imagemodels.imagefleet.dev", "bad", f"Stalled=True/{reason}")
    assert condition(kubectl, "imagemodels.imagefleet.dev", "bad", f"Ready=False/{reason}") is not None
    wait_for(
        lambda: reason in kubectl("get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}").split()
    )


def test_a_model_is_served_where_an_accelerator_can_do_what_it_asks_and_says_where_none_can(
    kubectl: Kubectl, models: Path, operator: OutsideOperator
) -> None:
    kubectl.apply(image_model(models, pipeline={"quantization": "float8-dynamic"}))
    kubectl.apply(pool())
    model, pools = "imagemodels.imagefleet.dev", "inferencepools.imagefleet.dev"
    refused = await_condition(kubectl, pools, "thumbs", "ModelsPlaced=False/OptionUnsupported", 90)
    assert refused["message"] == "shapes on cpu: float8-dynamic needs an accelerator with float8."
    stalled = await_condition(kubectl, model, "shapes", "Stalled=True/OptionUnsupported")
    assert stalled["message"] == "cpu: float8-dynamic needs an accelerator with float8."
    kubectl.apply(pool("able", fake={"FAKE_ACCELERATOR": "FAKE-1"}))
    kubectl("wait", "--for=condition=Ready", f"{pools}/able", "--timeout=90s")
    ready = await_condition(kubectl, model, "shapes", "Ready=True/Ready")
    assert "Not on every accelerator: cpu: float8-dynamic needs" in ready["message"]
    assert condition(kubectl, pools, "thumbs", "ModelsPlaced=False/OptionUnsupported") is not None


def test_how_far_a_fetch_is_is_told_and_costs_nothing_while_it_stands_still(
    kubectl: Kubectl, models: Path, operator: OutsideOperator, audit: AuditLog
) -> None:
    kubectl.apply(image_model(models))
    kubectl.apply(pool(replicas=2, fake={"FAKE_FETCHED": "42"}))
    model = "imagemodels.imagefleet.dev"

    def both() -> bool:
        found = condition(kubectl, model, "shapes", "Cached=False/Fetching")
        return found is not None and found["message"] == "2 of 2 workers fetch the files: 42 % of 2Ki."

    wait_for(both, seconds=90)
    copies = kubectl.get(model, "shapes")["status"]["copies"]
    assert copies == {
        "available": 0, "total": 2, "failed": 0, "fetching": 2, "bytesFetched": 840, "bytesTotal": 2000,
    }  # fmt: skip
    mark = audit.mark()
    wait_for(lambda: len(list(audit.events(since=mark, verb="update", resource="leases"))) >= 10, seconds=60)
    written = audit.events(since=mark, user=USER, writes=True, namespace=kubectl.namespace)
    assert [e.resource for e in written if e.resource == "imagemodels"] == []


def test_a_model_that_comes_after_its_pool_is_placed_at_once(settled: Kubectl, models: Path) -> None:
    entries = [{"name": name, "model": name} for name in ("shapes", "later")]
    patch = json.dumps({"spec": {"models": entries}})
    settled("patch", "inferencepools.imagefleet.dev", "thumbs", "--type=merge", "-p", patch)
    await_condition(settled, "inferencepools.imagefleet.dev", "thumbs", "ModelsPlaced=False/ModelNotFound")
    settled.apply(image_model(models, "later"))
    settled("wait", "--for=condition=Ready", "imagemodels.imagefleet.dev/later", "--timeout=60s")
    settled("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/thumbs", "--timeout=10s")


def test_a_pool_that_is_made_anew_waits_for_the_end_of_the_old_children(settled: Kubectl) -> None:
    settled("delete", "inferencepools.imagefleet.dev", "thumbs")
    settled.apply(pool())
    settled("wait", "--for=condition=Ready", "inferencepools.imagefleet.dev/thumbs", "--timeout=90s")
    events = settled("get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}")
    assert "ChildNotOwned" not in events.split()


def test_a_deleted_pool_leaves_nothing_behind(settled: Kubectl) -> None:
    settled("delete", "inferencepools.imagefleet.dev", "thumbs", "--timeout=60s")
    wait_for(lambda: not any(exists(settled, kind, "thumbs-workers") for kind in CHILDREN), seconds=60)
    wait_for(lambda: not settled.get("pods", "-l", "imagefleet.dev/pool=thumbs")["items"], seconds=60)


def test_a_killed_operator_starts_again_and_changes_nothing(
    settled: Kubectl, operator: OutsideOperator, audit: AuditLog
) -> None:
    def versions() -> dict[str, str]:
        return {kind: settled.get(kind, "thumbs-workers")["metadata"]["resourceVersion"] for kind in CHILDREN}

    def measured() -> bool:
        status = settled.get("imagemodels.imagefleet.dev", "shapes")["status"]
        return bool(status["copies"]["available"] == 1 and status.get("performance"))

    wait_for(measured, seconds=30)
    before = versions()
    operator.kill()
    mark = audit.mark()
    operator.start()
    settled("patch", "service", "thumbs-workers", "--type=merge", "-p", '{"spec":{"selector":null}}')
    wait_for(lambda: settled.get("service", "thumbs-workers")["spec"].get("selector"), seconds=30)
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
        wait_for(lambda: leader() == "second", seconds=30)
        settled("delete", "service", "thumbs-workers", "--wait=false")
        wait_for(lambda: exists(settled, "service", "thumbs-workers"), seconds=30)
    finally:
        second.kill()
        operator.start()
        wait_for(lambda: leader() == "first", seconds=30)
