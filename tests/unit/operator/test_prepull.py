"""What nodes fetch before workers come, and what is said of it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from imagefleet_operator import prepull_metrics
from imagefleet_operator.plan.cluster_types import DaemonSetState
from imagefleet_operator.plan.prepull import (
    PrePullSpec,
    obsolete,
    pre_pull_status,
    pre_pulled,
    prepull_spec,
)
from imagefleet_operator.plan.spot_types import SpotSpec
from imagefleet_operator.plan.types import Json, PoolObserved, SourceSpec
from imagefleet_operator.plan.workers import NodeCache, WorkerDefaults
from imagefleet_operator.render import prepull_daemon_set

from tests.unit.operator.make import DIGEST, described, model, observed, pool

SHARED = NodeCache({"hostPath": {"path": "/var/cache", "type": "Directory"}})
DEFAULTS = WorkerDefaults("worker:1", cache=SHARED)
BUCKET = SourceSpec("s3://models/a", secret="bucket")
HUB = SourceSpec("hf://o/n@" + "a" * 40)
GPU = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def preparing(*names: str, state: DaemonSetState | None = None, **spec: Any) -> PoolObserved:
    """A pool that asks for it, of models from a bucket with an adapter of the hub."""
    models = {
        name: described(
            model(name, adapters=[{"name": "pixel", "digest": DIGEST}]),
            source=BUCKET,
            adapters={"pixel": HUB},
        )
        for name in names or ("a",)
    }
    return replace(observed(pool=pool(*models, pre_pull=True, **spec)), models=models, pre_pull=state)


def made(found: PoolObserved, defaults: WorkerDefaults = DEFAULTS) -> PrePullSpec:
    spec = prepull_spec(found, defaults)
    assert spec is not None
    return spec


def test_a_pool_that_does_not_ask_prepares_no_node() -> None:
    assert prepull_spec(observed(), DEFAULTS) is None


def test_remote_models_are_fetched_by_the_digests_that_were_verified() -> None:
    spec = made(preparing())
    assert spec.fetches == (
        (
            *("verify", "--uri", "s3://models/a", "--digest", DIGEST, "--credentials", "/secrets/bucket"),
            *("--adapter", f"pixel={HUB.uri}#{DIGEST}", "--required"),
        ),
    )
    assert spec.secrets == ("bucket",)


def test_a_model_of_the_image_with_an_adapter_from_elsewhere_is_fetched_for_with_the_claims_that_it_needs() -> (
    None
):
    local = SourceSpec("file:///models/a", "/models/a")
    claimed = SourceSpec("pvc://loras/ink", "/pvc/loras/ink", "loras")
    found = model("a", adapters=[{"name": name, "digest": DIGEST} for name in ("pixel", "ink")])
    found = described(found, source=local, adapters={"pixel": HUB, "ink": claimed})
    spec = made(replace(preparing(), models={"a": found}))
    assert len(spec.fetches) == 1
    assert spec.claims == ("loras",)


@pytest.mark.parametrize(
    ("found", "defaults"),
    [
        pytest.param(preparing(), WorkerDefaults("worker:1"), id="an emptyDir is shared by nobody"),
        pytest.param(
            replace(observed(pool=pool(pre_pull=True)), models={"shapes-1": model()}), DEFAULTS,
            id="a folder of the image",
        ),
        pytest.param(
            replace(preparing(), models={"a": described(model("a", ready=False), source=BUCKET)}), DEFAULTS,
            id="a model that is not verified",
        ),
        pytest.param(replace(preparing(), models={"a": None}), DEFAULTS, id="a model that there is not"),
    ],
)  # fmt: skip
def test_nothing_is_fetched_but_the_image_for(found: PoolObserved, defaults: WorkerDefaults) -> None:
    spec = made(found, defaults)
    assert (spec.fetches, spec.secrets) == ((), ())
    assert "initContainers" not in pod(spec) or pod(spec)["initContainers"] == []


def pod(spec: PrePullSpec) -> Json:
    found: Json = prepull_daemon_set(spec)["spec"]["template"]["spec"]
    return found


def test_nodes_are_those_of_workers_of_any_capacity() -> None:
    spot = SpotSpec({"kind": "spot"}, ({"key": "spot", "operator": "Exists"},))
    template = {"spec": {"nodeSelector": {"gpu": "h200"}, "priorityClassName": "high", "containers": []}}
    found = pod(made(preparing(spot=spot, pod_template=template)))
    assert found["nodeSelector"] == {"gpu": "h200"}
    assert found["tolerations"] == [GPU, {"key": "spot", "operator": "Exists"}]
    assert "priorityClassName" not in found
    mine = {"key": "mine", "operator": "Exists"}
    assert pod(made(preparing(pod_template={"spec": {"tolerations": [mine]}})))["tolerations"] == [mine]
    assert pod(made(preparing(accelerator_count=0)))["tolerations"] == []


def test_its_pods_hold_no_accelerator_ask_for_little_and_are_no_workers() -> None:
    daemon_set = prepull_daemon_set(made(preparing("a", "b")))
    assert daemon_set["metadata"]["name"] == "thumbs-prepull"
    assert daemon_set["metadata"]["labels"]["imagefleet.dev/pool"] == "thumbs"
    labels = daemon_set["spec"]["template"]["metadata"]["labels"]
    assert "imagefleet.dev/pool" not in labels
    assert daemon_set["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert "nvidia.com/gpu" not in json.dumps(daemon_set["spec"]["template"]["spec"]["containers"])
    found = daemon_set["spec"]["template"]["spec"]
    assert [c["name"] for c in found["initContainers"]] == ["fetch-0", "fetch-1"]
    mounts = {mount["mountPath"] for mount in found["initContainers"][0]["volumeMounts"]}
    assert {"/cache", "/secrets/bucket", "/tmp"} == mounts
    assert {"name": "cache", **SHARED.volume} in found["volumes"]
    assert found["securityContext"]["runAsUser"] == 65532
    for container in (*found["containers"], *found["initContainers"]):
        assert container["image"] == "worker:1"
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_what_changes_the_fetches_changes_the_pods_and_nothing_else_does() -> None:
    one, same, other = (prepull_daemon_set(made(preparing(*names))) for names in (("a",), ("a",), ("a", "b")))
    assert one == same
    assert one["spec"]["template"] != other["spec"]["template"]


DONE = DaemonSetState(True, nodes=3, updated=3, ready=3, fetches=2)


@pytest.mark.parametrize(
    ("state", "ok", "message"),
    [
        pytest.param(None, False, "Nodes are about to be prepared.", id="there is none yet"),
        pytest.param(DONE, True, "3 of 3 nodes have the workers' image and 2 models.", id="all have all"),
        pytest.param(replace(DONE, ready=2), False, "2 of 3 nodes", id="one fetches"),
        pytest.param(replace(DONE, updated=1), False, "1 of 3 nodes", id="two have what was asked for before"),
        pytest.param(replace(DONE, current=False), False, "3 of 3 nodes", id="it was changed just now"),
        pytest.param(replace(DONE, nodes=0, updated=0, ready=0), True, "0 of 0 nodes", id="there are no such nodes"),
        pytest.param(replace(DONE, fetches=0), True, "modelCache.type is emptyDir", id="models are not fetched"),
    ],
)  # fmt: skip
def test_a_pool_says_how_many_nodes_are_prepared(
    state: DaemonSetState | None, ok: bool, message: str
) -> None:
    verdict = pre_pulled(preparing("a", "b", state=state))
    assert verdict is not None
    assert (verdict.ok, verdict.reason) == (ok, "PrePulled" if ok else "PrePulling")
    assert message in verdict.message


def test_status_counts_the_nodes_that_are_done() -> None:
    assert pre_pull_status(preparing(state=replace(DONE, updated=1))) == {"prePull": {"nodes": 3, "ready": 1}}
    assert pre_pull_status(preparing()) == {}
    assert pre_pull_status(observed()) == {}
    assert pre_pulled(observed()) is None


def test_metrics_tell_the_same_and_forget_a_pool_that_does_not_ask_any_more() -> None:
    prepull_metrics.refresh([pool(status={"prePull": {"nodes": 3, "ready": 1}}), pool(status={})])
    assert samples() == {"wanted": 3.0, "ready": 1.0}
    prepull_metrics.refresh([pool(status={})])
    assert samples() == {}


def samples() -> dict[str, float]:
    (family,) = prepull_metrics.NODES.collect()
    return {sample.labels["state"]: sample.value for sample in family.samples}


def test_what_is_not_asked_for_any_more_goes() -> None:
    assert not obsolete(preparing(state=DONE))
    assert not obsolete(observed())
    assert obsolete(replace(observed(), pre_pull=DONE))
