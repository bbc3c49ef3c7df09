"""The plan of one pool: what its workers are to hold, and its status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imagefleet_operator.api.quantity import quantity_bytes
from imagefleet_operator.plan import conditions, policy, verdicts
from imagefleet_operator.plan.accelerator import accelerator_status
from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.placement import Need, Placement, Slot, estimate, place
from imagefleet_operator.plan.policy import Policy, Step, steps
from imagefleet_operator.plan.types import Json, ModelSpec, Parent, PoolModel, PoolObserved, PoolSpec, Worker

POLL_UNSETTLED = 1.0
"""Seconds between looks at a worker while something is to change on it."""
POLL_SETTLED = 15.0


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What one worker is to hold."""

    worker: Worker
    policy: Policy

    @property
    def steps(self) -> tuple[Step, ...]:
        """What there is to do about it, in order."""
        return steps(self.worker, self.policy)


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """All that follows from what is observed of a pool, its children excepted (see
    ``workers.workers_spec``)."""

    workers: tuple[WorkerPlan, ...] = ()
    """Those workers on which something is to be done."""
    status: Json = field(default_factory=dict)
    poll_seconds: Mapping[str, float] = field(default_factory=dict)
    """Per pod that is to be asked for its report: seconds between two looks."""
    watch_gateways: bool = False
    """Whether what gateways counted is needed soon."""


def plan_pool(observed: PoolObserved, now: float) -> PoolPlan:
    """What to do for a pool. ``now`` is the time in seconds since the epoch.

    Until every ready worker has been asked once, nothing is decided and nothing said: a model that nobody has been
    asked about is not one that nobody holds, and after a restart that would move models and end ``Ready``.
    """
    spec = observed.pool.spec
    if spec is None:
        return PoolPlan(status=_invalid(observed.pool, now))
    unasked = {w.pod.name for w in verdicts.present(observed.workers) if not w.asked}
    if unasked:
        return PoolPlan(status=observed.pool.status, poll_seconds=dict.fromkeys(unasked, 0.0))
    needs = _needs(spec, observed)
    placement = place(needs, _slots(observed))
    wanted = {
        w.pod.name: _policy(needs, observed, w, placement.pinned[w.pod.name])
        for w in verdicts.serving(observed.workers)
    }
    plans = (WorkerPlan(w, wanted[w.pod.name]) for w in observed.workers if w.pod.name in wanted)
    changing = tuple(p for p in plans if p.steps)
    return PoolPlan(
        workers=changing,
        status=_status(spec, observed, placement, now),
        poll_seconds=_polls(observed, {p.worker.pod.name for p in changing}, now),
    )


def _needs(spec: PoolSpec, observed: PoolObserved) -> Sequence[Need]:
    """What to place: each usable model once, with the most copies that any of its names asks for."""
    names = {policy.accelerator(w.report) for w in observed.workers if w.report}
    copies: dict[str, int] = {}
    for entry in spec.models:
        if verdicts.is_usable(entry.model, observed):
            copies[entry.model] = max(copies.get(entry.model, 0), entry.min_resident)
    return [Need(model, count, _memory(observed.models[model], names)) for model, count in copies.items()]


def _memory(model: Parent[ModelSpec] | None, accelerators: set[str]) -> int:
    assert model is not None
    assert model.spec is not None
    known = [policy.measured(model, name).get("memory") for name in accelerators]
    measured = max((quantity_bytes(memory) for memory in known if memory is not None), default=None)
    return estimate(model.spec.memory_bytes, measured, int(model.status.get("bytes") or 0))


def _slots(observed: PoolObserved) -> list[Slot]:
    return [
        Slot(
            w.pod.name,
            w.report.memory_total_bytes,
            frozenset(m.model for m in w.report.models if m.pinned),
        )
        for w in verdicts.serving(observed.workers)
        if w.report
    ]


def _policy(needs: Sequence[Need], observed: PoolObserved, worker: Worker, pinned: frozenset[str]) -> Policy:
    assert worker.report is not None
    name = policy.accelerator(worker.report)
    entries = []
    for need in needs:
        model = observed.models[need.model]
        assert model is not None
        entries.append(
            policy.policy_entry(
                model,
                pinned=need.model in pinned,
                memory_bytes=need.memory_bytes,
                speed=policy.measured(model, name),
            )
        )
    return tuple(entries)


def _polls(observed: PoolObserved, changing: set[str], now: float) -> dict[str, float]:
    """Every ready worker is looked at: often while it changes, loads or has just fallen silent, seldom at rest."""
    return {
        w.pod.name: POLL_UNSETTLED if _unsettled(w, w.pod.name in changing, now) else POLL_SETTLED
        for w in verdicts.present(observed.workers)
    }


def _unsettled(worker: Worker, changing: bool, now: float) -> bool:
    """Those that stay silent are asked seldom: each such call takes seconds, and others wait for their turn."""
    if worker.silent_since is not None:
        return now - worker.silent_since < verdicts.SILENT_SECONDS
    if changing or worker.report is None:
        return True
    return any(m.state == "Loading" or (m.pinned and m.state == "Absent") for m in worker.report.models)


def _status(spec: PoolSpec, observed: PoolObserved, placement: Placement, now: float) -> Json:
    old = observed.pool.status
    workers = verdicts.workers_ready(spec, observed, now)
    placed = verdicts.models_placed(spec, observed, placement)
    stalled = _stalled(observed)
    ready = _ready(spec, workers, placed, stalled)
    verdict_of = {
        "Ready": ready,
        "WorkersReady": workers,
        "ModelsPlaced": placed,
        "Reconciling": None if ready.ok or stalled else Verdict(True, "Progressing", ready.message),
        "Stalled": stalled,
    }
    status: Json = {
        "observedGeneration": observed.pool.generation,
        "replicas": observed.deployment.replicas if observed.deployment else 0,
        "readyReplicas": observed.deployment.ready if observed.deployment else 0,
        "selector": selector(observed.pool.name),
        "models": [_model_status(entry, observed) for entry in spec.models],
        "conditions": conditions.merged(
            old.get("conditions") or (), verdict_of, observed.pool.generation, now
        ),
    }
    accelerator = accelerator_status(old.get("accelerator"), observed.workers)
    return status | ({"accelerator": accelerator} if accelerator else {})


def selector(pool: str) -> str:
    """The label selector of a pool's pods, as the scale subresource gives it."""
    return f"imagefleet.dev/pool={pool},app.kubernetes.io/name=imagefleet-worker"


def _model_status(entry: PoolModel, observed: PoolObserved) -> Json:
    return {
        "name": entry.name,
        "stable": entry.model,
        "traffic": [{"model": entry.model, "percent": 100}],
        "resident": verdicts.resident(observed, entry.model),
        "ready": verdicts.model_ready(entry, observed),
    }


def _ready(spec: PoolSpec, workers: Verdict, placed: Verdict, stalled: Verdict | None) -> Verdict:
    """Ready is what the spec asks for: all workers, all models. At zero replicas no model can be placed, on
    purpose."""
    if stalled is not None:
        return Verdict(False, stalled.reason, stalled.message)
    if spec.replicas == 0:
        return workers
    for part in (workers, placed):
        if not part.ok:
            return Verdict(False, part.reason, part.message)
    return Verdict(True, "Ready", f"{workers.message} {placed.message}")


def _stalled(observed: PoolObserved) -> Verdict | None:
    """What does not mend by waiting."""
    if observed.refusals:
        return Verdict(True, observed.refusals[0].reason, observed.refusals[0].message)
    if observed.deployment is not None and observed.deployment.stalled:
        return Verdict(True, "ProgressDeadlineExceeded", observed.deployment.stalled)
    return None


def _invalid(pool: Parent[PoolSpec], now: float) -> Json:
    """The status of a pool whose spec cannot be read: all else stays as it was."""
    bad = Verdict(False, "SpecInvalid", pool.error)
    verdict_of = {"Ready": bad, "Stalled": Verdict(True, bad.reason, bad.message)}
    kept = [c for c in pool.status.get("conditions") or () if c["type"] in ("WorkersReady", "ModelsPlaced")]
    written = conditions.merged(pool.status.get("conditions") or (), dict(verdict_of), pool.generation, now)
    return {**pool.status, "observedGeneration": pool.generation, "conditions": written + kept}
