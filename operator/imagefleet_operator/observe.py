"""From the store to what a plan depends on: frozen values, nothing that changes under the plan's hands."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from imagefleet_operator.plan import policy, prepull, spot, verdicts
from imagefleet_operator.plan.cluster_types import DaemonSetState, DeploymentState, Pod
from imagefleet_operator.plan.rollout_types import NameFigures
from imagefleet_operator.plan.types import (
    Copy,
    ModelObserved,
    ModelSpec,
    Parent,
    PoolObserved,
    PoolSpec,
    Refusal,
    Worker,
)
from imagefleet_operator.store.records import models_of_pool
from imagefleet_operator.store.store import Store


def observe_pool(
    store: Store,
    pool: Parent[PoolSpec],
    refusals: Sequence[Refusal],
    moved: Mapping[str, frozenset[str]],
) -> PoolObserved:
    """All that the plan of ``pool`` depends on; ``refusals`` are those of its children's last writes, ``moved`` the
    models that were moved lately, with the workers that hold them since."""
    parts = _deployments(store, pool)
    return PoolObserved(
        pool=pool,
        models={name: store.model(pool.namespace, name) for name in models_of_pool(pool)},
        deployment=spot.total(list(parts.values())),
        workers=tuple(
            _interrupted(store, pool, w) for w in observe_workers(store, pool.namespace, pool.name)
        ),
        refusals=tuple(refusals),
        figures=_figures(store, pool),
        demand=store.demands.of(pool.namespace, pool.name),
        load=store.loads.of(pool.namespace, pool.name),
        moved_models=moved,
        parts=parts,
        pre_pull=_pre_pull(store, pool),
        counts=store.drawn.of(pool.namespace, pool.name) if pool.spec and pool.spec.budget else {},
    )


def _deployments(store: Store, pool: Parent[PoolSpec]) -> dict[str, DeploymentState]:
    """Those that belong to the pool, by name."""
    names = (spot.workers_name(pool.name), spot.on_demand_name(pool.name))
    children = (store.child("Deployment", pool.namespace, name) for name in names)
    ours = [child for child in children if child is not None and child.owner == pool.uid]
    return {child.name: child.state for child in ours if isinstance(child.state, DeploymentState)}


def _pre_pull(store: Store, pool: Parent[PoolSpec]) -> DaemonSetState | None:
    child = store.child("DaemonSet", pool.namespace, prepull.name(pool.name))
    state = child.state if child is not None and child.owner == pool.uid else None
    return state if isinstance(state, DaemonSetState) else None


def _interrupted(store: Store, pool: Parent[PoolSpec], worker: Worker) -> Worker:
    spec = pool.spec.spot if pool.spec else None
    taint = spot.interrupted_by(spec, worker.pod, store.nodes.taints(worker.pod.node))
    return replace(worker, interrupted=taint) if taint else worker


def _figures(store: Store, pool: Parent[PoolSpec]) -> dict[str, NameFigures]:
    """What gateways counted of each entry, by its name, since its window began."""
    windows = {m.get("name"): str(m.get("window") or "") for m in pool.status.get("models") or ()}
    found = {
        entry.name: store.figures.of((pool.namespace, pool.name, entry.name), windows.get(entry.name, ""))
        for entry in (pool.spec.models if pool.spec else ())
    }
    return {name: figures for name, figures in found.items() if figures is not None}


def observe_workers(store: Store, namespace: str, pool: str) -> tuple[Worker, ...]:
    """The pods of a pool with what they said, by name."""
    return tuple(observe_worker(store, pod) for pod in store.pods_of_pool(namespace, pool))


def observe_worker(store: Store, pod: Pod) -> Worker:
    """A pod with what it said."""
    state = store.worker(pod)
    return Worker(
        pod, state.report, state.silent_since, state.policy_hash, state.silence, heard_at=state.heard_at
    )


def observe_model(
    store: Store, model: Parent[ModelSpec], job_name: str, refusals: Sequence[Refusal]
) -> ModelObserved:
    """All that the plan of ``model`` depends on; ``job_name`` is its verification Job's."""
    return ModelObserved(
        model=model,
        job_name=job_name,
        job=store.child("Job", model.namespace, job_name),
        pods=tuple(store.pods_of_model(model.namespace, model.name)),
        copies=_copies(store, model),
        refusals=tuple(refusals),
    )


def _copies(store: Store, model: Parent[ModelSpec]) -> tuple[Copy, ...] | None:
    """The model on every serving worker of every pool that names it; the annotation is what is wanted there."""
    found = []
    for pool in store.pools_of_model(model.namespace, model.name):
        workers = observe_workers(store, model.namespace, pool)
        if not all(worker.asked for worker in verdicts.present(workers)):
            return None
        for worker in verdicts.serving(workers):
            wanted = policy.annotated(worker.pod.placement).get(model.name)
            report = worker.report.of(model.name) if worker.report else None
            if worker.report and (wanted is not None or report is not None):
                found.append(Copy(wanted, report, policy.accelerator(worker.report)))
    return tuple(found)
