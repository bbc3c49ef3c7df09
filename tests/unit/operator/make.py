"""Builders of what plans observe, with the values that a test does not care about filled in."""

from dataclasses import replace
from typing import Any

from imagefleet_operator.plan.cluster_types import Child, DeploymentState, JobState, Pod
from imagefleet_operator.plan.types import (
    Json,
    ModelObserved,
    ModelReport,
    ModelSpec,
    Parent,
    PoolModel,
    PoolObserved,
    PoolSpec,
    Report,
    SourceSpec,
    Worker,
)

GIB = 2**30
NOW = 1_700_000_000.0
OWNER = "InferencePool/thumbs"
DIGEST = "sha256:" + "ab" * 32
VERIFIED = [{"type": "Ready", "status": "True"}, {"type": "Verified", "status": "True"}]


def pool(*models: str, replicas: int = 1, status: Json | None = None, **spec: Any) -> Parent[PoolSpec]:
    """A pool whose models are called in requests what they are called."""
    entries = tuple(PoolModel(model, model) for model in models or ("shapes-1",))
    made = replace(PoolSpec(models=entries, replicas=replicas), **spec)
    return Parent("ns", "thumbs", "pool-uid", 1, False, made, "", status or {})


def model(name: str = "shapes-1", *, ready: bool = True, size: int = GIB, **status: Any) -> Parent[ModelSpec]:
    """A model, verified unless said otherwise."""
    source = SourceSpec(uri=f"file:///models/{name}", folder=f"/models/{name}")
    spec = ModelSpec(source, pipeline={"dtype": "auto"})
    found = {"digest": DIGEST, "bytes": size, "conditions": VERIFIED} if ready else {}
    return Parent("ns", name, f"{name}-uid", 1, False, spec, "", {**found, **status})


def described(parent: Parent[ModelSpec], **fields: Any) -> Parent[ModelSpec]:
    """The model with other fields in its spec."""
    assert parent.spec is not None
    return replace(parent, spec=replace(parent.spec, **fields))


def pod(name: str = "a", **fields: Any) -> Pod:
    """A ready worker's pod."""
    made = Pod("ns", name, f"{name}-uid", "10.0.0.1", True, False, "", pool="thumbs")
    return replace(made, **fields)


def holding(name: str, state: str = "Resident", *, pinned: bool = True, **fields: Any) -> ModelReport:
    """A model in a worker's report."""
    return replace(ModelReport(name, state, pinned, DIGEST), **fields)


def report(*models: ModelReport, memory: int = 80 * GIB, **fields: Any) -> Report:
    """A worker's report."""
    return replace(Report(memory, False, models), **fields)


def worker(name: str = "a", *models: ModelReport, memory: int = 80 * GIB, **fields: Any) -> Worker:
    """A ready worker that answers."""
    return replace(Worker(pod(name), report(*models, memory=memory)), **fields)


def deployment(ready: int = 1, **fields: Any) -> DeploymentState:
    """A Deployment that has settled with that many workers."""
    return replace(DeploymentState(True, ready, ready, ready), **fields)


def observed(*workers: Worker, **fields: Any) -> PoolObserved:
    """A pool with the workers and all of its models, each verified."""
    parent: Parent[PoolSpec] = fields.pop("pool", pool())
    named = parent.spec.models if parent.spec else ()
    models = {m.model: model(m.model) for m in named} | fields.pop("models", {})
    made = PoolObserved(parent, models, deployment(sum(w.pod.ready for w in workers)), workers)
    return replace(made, **fields)


def child(kind: str = "Deployment", **fields: Any) -> Child:
    """A child of the pool as it was applied last."""
    made = Child(
        kind, "ns", "thumbs-workers", "child-uid", "pool-uid", OWNER, False, "hash", 7, pool="thumbs"
    )
    return replace(made, **fields)


def unverified(*pods: Pod, job: JobState | None = None, **fields: Any) -> ModelObserved:
    """A model that is not verified, its verification Job in the given state (None: there is none), and its pods."""
    found = (
        None if job is None else child("Job", name="shapes-1-verify-1", state=job, model="shapes-1", pool="")
    )
    return replace(ModelObserved(model(ready=False), "shapes-1-verify-1", found, pods, ()), **fields)
