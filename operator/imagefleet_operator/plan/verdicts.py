"""How a pool is doing: each condition as an ordered list of checks, the first that has something to say
wins."""

from collections.abc import Callable, Iterable

from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.conditions import Verdict, find
from imagefleet_operator.plan.placement import Placement
from imagefleet_operator.plan.policy import accelerator, annotated
from imagefleet_operator.plan.types import UNSUPPORTED, PoolModel, PoolObserved, PoolSpec, Worker
from imagefleet_operator.plan.verification import is_verified

SILENT_SECONDS = 30.0
"""A ready worker may stay silent this long (a long garbage collection, a node that is cut off) before it is
said."""
TROUBLES = (
    "WorkerConfigInvalid",
    "WorkerImageUnavailable",
    "WorkersCrashing",
    "WorkersUnschedulable",
)
"""Of several pods' troubles the first in this order is told: nearest to what someone can mend."""

Check = Callable[[PoolSpec, PoolObserved, float], Verdict | None]


def present(workers: Iterable[Worker]) -> list[Worker]:
    """The workers that should answer: ready and staying."""
    return [w for w in workers if w.pod.ready and not w.pod.deleting]


def serving(workers: Iterable[Worker]) -> list[Worker]:
    """The workers that take requests: present, heard of, and not about to end."""
    return [w for w in ready_for_models(workers) if w.role is Role.ACTIVE]


def ready_for_models(workers: Iterable[Worker]) -> list[Worker]:
    """The workers that can hold models, warm ones and those that leave included."""
    return [
        w for w in present(workers) if w.report is not None and not w.report.draining and not w.interrupted
    ]


def workers_ready(spec: PoolSpec, observed: PoolObserved, now: float) -> Verdict:
    """The ``WorkersReady`` condition."""
    for check in (_scaled_to_zero, _rejected, _no_deployment, _silent, _all_ready, _trouble, _no_progress):
        verdict = check(spec, observed, now)
        if verdict is not None:
            return verdict
    return Verdict(False, "WorkersStarting", _count(spec, observed))


def _count(spec: PoolSpec, observed: PoolObserved) -> str:
    ready = observed.deployment.ready if observed.deployment else 0
    return f"{ready} of {spec.replicas} workers are ready. {spec.shortened}".rstrip()


def _scaled_to_zero(spec: PoolSpec, observed: PoolObserved, now: float) -> Verdict | None:
    if spec.replicas:
        return None
    if spec.shortened:
        return Verdict(False, "BudgetExhausted", spec.shortened)
    return Verdict(True, "ScaledToZero", _at_zero(spec))


def _at_zero(spec: PoolSpec) -> str:
    if spec.scaling is None or spec.scaling.external:
        return "spec.replicas is 0."
    return "Nobody has asked for anything for long: the next request starts a worker."


def _no_deployment(spec: PoolSpec, observed: PoolObserved, now: float) -> Verdict | None:
    if observed.refusals:
        return Verdict(False, observed.refusals[0].reason, observed.refusals[0].message)
    return None if observed.deployment else Verdict(False, "WorkersStarting", _count(spec, observed))


def _rejected(spec: PoolSpec, observed: PoolObserved, now: float) -> Verdict | None:
    if observed.deployment is None or not observed.deployment.rejected:
        return None
    return Verdict(False, "WorkersRejected", f"{_count(spec, observed)} {observed.deployment.rejected}")


def _silent(spec: PoolSpec, observed: PoolObserved, now: float) -> Verdict | None:
    silent = [
        f"{w.pod.name} ({w.silence})"
        for w in present(observed.workers)
        if w.silent_since is not None and now - w.silent_since >= SILENT_SECONDS
    ]
    if not silent:
        return None
    return Verdict(False, "WorkersUnreachable", f"No report from {', '.join(sorted(silent))}.")


def _all_ready(spec: PoolSpec, observed: PoolObserved, now: float) -> Verdict | None:
    state = observed.deployment
    if state is None or not state.current or min(state.ready, state.updated) < spec.replicas:
        return None
    if state.replicas > state.updated:
        return None  # those that are ready may be the old ones
    return Verdict(True, "WorkersReady", _count(spec, observed))


def _trouble(spec: PoolSpec, observed: PoolObserved, now: float) -> Verdict | None:
    troubles = [w.pod.trouble for w in observed.workers if w.pod.trouble and not w.pod.deleting]
    if not troubles:
        return None
    first = min(troubles, key=lambda t: (TROUBLES.index(t.reason), t.message))
    return Verdict(False, first.reason, f"{_count(spec, observed)} {first.message}")


def _no_progress(spec: PoolSpec, observed: PoolObserved, now: float) -> Verdict | None:
    if observed.deployment is None or not observed.deployment.stalled:
        return None
    return Verdict(
        False, "ProgressDeadlineExceeded", f"{_count(spec, observed)} {observed.deployment.stalled}"
    )


def resident(observed: PoolObserved, model: str) -> int:
    """On how many serving workers the model is resident, where gateways may send requests for it: a worker that was
    told to drop it reports it until its engine has ended. One of the same name with other files does not count either:
    a worker may still hold a model that was deleted and made anew."""
    if model not in observed.counted:
        observed.counted[model] = _count_resident(observed, model)
    return observed.counted[model]


def _count_resident(observed: PoolObserved, model: str) -> int:
    found = observed.models.get(model)
    digest = found.status.get("digest") if found is not None else None
    told = (w for w in serving(observed.workers) if model in annotated(w.pod.placement))
    reports = (w.report.of(model) for w in told if w.report)
    return sum(r is not None and r.state == "Resident" and r.digest in ("", digest) for r in reports)


def model_ready(entry: PoolModel, observed: PoolObserved) -> bool:
    """Whether a request for it can be served as the spec asks: resident often enough, or loaded on demand."""
    count = resident(observed, entry.model)
    on_demand = (
        entry.min_resident == 0 and is_usable(entry.model, observed) and bool(serving(observed.workers))
    )
    return count >= max(entry.min_resident, 1) or on_demand


def is_usable(model: str, observed: PoolObserved) -> bool:
    """Whether a model exists and is verified: nothing else may be named to a worker. One that some accelerators cannot
    hold is named all the same: whether it can is for each worker to find out."""
    found = observed.models.get(model)
    return found is not None and not found.deleting and is_verified(found)


def unusable(model: str, observed: PoolObserved) -> Verdict | None:
    """Why a model may not be named to workers; None where it may."""
    found = observed.models.get(model)
    if found is None:
        missing = f"There is no ImageModel {model} in namespace {observed.pool.namespace}."
        return Verdict(False, "ModelNotFound", missing)
    if is_usable(model, observed):
        return None
    detail = (find(found.status, "Ready") or {}).get("message") or "not verified yet."
    return Verdict(False, "ModelNotReady", f"ImageModel {model}: {detail}")


def models_placed(spec: PoolSpec, observed: PoolObserved, placement: Placement) -> Verdict:
    """The ``ModelsPlaced`` condition. A missing model is told before anything that comes of it."""
    if spec.replicas == 0 and spec.shortened:
        return Verdict(False, "BudgetExhausted", spec.shortened)
    if spec.replicas == 0:
        return Verdict(False, "ScaledToZero", f"{_at_zero(spec)} No worker holds a model.")
    for verdict in _model_verdicts(spec, observed):
        return verdict
    if not serving(observed.workers):
        return Verdict(False, "NoWorkers", "No worker is ready to hold a model.")
    waiting = [m for m in spec.models if not model_ready(m, observed)]
    for entry in waiting:
        failed = load_failure(entry.model, observed)
        if failed is not None:
            return failed
    for entry in spec.models:
        if placement.short.get(entry.model, 0) > _not_yet(entry, observed):
            return Verdict(False, "ModelDoesNotFit", _short(entry, observed))
    if waiting:
        names = ", ".join(f"{m.model} ({resident(observed, m.model)} of {m.min_resident})" for m in waiting)
        return Verdict(False, "ModelLoading", f"Loading {names}.")
    return Verdict(True, "ModelsPlaced", "Every model is resident on as many workers as it asks for.")


def load_failure(model: str, observed: PoolObserved) -> Verdict | None:
    """Why a model is not on all the workers that it asks for, as far as workers failed to load it."""
    reports = [(w.report, w.report.of(model)) for w in serving(observed.workers) if w.report]
    failed = [(report, found) for report, found in reports if found and found.state == "Failed"]
    for report, found in failed:
        if found.unsupported:
            return Verdict(False, UNSUPPORTED, f"{model} on {accelerator(report)}: {found.unsupported}")
    for _, found in failed:
        return Verdict(False, "ModelLoadFailed", f"{model}: {found.reason}: {found.message}")
    return None


def _too_few(entry: PoolModel, spec: PoolSpec) -> str:
    wanted, workers, field = entry.min_resident, spec.replicas, "replicas"
    if spec.scaling is not None:
        workers, field = spec.scaling.spec.max_replicas, "maxReplicas"
    return (
        f"{entry.model} asks for {wanted} workers (minResident), the pool has {workers} ({field}): lower "
        f"minResident to {workers}, or raise {field} to {wanted}."
    )


def _not_yet(entry: PoolModel, observed: PoolObserved) -> int:
    """Copies that lack for want of workers, which may come, rather than of memory."""
    return max(0, entry.min_resident - len(serving(observed.workers)))


def _short(entry: PoolModel, observed: PoolObserved) -> str:
    workers = len(serving(observed.workers))
    return (
        f"{entry.model} asks for {entry.min_resident} workers; the memory of the {workers} that are ready does not hold"
        " that: lower minResident, add replicas, or use larger accelerators."
    )


def _model_verdicts(spec: PoolSpec, observed: PoolObserved) -> Iterable[Verdict]:
    """What is wrong with the models whatever the workers do."""
    found = [unusable(entry.model, observed) for entry in spec.models]
    bad = [verdict for verdict in found if verdict is not None]
    yield from (verdict for verdict in bad if verdict.reason == "ModelNotFound")
    yield from (verdict for verdict in bad if verdict.reason != "ModelNotFound")
    for entry in spec.models:
        if entry.min_resident > spec.replicas:
            yield Verdict(False, "TooFewWorkers", _too_few(entry, spec))
