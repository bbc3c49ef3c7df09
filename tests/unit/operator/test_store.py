"""What the operator remembers, and whom a change concerns."""

from dataclasses import replace
from typing import Any

import pytest
from imagefleet_operator.kinds import DEPLOYMENT, MODEL, POD, POOL, SERVICE, Kind
from imagefleet_operator.plan.cluster_types import DaemonSetState, DeploymentState, JobState, Trouble
from imagefleet_operator.plan.types import SourceSpec
from imagefleet_operator.store.records import child_record, model_record, pod_record, pool_record
from imagefleet_operator.store.store import Store, WorkerState

from tests.unit.operator.make import report

Obj = dict[str, Any]


def obj(kind: Kind, name: str, version: int = 1, **parts: Any) -> Obj:
    labels = {} if kind in (POOL, MODEL) else {"imagefleet.dev/pool": "p"}
    metadata = {
        "name": name,
        "namespace": "ns",
        "uid": f"{name}-uid",
        "generation": 1,
        "resourceVersion": str(version),
        "labels": labels,
        **parts.pop("metadata", {}),
    }
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **parts}


def pool_obj(version: int = 1, model: str = "m", **parts: Any) -> Obj:
    return obj(POOL, "p", version, spec={"models": [{"name": "x", "model": model}], "replicas": 1}, **parts)


def model_obj(version: int = 1, **parts: Any) -> Obj:
    return obj(MODEL, "m", version, spec={"source": {"uri": "pvc://weights/m"}}, **parts)


READY = {"conditions": [{"type": "Ready", "status": "True"}]}
POOL_KEY, MODEL_KEY = ("pool", "ns", "p"), ("model", "ns", "m")


def test_a_pool_concerns_its_models_too() -> None:
    store = Store()
    assert store.put(POOL, pool_obj()) == {POOL_KEY, MODEL_KEY}
    assert store.pools_of_model("ns", "m") == ["p"]
    assert store.parent_keys() == [POOL_KEY]


def test_a_pool_that_changes_its_model_concerns_both() -> None:
    store = Store()
    store.put(POOL, pool_obj())
    assert store.put(POOL, pool_obj(2, "n")) == {POOL_KEY, MODEL_KEY, ("model", "ns", "n")}
    assert store.pools_of_model("ns", "m") == []


def test_a_pools_status_concerns_the_pool_alone() -> None:
    store = Store()
    store.put(POOL, pool_obj())
    assert store.put(POOL, pool_obj(2, status={"replicas": 1})) == {POOL_KEY}


def test_a_model_concerns_the_pools_that_name_it_unless_only_copies_changed() -> None:
    store = Store()
    store.put(POOL, pool_obj())
    assert store.put(MODEL, model_obj()) == {MODEL_KEY, POOL_KEY}
    assert store.put(MODEL, model_obj(2, status={"copies": {"total": 1}})) == {MODEL_KEY}
    cached = {"conditions": [{"type": "Cached", "status": "False", "message": "42 %"}]}
    assert store.put(MODEL, model_obj(3, status=cached)) == {MODEL_KEY}
    assert store.put(MODEL, model_obj(4, status={"digest": "d"})) == {MODEL_KEY, POOL_KEY}
    assert store.remove(MODEL, model_obj(5)) == {MODEL_KEY, POOL_KEY}


def test_children_and_pods_concern_their_pool() -> None:
    store = Store()
    assert store.put(SERVICE, obj(SERVICE, "p-workers")) == {POOL_KEY}
    assert store.put(POD, obj(POD, "a")) == {POOL_KEY}
    assert [pod.name for pod in store.pods_of_pool("ns", "p")] == ["a"]
    assert store.remove(POD, obj(POD, "a", 2)) == {POOL_KEY}
    assert store.pods_of_pool("ns", "p") == []


def test_what_changes_nothing_that_matters_concerns_nobody() -> None:
    store = Store()
    store.put(SERVICE, obj(SERVICE, "p-workers", 1))
    assert store.put(SERVICE, obj(SERVICE, "p-workers", 2)) == set()


def test_an_object_never_goes_back_in_time() -> None:
    store = Store()
    store.put(POD, obj(POD, "a", 5, status={"podIP": "10.0.0.5"}))
    assert store.put(POD, obj(POD, "a", 4)) == set()
    assert store.remove(POD, obj(POD, "a", 4)) == set()
    pod = store.pod("ns", "a")
    assert pod is not None
    assert pod.ip == "10.0.0.5"


@pytest.mark.parametrize("version", [1, 2], ids=["a list that began before", "the answer to a write"])
def test_what_was_deleted_stays_deleted_whoever_still_tells_of_it(version: int) -> None:
    store = Store()
    store.put(POD, obj(POD, "a", 1))
    store.remove(POD, obj(POD, "a", 3))
    assert store.put(POD, obj(POD, "a", version)) == set()
    assert store.pod("ns", "a") is None
    assert store.put(POD, obj(POD, "a", 5, metadata={"uid": "next"})) == {POOL_KEY}


def test_a_child_that_only_lost_its_label_is_known_again_when_it_has_it_back() -> None:
    store = Store()
    store.put(SERVICE, obj(SERVICE, "p-workers", 1))
    store.remove(SERVICE, obj(SERVICE, "p-workers", 2))
    assert store.put(SERVICE, obj(SERVICE, "p-workers", 3)) == {POOL_KEY}


def test_a_ghost_is_forgotten_and_its_successor_is_not() -> None:
    store = Store()
    store.put(POD, obj(POD, "a"))
    ((address, uid),) = store.uids(POD).items()
    assert store.forget(address, uid) == {POOL_KEY}
    store.put(POD, obj(POD, "a", 2, metadata={"uid": "next"}))
    assert store.forget(address, uid) == set()
    assert store.pod("ns", "a") is not None


def test_what_a_worker_said_is_not_believed_of_its_successor() -> None:
    store = Store()
    store.put(POD, obj(POD, "a", 1, status=READY))
    pod = store.pod("ns", "a")
    assert pod is not None
    store.put_worker(pod, WorkerState(pod.uid, report()))
    assert store.worker(pod).report == report()
    assert store.worker(replace(pod, uid="next")) == WorkerState("next")


def test_what_a_worker_said_is_forgotten_with_its_pod() -> None:
    store = Store()
    store.put(POD, obj(POD, "a", 1, status=READY))
    pod = store.pod("ns", "a")
    assert pod is not None
    store.put_worker(pod, WorkerState(pod.uid, report()))
    store.remove(POD, obj(POD, "a", 2))
    store.put_worker(pod, WorkerState(pod.uid, report()))
    assert store.worker(pod) == WorkerState(pod.uid)


def test_what_a_worker_said_does_not_outlive_its_being_ready() -> None:
    store = Store()
    store.put(POD, obj(POD, "a", 1, status=READY))
    pod = store.pod("ns", "a")
    assert pod is not None
    store.put_worker(pod, WorkerState(pod.uid, report()))
    store.put(POD, obj(POD, "a", 2))
    store.put(POD, obj(POD, "a", 3, status=READY))
    assert store.worker(pod) == WorkerState(pod.uid)


def managed(fields: Obj, manager: str = "imagefleet-operator", operation: str = "Apply", **more: Any) -> Obj:
    entries = [{"manager": manager, "operation": operation, "fieldsV1": fields, **more}]
    return {"managedFields": entries}


def test_trust_is_in_the_fields_of_this_very_object() -> None:
    store = Store()
    ours = child_record("Service", obj(SERVICE, "p-workers", metadata=managed({"f:spec": {}})))
    store.trust(ours)
    assert store.trusted(ours) == ours.fields_hash
    assert store.trusted(replace(ours, uid="next")) is None
    assert store.trusted(None) is None


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        managed({"f:spec": {}}, manager="kubectl"),
        managed({"f:spec": {}}, operation="Update"),
        managed({"f:status": {}}, subresource="status"),
    ],
    ids=["none", "another manager's", "an update's", "a status's"],
)
def test_only_the_fields_of_our_own_apply_count(metadata: Obj) -> None:
    assert child_record("Service", obj(SERVICE, "s", metadata=metadata)).fields_hash == 0


def test_a_lost_field_changes_the_hash_and_the_order_does_not() -> None:
    both = child_record("Service", obj(SERVICE, "s", metadata=managed({"f:a": {}, "f:b": {}}))).fields_hash
    turned = child_record("Service", obj(SERVICE, "s", metadata=managed({"f:b": {}, "f:a": {}}))).fields_hash
    one = child_record("Service", obj(SERVICE, "s", metadata=managed({"f:a": {}}))).fields_hash
    assert both == turned != one


def test_a_pool_is_read_with_its_defaults() -> None:
    spec = pool_record(pool_obj()).spec
    assert spec is not None
    assert (spec.accelerator_resource, spec.accelerator_count) == ("nvidia.com/gpu", 1)
    assert (spec.max_request_seconds, spec.pod_template, spec.resources) == (300, {}, {})


def test_a_model_is_read_with_where_workers_see_it() -> None:
    spec = model_record(model_obj()).spec
    assert spec is not None
    assert spec.source == SourceSpec("pvc://weights/m", "/pvc/weights/m", "weights")
    assert not spec.source.remote


def test_a_model_from_elsewhere_is_read_with_its_credentials_and_adapters() -> None:
    lora = {"name": "pixel", "source": {"uri": "file:///loras/pixel", "digest": "sha256:" + "0" * 64}}
    source = {"uri": "s3://weights/m", "secretRef": {"name": "bucket"}}
    spec = model_record(obj(MODEL, "m", spec={"source": source, "adapters": [lora]})).spec
    assert spec is not None
    assert spec.source == SourceSpec("s3://weights/m", secret="bucket")
    assert (spec.source.remote, spec.source.credentials) == (True, "/secrets/bucket")
    assert spec.adapters == {
        "pixel": SourceSpec("file:///loras/pixel", "/loras/pixel", digest="sha256:" + "0" * 64)
    }


@pytest.mark.parametrize(
    ("pipeline", "want"),
    [
        ({}, {}),
        ({"dtype": "auto", "quantization": "none", "compile": "none", "attention": "auto"}, {}),
        (
            {"dtype": "bfloat16", "stepCache": {"type": "FirstBlock", "threshold": 0.1}},
            {"dtype": "bfloat16", "stepCache": {"type": "FirstBlock", "threshold": 0.1}},
        ),
        ({"stepCache": {"type": "TaylorSeer"}}, {"stepCache": {"type": "TaylorSeer"}}),
    ],
    ids=["absent", "as by default", "some", "without a threshold"],
)
def test_of_a_pipeline_workers_are_told_what_is_not_the_default(pipeline: Obj, want: Obj) -> None:
    spec = model_record(obj(MODEL, "m", spec={"source": {"uri": "file:///m"}, "pipeline": pipeline})).spec
    assert spec is not None
    assert spec.pipeline == want


def test_a_spec_that_cannot_be_read_is_an_error_of_that_object_alone() -> None:
    record = pool_record(obj(POOL, "p", spec={"models": 3}))
    assert record.spec is None
    assert "spec.models" in record.error


def condition(kind: str, status: str, message: str = "") -> Obj:
    return {"type": kind, "status": status, "message": message}


def test_a_deployments_state() -> None:
    status = {
        "observedGeneration": 1,
        "replicas": 3,
        "updatedReplicas": 2,
        "readyReplicas": 1,
        "conditions": [
            condition("Progressing", "False", "late"),
            condition("ReplicaFailure", "True", "quota"),
        ],
    }
    assert child_record("Deployment", obj(DEPLOYMENT, "d", status=status)).state == DeploymentState(
        True, 3, 2, 1, "late", "quota", desired=0
    )
    newer = obj(DEPLOYMENT, "d", status=status, metadata={"generation": 2})
    assert child_record("Deployment", newer).state == DeploymentState(
        False, 3, 2, 1, "late", "quota", desired=0
    )


@pytest.mark.parametrize(
    ("conditions", "want"),
    [
        ([], JobState()),
        ([condition("Complete", "True")], JobState(complete=True)),
        ([condition("Failed", "True", "BackoffLimitExceeded")], JobState(failed="BackoffLimitExceeded")),
    ],
)
def test_a_jobs_state(conditions: list[Obj], want: JobState) -> None:
    assert child_record("Job", obj(DEPLOYMENT, "j", status={"conditions": conditions})).state == want


def container(**state: Any) -> Obj:
    return {"containerStatuses": [{"name": "worker", **state}]}


@pytest.mark.parametrize(
    ("status", "want"),
    [
        pytest.param({}, None, id="just made"),
        pytest.param({"conditions": [condition("Ready", "True")]}, None, id="ready"),
        pytest.param(
            {"conditions": [condition("PodScheduled", "False", "0/1 nodes")]},
            Trouble("WorkersUnschedulable", "0/1 nodes"),
            id="no node",
        ),
        pytest.param(
            container(state={"waiting": {"reason": "ErrImagePull", "message": "no such image"}}),
            Trouble("WorkerImageUnavailable", "worker: ErrImagePull: no such image"),
            id="no image",
        ),
        pytest.param(
            container(state={"waiting": {"reason": "CreateContainerConfigError", "message": "no secret"}}),
            Trouble("WorkerConfigInvalid", "worker: CreateContainerConfigError: no secret"),
            id="no secret",
        ),
        pytest.param(
            container(
                state={"waiting": {"reason": "CrashLoopBackOff"}},
                lastState={"terminated": {"exitCode": 1, "message": "Traceback\n  x\nImportError: y\n"}},
            ),
            Trouble("WorkersCrashing", "worker ended with exit code 1: ImportError: y"),
            id="crashing",
        ),
        pytest.param(container(state={"terminated": {"exitCode": 0}}), None, id="done"),
        pytest.param(container(state={"waiting": {"reason": "ContainerCreating"}}), None, id="on its way"),
    ],
)
def test_a_pods_trouble(status: Obj, want: Trouble | None) -> None:
    assert pod_record(obj(POD, "a", status=status)).trouble == want


def test_a_worker_is_read_with_its_node_and_its_capacity() -> None:
    labels = {"imagefleet.dev/pool": "thumbs", "imagefleet.dev/capacity": "spot"}
    metadata = {"namespace": "ns", "name": "a", "uid": "u", "labels": labels}
    found = pod_record({"metadata": metadata, "spec": {"nodeName": "node-1"}})
    assert (found.node, found.capacity) == ("node-1", "spot")
    found = pod_record({"metadata": {**metadata, "labels": {}}})
    assert (found.node, found.capacity) == ("", "")


def test_a_daemon_sets_state() -> None:
    status = {
        "observedGeneration": 2,
        "desiredNumberScheduled": 3,
        "updatedNumberScheduled": 2,
        "numberReady": 1,
    }
    template = {"spec": {"initContainers": [{"name": "fetch-0"}]}}
    made = {"metadata": {"namespace": "ns", "name": "x", "uid": "u", "generation": 2}, "status": status}
    found = child_record("DaemonSet", {**made, "spec": {"template": template}})
    assert found.state == DaemonSetState(True, nodes=3, updated=2, ready=1, fetches=1)
    assert child_record("DaemonSet", {**made, "status": {}}).state == DaemonSetState()


def test_a_verification_pods_result_is_its_termination_message() -> None:
    made = obj(
        POD,
        "v",
        metadata={
            "labels": {"imagefleet.dev/model": "m"},
            "ownerReferences": [{"kind": "Job", "name": "m-verify-1", "uid": "u", "controller": True}],
        },
        status=container(state={"terminated": {"exitCode": 0, "message": '{"ok": true}'}}),
    )
    record = pod_record(made)
    assert (record.result, record.job, record.model) == ('{"ok": true}', "m-verify-1", "m")
