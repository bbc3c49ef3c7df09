"""The plan of one pool: what its workers are to hold, and its status."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from imagefleet_operator.plan import conditions, policy, prepull, spot, verdicts
from imagefleet_operator.plan.accelerator import accelerator_status
from imagefleet_operator.plan.budget import BudgetPlan, plan_budget, within_budget
from imagefleet_operator.plan.capacity import Capacity, is_warm, scaling_status
from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.entries import Entries, memory, plan_entries, slots, suspended_models
from imagefleet_operator.plan.entry_status import entries_status, main_entries, suspended
from imagefleet_operator.plan.health import rollout_healthy, safety_healthy
from imagefleet_operator.plan.moves import Move, moves
from imagefleet_operator.plan.packing import Slot
from imagefleet_operator.plan.placement import place
from imagefleet_operator.plan.policy import Policy, Step, steps
from imagefleet_operator.plan.rollout_types import Slo
from imagefleet_operator.plan.suspension import counting
from imagefleet_operator.plan.types import Json, Parent, PoolObserved, PoolSpec, Report, Worker

POLL_UNSETTLED = 1.0
"""Seconds between looks at a worker while something is to change on it."""
POLL_SETTLED = 15.0
WATCH_SECONDS = 1.0
"""Between two passes while time or figures may change something."""
NO_PROMISE = Slo()
GOING = (Role.LEAVING, Role.DONE)
POLL_BUSY = 2.0
"""Of a pool that scales: seconds between two looks at a worker while there is anything to do."""
KEPT = (
    "WorkersReady",
    "ModelsPlaced",
    "RolloutHealthy",
    "SafetyHealthy",
    "SpotAvailable",
    "ScalingActive",
    "PrePulled",
    "WithinBudget",
)
"""Conditions that stay as they were while the spec cannot be read."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What one worker is to hold."""

    worker: Worker
    policy: Policy
    digest: str | None = field(default=None, compare=False)
    """The policy's hash, where it was worked out already."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """What there is to do about it, in order."""
        return steps(self.worker, self.policy, self.digest)


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """All that follows from what is observed of a pool, its children excepted (see
    ``workers.workers_spec``)."""

    workers: tuple[WorkerPlan, ...] = ()
    """Those workers on which something is to be done."""
    status: Json = field(default_factory=dict)
    poll_seconds: Mapping[str, float] = field(default_factory=dict)
    """Per pod that is to be asked for its report: seconds between two looks."""
    again: float | None = None
    """Seconds after which to look again though nothing happened; None: something will."""
    watch_gateways: bool = False
    """Whether what gateways counted is needed soon."""
    moves: tuple[Move, ...] = ()
    """Models that take each other's places now."""


def plan_pool(observed: PoolObserved, now: float, capacity: Capacity | None = None) -> PoolPlan:
    """What to do for a pool. ``now`` is the time in seconds since the epoch; ``capacity`` is what the pool as it is
    ``observed`` was made of (``capacity.applied``).

    Until every ready worker has been asked once, nothing is decided and nothing said but what is spent: a model that
    nobody has been asked about is not one that nobody holds, and after a restart that would move models and end
    ``Ready``.
    """
    spec = observed.pool.spec
    if spec is None:
        return PoolPlan(status=_invalid(observed.pool, now))
    budget = plan_budget(observed, now)
    unasked = {w.pod.name for w in verdicts.present(observed.workers) if not w.asked}
    if unasked:
        return PoolPlan(
            status=observed.pool.status | (budget.status if budget else {}),
            poll_seconds=dict.fromkeys(unasked, 0.0),
            again=capacity.again if capacity else None,
            watch_gateways=capacity is not None and capacity.watch,
        )
    observed, spec = spot.as_served(observed, now), within_budget(spec, budget)
    if capacity is not None:
        capacity = replace(capacity, desired=min(capacity.desired, spec.replicas))
    entries = plan_entries(spec, observed, now)
    wanted = {**_policies(spec, observed, entries), **_aside(spec, observed, entries)}
    digests = _digests(wanted.values())
    plans = (
        WorkerPlan(w, told, digests[id(told)])
        for w in observed.workers
        if (told := wanted.get(w.pod.name)) is not None
    )
    changing = tuple(p for p in plans if p.steps)
    watched = _watched(entries, now) or (budget is not None and bool(budget.tenants))
    waits = (
        WATCH_SECONDS if watched else None,
        capacity.again if capacity else None,
        budget.again if budget else None,
    )
    return PoolPlan(
        workers=changing,
        status=_status(spec, observed, entries, capacity, budget, now),
        poll_seconds=_polls(observed, {p.worker.pod.name for p in changing}, capacity, now),
        again=min((w for w in waits if w is not None), default=None),
        watch_gateways=watched or (capacity is not None and capacity.watch),
        moves=moves(slots(observed), entries.before),
    )


def _watched(entries: Entries, now: float) -> bool:
    """Whether time or figures may change anything: a rollout or an experiment is under way, a promise is judged, or it
    is asked what a model had served that was just suspended."""
    if any("until" not in s and counting(s, now) for s in entries.suspensions):
        return True
    return any(
        state.active is not None
        or any(trial.phase != "Ended" for trial in state.trials)
        or entry.slo != NO_PROMISE
        for entry, state in entries.states
    )


def _digests(policies: Collection[Policy]) -> dict[int, str]:
    """The hashes of policies by their identity: most workers share one."""
    return {found: policy.policy_hash(each) for found, each in {id(each): each for each in policies}.items()}


def _policies(spec: PoolSpec, observed: PoolObserved, entries: Entries) -> Mapping[str, Policy]:
    """Per serving worker what it must hold, and what it may: all that fits beside what it must.

    What is suspended is so at once; all else follows when gateways have been told (see ``Entries.before``), but what a
    worker has and is to hold next is not unloaded. What was suspended and is no longer named is kept from drawing what
    it has begun.
    """
    barred = suspended_models(entries, spec)
    needs = {need.model: need.memory_bytes for need in entries.before.needs}
    next_needs = {need.model: need.memory_bytes for need in entries.layout.needs} | needs
    leaving = [m for m in sorted(barred - needs.keys()) if verdicts.is_usable(m, observed)]
    leaving_sizes = {model: memory(model, observed) for model in leaving}
    pinned = entries.before.placement.pinned
    free = {
        w.pod.name: w.report.memory_total_bytes - sum(needs[m] for m in pinned[w.pod.name])
        for w in verdicts.serving(observed.workers)
        if w.report is not None
    }
    most = max(free.values(), default=0)
    placed = frozenset[str]().union(*pinned.values())
    made: dict[tuple[str, frozenset[str], tuple[str, ...]], Policy] = {}

    def may(report: Report, worker: str, model: str) -> bool:
        """What fits nowhere is named all the same: a worker says best why it cannot."""
        if model not in needs:
            return _holds(report, model)
        size = needs[model]
        return model in pinned[worker] or size <= free[worker] or (size > most and model not in placed)

    def policy_of(report: Report, worker: str) -> Policy:
        """Most workers hold the same: what is the same is made once."""
        names = tuple(m for m in next_needs if may(report, worker, m))
        key = policy.accelerator(report), pinned[worker], names
        if key not in made:
            sizes = {m: next_needs[m] for m in names} | leaving_sizes
            made[key] = _policy(sizes, observed, report, pinned[worker], barred)
        return made[key]

    return {
        w.pod.name: policy_of(w.report, w.pod.name)
        for w in verdicts.serving(observed.workers)
        if w.report is not None
    }


def _holds(report: Report, model: str) -> bool:
    found = report.of(model)
    return found is not None and found.state == "Resident"


def _policy(
    sizes: Mapping[str, int],
    observed: PoolObserved,
    report: Report,
    pinned: frozenset[str],
    barred: Collection[str],
    *,
    preload: bool = False,
) -> Policy:
    name = policy.accelerator(report)
    entries = []
    for needed, memory_bytes in sizes.items():
        model = observed.models[needed]
        assert model is not None
        entries.append(
            policy.policy_entry(
                model,
                pinned=needed in pinned and needed not in barred,
                memory_bytes=memory_bytes,
                speed=policy.measured(model, name),
                suspended=needed in barred,
                preload=preload,
            )
        )
    return tuple(entries)


def _aside(spec: PoolSpec, observed: PoolObserved, entries: Entries) -> dict[str, Policy]:
    """Per worker without requests what it is to hold: a warm one what one more worker would; one that leaves keeps what
    it has, whatever is said here."""
    barred = suspended_models(entries, spec)
    warm = {
        w.pod.name: _warm_policy(spec, observed, entries, w.pod.name, w.report, barred)
        for w in verdicts.ready_for_models(observed.workers)
        if w.role is Role.WARM and w.report is not None
    }
    return {w.pod.name: () for w in verdicts.present(observed.workers) if w.role in GOING} | warm


def _warm_policy(
    spec: PoolSpec,
    observed: PoolObserved,
    entries: Entries,
    name: str,
    report: Report,
    barred: Collection[str],
) -> Policy:
    needs = [replace(n, min_resident=min(1, n.min_resident)) for n in entries.before.needs]
    sizes = {need.model: need.memory_bytes for need in needs}
    if spec.warm is not None and not spec.warm.on_accelerator:
        return _policy(sizes, observed, report, frozenset(), barred, preload=True)
    slot = Slot(name, report.memory_total_bytes, frozenset(m.model for m in report.models if m.pinned))
    held = place(needs, [slot]).pinned[name]
    # In the order of the spec: a policy in another order is another policy.
    chosen = {model: size for model, size in sizes.items() if model in held}
    return _policy(chosen, observed, report, held, barred)


def _polls(
    observed: PoolObserved, changing: set[str], capacity: Capacity | None, now: float
) -> dict[str, float]:
    """Every ready worker is looked at: often while it changes, loads, leaves or has just fallen silent, seldom at
    rest."""
    present = verdicts.present(observed.workers)
    busy = observed.load.sum.running or any(w.report is not None and not w.report.idle for w in present)
    settled = POLL_BUSY if capacity is not None and capacity.watch and busy else POLL_SETTLED
    return {
        w.pod.name: POLL_UNSETTLED if _unsettled(w, w.pod.name in changing, now) else settled for w in present
    }


def _unsettled(worker: Worker, changing: bool, now: float) -> bool:
    """Those that stay silent are asked seldom: each such call takes seconds, and others wait for their turn."""
    if worker.silent_since is not None:
        return now - worker.silent_since < verdicts.SILENT_SECONDS
    if changing or worker.report is None or worker.role in GOING:
        return True
    if worker.role is Role.WARM and not is_warm(worker):
        return True
    return any(m.state == "Loading" or (m.pinned and m.state == "Absent") for m in worker.report.models)


def _status(
    spec: PoolSpec,
    observed: PoolObserved,
    entries: Entries,
    capacity: Capacity | None,
    budget: BudgetPlan | None,
    now: float,
) -> Json:
    old = observed.pool.status
    workers = verdicts.workers_ready(spec, observed, now)
    asked = replace(spec, models=main_entries(spec, entries))
    placed = verdicts.models_placed(asked, observed, entries.layout.placement)
    stalled = _stalled(spec, observed, entries)
    ready = _ready(spec, workers, placed, stalled)
    verdict_of = {
        "Ready": ready,
        "WorkersReady": workers,
        "ModelsPlaced": placed,
        "RolloutHealthy": rollout_healthy(state for _, state in entries.states),
        "SafetyHealthy": safety_healthy(observed, entries),
        "SpotAvailable": spot.spot_available(observed, now),
        "ScalingActive": capacity.verdict if capacity else None,
        "PrePulled": prepull.pre_pulled(observed),
        "WithinBudget": budget.verdict if budget else None,
        "Reconciling": None if ready.ok or stalled else Verdict(True, "Progressing", ready.message),
        "Stalled": stalled,
    }
    status: Json = {
        "observedGeneration": observed.pool.generation,
        "desiredReplicas": spec.replicas,
        "replicas": observed.deployment.replicas if observed.deployment else 0,
        "readyReplicas": observed.deployment.ready if observed.deployment else 0,
        "selector": selector(observed.pool.name),
        **entries_status(spec, observed, entries),
        **(scaling_status(spec, observed, capacity, now) if capacity else {}),
        **prepull.pre_pull_status(observed),
        **(budget.status if budget else {}),
        "conditions": conditions.merged(
            old.get("conditions") or (), verdict_of, observed.pool.generation, now
        ),
    }
    accelerator = accelerator_status(old.get("accelerator"), observed.workers)
    return status | ({"accelerator": accelerator} if accelerator else {})


def selector(pool: str) -> str:
    """The label selector of a pool's pods, as the scale subresource gives it."""
    return f"imagefleet.dev/pool={pool},app.kubernetes.io/name=imagefleet-worker"


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


def _stalled(spec: PoolSpec, observed: PoolObserved, entries: Entries) -> Verdict | None:
    """What does not mend by waiting."""
    if observed.refusals:
        return Verdict(True, observed.refusals[0].reason, observed.refusals[0].message)
    for entry, state in entries.states:
        why = suspended(spec, entry, state, entries)
        if why:
            return Verdict(True, "Suspended", f"{entry.name}: {why}")
    if observed.deployment is not None and observed.deployment.stalled:
        return Verdict(True, "ProgressDeadlineExceeded", observed.deployment.stalled)
    return None


def _invalid(pool: Parent[PoolSpec], now: float) -> Json:
    """The status of a pool whose spec cannot be read: all else stays as it was."""
    bad = Verdict(False, "SpecInvalid", pool.error)
    verdict_of = {"Ready": bad, "Stalled": Verdict(True, bad.reason, bad.message)}
    kept = [c for c in pool.status.get("conditions") or () if c["type"] in KEPT]
    written = conditions.merged(pool.status.get("conditions") or (), dict(verdict_of), pool.generation, now)
    return {**pool.status, "observedGeneration": pool.generation, "conditions": written + kept}
