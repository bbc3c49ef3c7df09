"""What one worker is told to hold (its policy), and in which order it and the gateway's annotation are
changed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.types import Json, ModelSpec, Parent, Report, SourceSpec, Worker

CPU = "cpu"
"""Stands for the accelerator's name where there is none."""


Policy = tuple[Json, ...]
"""The models of ``PUT /v1/worker/models``."""


@dataclass(frozen=True, slots=True)
class Annotate:
    """Write the pod's placement annotation; None takes it away, and with it all requests."""

    placement: str | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Write the pod's deletion cost: of several pods that of the lowest goes first."""

    cost: int


@dataclass(frozen=True, slots=True)
class Put:
    """Give the worker its policy."""

    policy: Policy
    policy_hash: str


Step = Annotate | Cost | Put
DONE_COST = -100
"""Below that of any worker with requests, which is 0."""


def accelerator(report: Report) -> str:
    """The name that the worker's speed is kept under."""
    return next((d.accelerator for d in report.devices if d.accelerator), CPU)


def measured(model: Parent[ModelSpec], name: str) -> Json:
    """What the model's status knows of it on that accelerator; empty where nothing is."""
    entries = model.status.get("performance") or ()
    return next((e for e in entries if e.get("accelerator") == name), {})


def policy_entry(
    model: Parent[ModelSpec],
    *,
    pinned: bool,
    memory_bytes: int,
    speed: Json,
    suspended: bool = False,
    preload: bool = False,
) -> Json:
    """One model of ``PUT /v1/worker/models``. The digests are the verified ones, also where the spec gives none.
    ``preload``: its files are to be in the memory of the node."""
    spec = model.spec
    assert spec is not None
    known: Json = {key: speed[key] for key in ("secondsPerMegapixelStep", "loadSeconds") if key in speed}
    digests = {a["name"]: a["digest"] for a in model.status.get("adapters") or ()}
    adapters = [
        {"name": name, **_reach(source), "digest": digests[name]} for name, source in spec.adapters.items()
    ]
    lists = {"sizes": list(spec.sizes), "capabilities": list(spec.capabilities), "adapters": adapters}
    return {
        "model": model.name,
        **_reach(spec.source),
        "digest": model.status["digest"],
        "pinned": pinned,
        "pipeline": spec.pipeline,
        **{key: value for key, value in lists.items() if value},
        "defaults": spec.defaults,
        "limits": spec.limits,
        "memoryBytes": memory_bytes,
        **({"suspended": True} if suspended else {}),
        **({"preload": True} if preload else {}),
        **known,
    }


def _reach(source: SourceSpec) -> Json:
    """Where a worker finds the files, or whence and with which credentials it fetches them."""
    if not source.remote:
        return {"path": source.folder}
    return {"uri": source.uri} | ({"credentials": source.credentials} if source.secret else {})


def policy_hash(policy: Iterable[Json]) -> str:
    """Tells policies apart by what the worker must do. Measured speeds are hints and do not count."""
    hints = {"secondsPerMegapixelStep", "loadSeconds"}
    kept = [{key: value for key, value in entry.items() if key not in hints} for entry in policy]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def placement_text(pinned: Mapping[str, bool]) -> str:
    """The annotation ``imagefleet.dev/placement``, e.g. ``{"a":{"pinned":true}}``; keys sorted, so equal is
    equal."""
    entries = {model: {"pinned": pinned[model]} for model in sorted(pinned)}
    return json.dumps(entries, separators=(",", ":"))


@lru_cache(maxsize=8192)  # as many as there are workers: each pass over a pool asks for every model on each
def annotated(text: str) -> Mapping[str, bool]:
    """What an annotation says; empty where there is none, or where someone wrote what cannot be read."""
    try:
        entries = json.loads(text) if text else {}
        return {model: bool(entry.get("pinned")) for model, entry in entries.items()}
    except (ValueError, AttributeError):
        return {}


def steps(worker: Worker, policy: Policy, digest: str | None = None) -> tuple[Step, ...]:
    """How to bring a worker to a policy, in an order in which the gateway never sees a model that the worker
    refuses.

    What is taken away leaves the annotation first and the worker then; what is added goes to the worker
    first. One write of the annotation does where only one of the two happens. A worker without requests has no
    annotation, and one that leaves keeps its models until it has gone. ``digest``: the hash, where it is known.
    """
    digest = digest or policy_hash(policy)
    cost = DONE_COST if worker.role is Role.DONE else 0
    marked = (Cost(cost),) if worker.pod.deletion_cost != cost else ()
    hidden = (Annotate(None),) if worker.pod.shown else ()
    if worker.role in (Role.LEAVING, Role.DONE):
        return (*hidden, *marked)
    if worker.role is Role.WARM:
        put = _put(worker, policy, digest)
        return (*hidden, *marked, *((put,) if put else ()))
    return (*marked, *_shown_steps(worker, policy, digest))


def _shown_steps(worker: Worker, policy: Policy, digest: str) -> tuple[Step, ...]:
    wanted = {entry["model"]: bool(entry["pinned"]) for entry in policy}
    shown = annotated(worker.pod.placement)
    kept = {model: wanted[model] for model in shown if model in wanted}
    put = _put(worker, policy, digest)
    before = kept if put and len(kept) < len(shown) else None
    after = wanted if wanted != (shown if before is None else before) else None
    found = (_annotate(before), put, _annotate(after))
    return tuple(step for step in found if step is not None)


def _annotate(placement: Mapping[str, bool] | None) -> Annotate | None:
    return None if placement is None else Annotate(placement_text(placement))


def _put(worker: Worker, policy: Policy, digest: str) -> Put | None:
    reported = worker.report.models if worker.report else ()
    said = {(m.model, m.pinned) for m in reported}
    wanted = {(entry["model"], bool(entry["pinned"])) for entry in policy}
    if worker.policy_hash == digest and said == wanted:
        return None
    return Put(policy, digest)
