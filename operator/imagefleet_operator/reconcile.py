"""One pass over one pool or model: observe, plan, act, and say when to look again."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from imagefleet_operator import metrics
from imagefleet_operator.act import Actor
from imagefleet_operator.capacity import Capacities
from imagefleet_operator.interruptions import Interruptions
from imagefleet_operator.kinds import DAEMON_SET, DEPLOYMENT, MODEL, POOL, Kind
from imagefleet_operator.observe import observe_model, observe_pool
from imagefleet_operator.plan import prepull, spot, surge
from imagefleet_operator.plan.budget import unrecorded
from imagefleet_operator.plan.capacity import applied
from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.model import plan_model
from imagefleet_operator.plan.moves import HOLD_SECONDS, Move, told
from imagefleet_operator.plan.policy import Policy
from imagefleet_operator.plan.pool import plan_pool
from imagefleet_operator.plan.prepull import prepull_spec
from imagefleet_operator.plan.spot_types import ON_DEMAND, SPOT
from imagefleet_operator.plan.status import write_delay
from imagefleet_operator.plan.types import Json, ModelSpec, Name, Parent, PoolObserved, PoolSpec, Refusal
from imagefleet_operator.plan.workers import WorkerDefaults, verify_spec, workers_spec
from imagefleet_operator.render import pool_children, prepull_daemon_set, verify_job
from imagefleet_operator.store.store import Key, Store

SETTLE_SECONDS = 1.0
"""After children were written, their controllers get this long before a status is: one write instead of
several."""
REFUSED_FIRST = 5.0
REFUSED_LAST = 300.0


@dataclass(slots=True)
class Memory:
    """What a key's passes remember of each other. Losing it costs a write or a second, never correctness."""

    refusals: tuple[Refusal, ...] = ()
    refused: int = 0
    """Passes in a row in which a child was refused."""
    written_at: float | None = None
    """When the status was written last, in seconds of the clock."""
    moved: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict)
    """By model that was moved: when, and the workers that hold it from then on."""
    moves: tuple[Move, ...] = ()
    """Those of the last pass."""


class Reconciler:
    """The passes, which never wait for a worker.

    ``call`` is told of every worker: its pod's name, the seconds between two questions, the policy that it is to be
    brought to, None where it has it, and its role. ``watch`` is told of every pool whether it waits for gateways.
    """

    def __init__(
        self,
        store: Store,
        actor: Actor,
        *,
        workers: WorkerDefaults,
        caller_public_key: str,
        call: Callable[[Name, float, Policy | None, Role], None],
        watch: Callable[[Name, bool], None],
        interruptions: Interruptions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._actor = actor
        self._workers = workers
        self._public_key = caller_public_key
        self._call = call
        self._watch = watch
        self._interruptions = interruptions
        self._clock = clock
        self._capacities = Capacities()
        self._memories: dict[Key, Memory] = {}

    async def run(self, key: Key) -> float | None:
        """One pass; the seconds after which to look again, None where an event or the resync will tell."""
        started, outcome = perf_counter(), "error"
        try:
            again = await self._run(key)
            outcome = "ok"
            return again
        finally:
            metrics.RECONCILE.labels(key[0], outcome).observe(perf_counter() - started)

    async def _run(self, key: Key) -> float | None:
        kind, namespace, name = key
        memory = self._memories.setdefault(key, Memory())
        if kind == "pool":
            pool = self._store.pool(namespace, name)
            if pool is not None and not pool.deleting:
                return await self._pool(pool, memory)
            metrics.forget_pool(namespace, name)
            self._watch((namespace, name), False)
            self._capacities.forget((namespace, name))
        else:
            model = self._store.model(namespace, name)
            if model is not None and not model.deleting:
                return await self._model(model, memory)
        self._memories.pop(key, None)
        return None

    async def _pool(self, pool: Parent[PoolSpec], memory: Memory) -> float | None:
        moved = self._moved(memory)
        observed = observe_pool(self._store, pool, (), moved)
        await self._interruptions.take(pool, spot.interruptions(observed))
        capacity = self._capacities.of(observed, self._clock())
        observed = applied(observed, capacity)
        if unrecorded(observed):
            await self._status(POOL, pool, plan_pool(observed, self._clock(), capacity).status, memory)
            pool = self._store.pool(pool.namespace, pool.name) or pool
            observed = applied(observe_pool(self._store, pool, (), moved), capacity)
        spec = workers_spec(observed, self._workers, self._clock())
        bodies = list(pool_children(spec, self._public_key).values()) if spec else []
        prepared = prepull_spec(observed, self._workers)
        if prepared is not None:
            bodies.append(prepull_daemon_set(prepared))
        changed = await self._children(bodies, POOL, pool, memory)
        if not changed:
            changed = await self._remove_obsolete(observed)
        observed = applied(observe_pool(self._store, pool, memory.refusals, moved), capacity)
        plan = plan_pool(observed, self._clock(), capacity)
        await self._note_moves(pool, plan.moves, memory)
        self._watch((pool.namespace, pool.name), plan.watch_gateways)
        wanted = {p.worker.pod.name: p.policy for p in plan.workers}
        roles = {w.pod.name: w.role for w in observed.workers}
        for pod, seconds in plan.poll_seconds.items():
            self._call((pool.namespace, pod), seconds, wanted.get(pod), roles[pod])
        if changed and not memory.refusals:
            return SETTLE_SECONDS
        delay = await self._status(POOL, pool, plan.status, memory)
        return _soonest(delay, plan.again, *_look_again(observed, self._clock()))

    async def _remove_obsolete(self, observed: PoolObserved) -> bool:
        """Delete what the pool needs no more; whether there was any."""
        found = []
        if spot.obsolete(observed, self._clock()):
            found.append((DEPLOYMENT.kind, spot.on_demand_name(observed.pool.name)))
        if prepull.obsolete(observed):
            found.append((DAEMON_SET.kind, prepull.name(observed.pool.name)))
        children = [self._store.child(kind, observed.pool.namespace, name) for kind, name in found]
        there = [child for child in children if child is not None and not child.deleting]
        return any([await self._actor.remove(child) for child in there])

    def _moved(self, memory: Memory) -> dict[str, frozenset[str]]:
        """The models that were moved lately. Those that were moved before we started are not known."""
        since = self._clock() - HOLD_SECONDS
        memory.moved = {model: (at, on) for model, (at, on) in memory.moved.items() if at >= since}
        return {model: on for model, (_, on) in memory.moved.items()}

    async def _note_moves(self, pool: Parent[PoolSpec], moves: tuple[Move, ...], memory: Memory) -> None:
        """Remember them, count them and tell of them, once."""
        now = self._clock()
        memory.moved |= {move.model: (now, move.workers) for move in moves}
        if moves == memory.moves:
            return
        memory.moves = moves
        for move in moves:
            metrics.PLACEMENT_CHANGES.labels(pool.namespace, pool.name, move.reason).inc()
        await self._actor.tell(POOL, pool, told(moves))

    async def _model(self, model: Parent[ModelSpec], memory: Memory) -> float | None:
        spec = verify_spec(model, self._workers)
        job = verify_job(spec) if spec else None
        name = job["metadata"]["name"] if job else ""
        plan = plan_model(observe_model(self._store, model, name, memory.refusals), self._clock())
        if job and (plan.verify or memory.refusals):
            changed = await self._children([job], MODEL, model, memory)
            if changed and not memory.refusals:
                return SETTLE_SECONDS
            plan = plan_model(observe_model(self._store, model, name, memory.refusals), self._clock())
        return await self._status(MODEL, model, plan.status, memory)

    async def _children(self, bodies: list[Json], kind: Kind, owner: Parent[Any], memory: Memory) -> bool:
        """Whether any was written. Those that were refused go to memory, for this pass's status and the next
        try."""
        results = [await self._actor.child(body, kind, owner) for body in bodies]
        memory.refusals = tuple(r for r in results if isinstance(r, Refusal))
        memory.refused = memory.refused + 1 if memory.refusals else 0
        return any(result is True for result in results)

    async def _status(self, kind: Kind, parent: Parent[Any], status: Json, memory: Memory) -> float | None:
        now = self._clock()
        # The clock may be set back.
        since = None if memory.written_at is None else max(0.0, now - memory.written_at)
        delay = write_delay(parent.status, status, since)
        if delay == 0:
            memory.written_at = now
            await self._actor.status(kind, parent, status)
            delay = None
        return _soonest(delay, _refused_delay(memory))


def _look_again(observed: PoolObserved, now: float) -> Iterator[float | None]:
    for capacity in (SPOT, ON_DEMAND):
        yield surge.look_again(spot.alone(observed, capacity), now)
    yield spot.look_again(observed, now)


def _refused_delay(memory: Memory) -> float | None:
    """Worked example: 5 s after the first refusal, 20 s after the third, at most 300 s."""
    if not memory.refusals:
        return None
    return float(min(REFUSED_LAST, REFUSED_FIRST * 2.0 ** min(memory.refused - 1, 10)))


def _soonest(*delays: float | None) -> float | None:
    return min((d for d in delays if d is not None), default=None)
