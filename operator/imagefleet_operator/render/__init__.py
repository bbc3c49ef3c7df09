"""Child objects as they are applied: jinja2 templates that write JSON, and the merge of a pool's pod
template.

A value enters a template through the ``tojson`` filter alone, so that no value can change an object's shape.
"""

import hashlib
import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from imagefleet_operator.api import API_VERSION
from imagefleet_operator.plan.prepull import PrePullSpec
from imagefleet_operator.plan.spot_types import ON_DEMAND, SPOT
from imagefleet_operator.plan.types import Json
from imagefleet_operator.plan.workers import VerifySpec, WorkersSpec
from imagefleet_operator.render.capacity import off_spot_nodes, on_spot_nodes
from imagefleet_operator.render.merge import merge_pod_template
from imagefleet_operator.render.parts import pod_parts

HASH_ANNOTATION = "imagefleet.dev/applied-hash"
POOL_KINDS = ("ServiceAccount", "Service", "PodDisruptionBudget", "Deployment")
"""A pool's children in the order in which they are made: pods need the ServiceAccount."""
ON_DEMAND_CHILD = "Deployment on demand"
"""Stands for the kind of the second Deployment of a pool with spot."""
CAPACITY_LABEL = "imagefleet.dev/capacity"

_environment = Environment(
    loader=PackageLoader("imagefleet_operator.render"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates: dict[str, Template] = {}


def pool_children(spec: WorkersSpec, caller_public_key: str) -> dict[str, Json]:
    """A pool's children by kind, each with the hash of itself in its annotation."""
    owner = _owner("InferencePool", spec.pool, spec.uid)
    labels = {
        "app.kubernetes.io/managed-by": "imagefleet",
        "app.kubernetes.io/name": "imagefleet-worker",
        "app.kubernetes.io/instance": spec.pool,
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/part-of": "imagefleet",
        "imagefleet.dev/pool": spec.pool,
    }
    selector = {key: labels[key] for key in ("imagefleet.dev/pool", "app.kubernetes.io/name")}
    values = {
        "spec": spec,
        "owner": owner,
        "labels": labels,
        "selector": selector,
        "resources": _resources(spec),
        **pod_parts(spec, _worker_env(spec, caller_public_key), shared_memory=spec.accelerator_count > 0),
    }
    children = {kind: _render(kind, values) for kind in POOL_KINDS if kind != "Deployment"}
    return {kind: _hashed(child) for kind, child in {**children, **_deployments(spec, values)}.items()}


def _deployments(spec: WorkersSpec, values: Json) -> dict[str, Json]:
    """That of all workers; with spot, that of the spot workers and that of those on demand."""
    if spec.spot is None or spec.on_demand is None:
        return {"Deployment": _deployment(spec, values, values["labels"])}
    interrupt = {"name": "IMAGEFLEET_INTERRUPT", "value": "checkpoint"}
    labels = {**values["labels"], CAPACITY_LABEL: SPOT}
    spot = _deployment(spec, {**values, "env": [*values["env"], interrupt]}, labels)
    on_spot_nodes(spot["spec"]["template"]["spec"], spec.spot)
    # Its own label in the selector tells its pods from the others', whose selector may be older than the spot.
    selector = {**values["selector"], CAPACITY_LABEL: ON_DEMAND}
    labels = {**values["labels"], CAPACITY_LABEL: ON_DEMAND}
    on_demand = _deployment(spec, {**values, "deployment": spec.on_demand, "selector": selector}, labels)
    off_spot_nodes(on_demand["spec"]["template"]["spec"], spec.spot)
    return {"Deployment": spot, ON_DEMAND_CHILD: on_demand}


def _deployment(spec: WorkersSpec, values: Json, labels: Json) -> Json:
    """One of the pool's Deployments; ``labels`` are its pods'."""
    found = _render("Deployment", {"deployment": spec, **values, "pod_labels": labels})
    found["spec"]["template"] = merge_pod_template(found["spec"]["template"], spec.pod_template, labels)
    return found


def prepull_daemon_set(spec: PrePullSpec) -> Json:
    """What prepares nodes for the workers of a pool. Its pods have no label of the pool: they are no workers."""
    labels = {
        "app.kubernetes.io/managed-by": "imagefleet",
        "app.kubernetes.io/name": "imagefleet-prepull",
        "app.kubernetes.io/instance": spec.pool,
        "app.kubernetes.io/component": "prepull",
        "app.kubernetes.io/part-of": "imagefleet",
    }
    owner = _owner("InferencePool", spec.pool, spec.uid)
    found = _render("DaemonSet", {"spec": spec, "owner": owner, "labels": labels, **pod_parts(spec)})
    found["spec"]["template"]["spec"].update(spec.place)
    return _hashed(found)


def verify_job(spec: VerifySpec) -> Json:
    """The verification Job of a model. Its name holds the hash of everything else in it, as a Job cannot be
    changed."""
    labels = {
        "app.kubernetes.io/managed-by": "imagefleet",
        "app.kubernetes.io/name": "imagefleet-verify",
        "app.kubernetes.io/instance": spec.model,
        "app.kubernetes.io/component": "verify",
        "app.kubernetes.io/part-of": "imagefleet",
        "imagefleet.dev/model": spec.model,
    }
    owner = _owner("ImageModel", spec.model, spec.uid)
    job = _render("Job", {"spec": spec, "owner": owner, "labels": labels, **pod_parts(spec)})
    job["metadata"]["name"] = f"{spec.model}-verify-{object_hash(job)[:10]}"
    return _hashed(job)


def object_hash(child: Json) -> str:
    """Tells what we apply apart: 32 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(json.dumps(child, sort_keys=True).encode()).hexdigest()[:32]


def hash_of(child: Json) -> str:
    """The hash that a rendered child carries."""
    return str(child["metadata"]["annotations"][HASH_ANNOTATION])


def _hashed(child: Json) -> Json:
    child["metadata"]["annotations"] = {HASH_ANNOTATION: object_hash(child)}
    return child


def _worker_env(spec: WorkersSpec, caller_public_key: str) -> list[Json]:
    return [
        {"name": "IMAGEFLEET_NAMESPACE", "value": spec.namespace},
        {"name": "IMAGEFLEET_POOL", "value": spec.pool},
        {"name": "IMAGEFLEET_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IMAGEFLEET_CALLER_PUBLIC_KEY", "value": caller_public_key},
        {"name": "IMAGEFLEET_MAX_REQUEST_SECONDS", "value": str(spec.max_request_seconds)},
        {"name": "IMAGEFLEET_PORT", "value": "8000"},
        *({"name": name, "value": value} for name, value in _checks(spec).items() if value),
    ]


def _checks(spec: WorkersSpec) -> dict[str, str]:
    return {"IMAGEFLEET_SAFETY_CHECK": spec.safety_check, "IMAGEFLEET_QUALITY_SCORE": spec.quality_score}


def _resources(spec: WorkersSpec) -> Json:
    """The worker's resources with its accelerators, which are asked for by limit alone: requests follow
    limits."""
    if spec.accelerator_count == 0:
        return spec.resources
    limits = {**spec.resources.get("limits", {}), spec.accelerator_resource: str(spec.accelerator_count)}
    return {**spec.resources, "limits": limits}


def _owner(kind: str, name: str, uid: str) -> Json:
    """``blockOwnerDeletion`` stays false: it would need rights on finalizers and gains nothing here."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _render(kind: str, values: dict[str, Any]) -> Json:
    if kind not in _templates:
        _templates[kind] = _environment.get_template(f"{kind.lower()}.json.j2")
    rendered: Json = json.loads(_templates[kind].render(values))
    return rendered
