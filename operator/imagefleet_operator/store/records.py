"""From objects as the API server gives them to compact records. Whole objects are never kept."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from sys import intern
from typing import Any

from imagefleet_operator.api import (
    GROUP,
    AdapterSource,
    ImageModel,
    InferencePool,
    InferencePoolSpec,
    InvalidResource,
)
from imagefleet_operator.api.quantity import quantity_value
from imagefleet_operator.client import FIELD_MANAGER
from imagefleet_operator.plan.cluster_types import (
    Child,
    DaemonSetState,
    DeploymentState,
    JobState,
    Pod,
    Trouble,
)
from imagefleet_operator.plan.types import Json, ModelSpec, Parent, PoolSpec, SourceSpec
from imagefleet_operator.render import HASH_ANNOTATION
from imagefleet_operator.store.budget_records import budget_record
from imagefleet_operator.store.rollout_records import entry_record
from imagefleet_operator.store.scaling_records import scaling_record, warm_record
from imagefleet_operator.store.spot_records import spot_record

DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
PLACEMENT_ANNOTATION = "imagefleet.dev/placement"
ROLLOUT_ANNOTATION = "imagefleet.dev/rollout"
POOL_LABEL = "imagefleet.dev/pool"
MODEL_LABEL = "imagefleet.dev/model"
CAPACITY_LABEL = "imagefleet.dev/capacity"
IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def pool_record(obj: Mapping[str, Any]) -> Parent[PoolSpec]:
    """An InferencePool. A spec that cannot be read is kept as the error that says why."""
    try:
        parsed = InferencePool.parse(obj)
    except InvalidResource as error:
        return _parent(obj, None, error.message)
    worker, spec = parsed.spec.worker, parsed.spec
    template = worker.pod_template
    metadata = {"labels": dict(template.metadata.labels), "annotations": dict(template.metadata.annotations)}
    record = PoolSpec(
        models=tuple(entry_record(entry) for entry in spec.models),
        replicas=_replicas(spec),
        image=worker.image and intern(worker.image),
        accelerator_resource=intern(worker.accelerator.resource),
        accelerator_count=worker.accelerator.count,
        resources=_without_empty(
            {"requests": _texts(worker.resources.requests), "limits": _texts(worker.resources.limits)}
        ),
        max_request_seconds=worker.max_request_seconds,
        pod_template=_without_empty({"metadata": _without_empty(metadata), "spec": dict(template.spec)}),
        suspend=spec.suspend,
        safety_check=intern(worker.checks.safety or ""),
        quality_score=intern(worker.checks.quality or ""),
        scaling=scaling_record(spec.scaling) if spec.scaling else None,
        warm=warm_record(spec.warm_pool) if spec.warm_pool else None,
        spot=spot_record(worker.spot) if worker.spot else None,
        pre_pull=spec.pre_pull,
        budget=budget_record(spec.budget),
    )
    return replace(_parent(obj, record, ""), command=_command(obj), authors=_authors(obj))


def _replicas(spec: InferencePoolSpec) -> int:
    if spec.replicas is not None:
        return spec.replicas
    return spec.scaling.min_replicas if spec.scaling else 1


def models_of_pool(pool: Parent[PoolSpec]) -> tuple[str, ...]:
    """The models that a pool is about, each once: those that its spec names, and those that its status says serve.

    The model that a rollout moves away from serves on though the spec no longer names it.
    """
    named = [model for entry in pool.spec.models for model in entry.references] if pool.spec else []
    serving = [entry.get(role) for entry in pool.status.get("models") or () for role in ("stable", "canary")]
    return tuple(dict.fromkeys([*named, *(model for model in serving if model)]))


def _command(obj: Mapping[str, Any]) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(ROLLOUT_ANNOTATION, ""))


def _authors(obj: Mapping[str, Any]) -> dict[str, str]:
    """Who set ``model`` of each entry last, by the entry's name; our own status writes tell of nobody."""
    authors: dict[str, str] = {}
    written = obj["metadata"].get("managedFields") or ()
    for entry in sorted(written, key=lambda entry: str(entry.get("time") or "")):
        if entry.get("subresource") or entry.get("manager") == FIELD_MANAGER:
            continue
        fields = (entry.get("fieldsV1") or {}).get("f:spec", {}).get("f:models", {})
        for key, owned in fields.items():
            if key.startswith("k:") and "f:model" in owned:
                authors[intern(json.loads(key[2:])["name"])] = intern(str(entry.get("manager", "")))
    return authors


def model_record(obj: Mapping[str, Any]) -> Parent[ModelSpec]:
    """An ImageModel. A spec that cannot be read is kept as the error that says why."""
    try:
        spec = ImageModel.parse(obj).spec
    except InvalidResource as error:
        return _parent(obj, None, error.message)
    record = ModelSpec(
        source=_source(spec.source),
        adapters={intern(a.name): _source(a.source) for a in spec.adapters},
        pipeline=spec.pipeline.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        defaults=spec.defaults.to_dict(),
        limits=spec.limits.to_dict(),
        sizes=spec.sizes,
        capabilities=spec.capabilities,
        memory_bytes=spec.memory_bytes,
    )
    return _parent(obj, record, "")


def _source(source: AdapterSource) -> SourceSpec:
    return SourceSpec(
        uri=source.uri,
        folder=source.folder,
        claim=source.claim,
        digest=source.digest,
        secret=source.secret_ref.name if source.secret_ref else None,
    )


def _parent(obj: Mapping[str, Any], spec: Any, error: str) -> Parent[Any]:
    metadata = obj["metadata"]
    return Parent(
        namespace=intern(metadata["namespace"]),
        name=intern(metadata["name"]),
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        deleting="deletionTimestamp" in metadata,
        spec=spec,
        error=error,
        status=obj.get("status") or {},
    )


def _texts(quantities: Mapping[str, int | str]) -> dict[str, str]:
    return {name: str(amount) for name, amount in quantities.items()}


def _without_empty(parts: Json) -> Json:
    return {key: value for key, value in parts.items() if value}


def child_record(kind: str, obj: Mapping[str, Any]) -> Child:
    """A Deployment, DaemonSet, Service, ServiceAccount, PodDisruptionBudget or Job."""
    metadata = obj["metadata"]
    labels = metadata.get("labels") or {}
    state, owner = STATES.get(kind), _controller(metadata)
    ours = owner.get("apiVersion", "").startswith(f"{GROUP}/")
    return Child(
        kind=intern(kind),
        namespace=intern(metadata["namespace"]),
        name=metadata["name"],
        uid=metadata["uid"],
        owner=owner.get("uid", ""),
        owner_name=intern(f"{owner['kind']}/{owner['name']}") if ours else "",
        deleting="deletionTimestamp" in metadata,
        applied_hash=(metadata.get("annotations") or {}).get(HASH_ANNOTATION, ""),
        fields_hash=hash_fields(obj),
        state=state(obj) if state else None,
        pool=intern(labels.get(POOL_LABEL, "")),
        model=intern(labels.get(MODEL_LABEL, "")),
    )


def _controller(metadata: Mapping[str, Any]) -> Json:
    references = metadata.get("ownerReferences") or ()
    return next((r for r in references if r.get("controller")), {})


def our_fields(obj: Mapping[str, Any]) -> Json:
    """The fields that our last apply of the object owns now (``fieldsV1``); empty where it owns none."""
    for entry in obj["metadata"].get("managedFields") or ():
        ours = entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        if ours and not entry.get("subresource"):
            fields: Json = entry.get("fieldsV1") or {}
            return fields
    return {}


def hash_fields(obj: Mapping[str, Any]) -> int:
    """Tells sets of owned fields apart within this process; 0 where none is owned."""
    fields = our_fields(obj)
    return hash(json.dumps(fields, sort_keys=True)) or 1 if fields else 0


def _conditions(obj: Mapping[str, Any]) -> dict[str, Json]:
    return {c["type"]: c for c in (obj.get("status") or {}).get("conditions") or ()}


def _deployment_state(obj: Mapping[str, Any]) -> DeploymentState:
    status, conditions = obj.get("status") or {}, _conditions(obj)
    progressing, failure = conditions.get("Progressing", {}), conditions.get("ReplicaFailure", {})
    return DeploymentState(
        current=status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        stalled=progressing.get("message", "") if progressing.get("status") == "False" else "",
        rejected=failure.get("message", "") if failure.get("status") == "True" else "",
        max_unavailable=_max_unavailable(obj),
        desired=(obj.get("spec") or {}).get("replicas", 0),
    )


def _max_unavailable(obj: Mapping[str, Any]) -> int:
    """A percentage is not ours: a hand's, until our fields are back."""
    rolling = obj.get("spec", {}).get("strategy", {}).get("rollingUpdate") or {}
    found = rolling.get("maxUnavailable", 0)
    return found if isinstance(found, int) else 0


def _daemon_set_state(obj: Mapping[str, Any]) -> DaemonSetState:
    status, pod = obj.get("status") or {}, obj.get("spec", {}).get("template", {}).get("spec", {})
    return DaemonSetState(
        current=status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0),
        nodes=status.get("desiredNumberScheduled", 0),
        updated=status.get("updatedNumberScheduled", 0),
        ready=status.get("numberReady", 0),
        fetches=len(pod.get("initContainers") or ()),
    )


def _job_state(obj: Mapping[str, Any]) -> JobState:
    conditions = _conditions(obj)
    failed = conditions.get("Failed", {})
    return JobState(
        complete=conditions.get("Complete", {}).get("status") == "True",
        failed=(failed.get("message") or failed.get("reason") or "failed")
        if failed.get("status") == "True"
        else "",
    )


STATES: dict[str, Callable[[Mapping[str, Any]], DeploymentState | DaemonSetState | JobState]] = {
    "Deployment": _deployment_state,
    "DaemonSet": _daemon_set_state,
    "Job": _job_state,
}


def pod_record(obj: Mapping[str, Any]) -> Pod:
    """A worker's or a verification's pod."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    labels = metadata.get("labels") or {}
    controller, annotations = _controller(metadata), metadata.get("annotations") or {}
    told = _conditions(obj).get("Ready", {})
    ready = told.get("status") == "True"
    return Pod(
        namespace=intern(metadata["namespace"]),
        name=metadata["name"],
        uid=metadata["uid"],
        ip=status.get("podIP", ""),
        ready=ready,
        deleting="deletionTimestamp" in metadata,
        placement=annotations.get(PLACEMENT_ANNOTATION, ""),
        trouble=None if ready else _trouble(status, _conditions(obj)),
        result=_termination_message(status) if MODEL_LABEL in labels else "",
        job=controller.get("name", "") if controller.get("kind") == "Job" else "",
        pool=intern(labels.get(POOL_LABEL, "")),
        model=intern(labels.get(MODEL_LABEL, "")),
        requests=_requests(obj) if POOL_LABEL in labels else {},
        created=_seconds(metadata.get("creationTimestamp")),
        ready_since=_seconds(told.get("lastTransitionTime")) if ready else 0.0,
        deletion_cost=_deletion_cost(annotations.get(DELETION_COST_ANNOTATION)),
        node=intern((obj.get("spec") or {}).get("nodeName") or ""),
        capacity=intern(labels.get(CAPACITY_LABEL, "")),
        scheduled_at=_scheduled(obj),
        ended_at=_ended(status),
        deletion_at=_seconds(metadata.get("deletionTimestamp")),
    )


def _deletion_cost(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0  # so does Kubernetes read what is no number


def _scheduled(obj: Mapping[str, Any]) -> float:
    scheduled = _conditions(obj).get("PodScheduled", {})
    if scheduled.get("status") == "True":
        return _seconds(scheduled.get("lastTransitionTime"))
    # Its node was named when it was made, as a DaemonSet's is.
    return _seconds(obj["metadata"].get("creationTimestamp")) if obj.get("spec", {}).get("nodeName") else 0.0


def _ended(status: Mapping[str, Any]) -> float:
    """When the last container ended, to the end of that second; one that was evicted tells of none."""
    if status.get("phase") not in ("Succeeded", "Failed"):
        return 0.0
    states = (c.get("state") or {} for c in status.get("containerStatuses") or ())
    ends = [_seconds((state.get("terminated") or {}).get("finishedAt")) for state in states]
    told = [_seconds(c.get("lastTransitionTime")) for c in status.get("conditions") or ()]
    return (max(ends, default=0.0) or max(told, default=0.0)) + 1.0


def _requests(obj: Mapping[str, Any]) -> dict[str, float]:
    total: dict[str, float] = {}
    for container in obj.get("spec", {}).get("containers") or ():
        for resource, amount in ((container.get("resources") or {}).get("requests") or {}).items():
            total[intern(resource)] = total.get(resource, 0.0) + float(quantity_value(amount))
    return total


def _termination_message(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses") or ():
        message: str | None = (container.get("state") or {}).get("terminated", {}).get("message")
        if message:
            return message
    return ""


def _trouble(status: Mapping[str, Any], conditions: Mapping[str, Json]) -> Trouble | None:
    """The first thing that keeps a pod from getting on, in the order in which a pod comes to be."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        message = str(scheduled.get("message") or scheduled.get("reason"))
        return Trouble("WorkersUnschedulable", message, _seconds(scheduled.get("lastTransitionTime")))
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        trouble = _container_trouble(container)
        if trouble is not None:
            return trouble
    return None


def _seconds(timestamp: str | None) -> float:
    """Seconds since the epoch of a time as the API writes it; 0 where there is none."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0


def _container_trouble(container: Mapping[str, Any]) -> Trouble | None:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    detail = f"{container.get('name')}: {waiting.get('reason')}: {waiting.get('message', '')}"
    if waiting.get("reason") in IMAGE_REASONS:
        return Trouble("WorkerImageUnavailable", detail)
    if waiting.get("reason") in CONFIG_REASONS:
        return Trouble("WorkerConfigInvalid", detail)
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if ended and ended.get("exitCode"):
        said = _last_line(ended.get("message") or "")
        return Trouble(
            "WorkersCrashing", f"{container.get('name')} ended with exit code {ended['exitCode']}{said}"
        )
    return None


def _last_line(message: str) -> str:
    """What a container said last, which is where a traceback names the error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""
