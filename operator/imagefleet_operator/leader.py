"""What a leader runs: first lists, then the queues, kopf's watches and the resync."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable

import kopf
from kubernetes.aio.client.configuration import Configuration
from prometheus_client import REGISTRY

from imagefleet_operator import metrics, prepull_metrics, scaling_metrics
from imagefleet_operator.act import Actor
from imagefleet_operator.budget_metrics import BudgetMetrics
from imagefleet_operator.calls import WorkerCalls
from imagefleet_operator.client import KubeClient
from imagefleet_operator.events import EventRecorder
from imagefleet_operator.gateways import FIND, GatewayClient, Gateways
from imagefleet_operator.handlers import make_registry, make_settings
from imagefleet_operator.interruptions import Interruptions
from imagefleet_operator.kinds import MODEL, POOL
from imagefleet_operator.nodes import NodeWatch
from imagefleet_operator.plan.cluster_types import Pod, Role
from imagefleet_operator.plan.policy import Policy
from imagefleet_operator.plan.types import Name
from imagefleet_operator.queue import WorkQueue
from imagefleet_operator.reconcile import Reconciler
from imagefleet_operator.rollout_metrics import RolloutMetrics
from imagefleet_operator.settings import Settings
from imagefleet_operator.store.store import Key, Store
from imagefleet_operator.sync import follow_relists, list_all, resync
from imagefleet_operator.workers import Tokens, WorkerClient, load_key, public_pem

logger = logging.getLogger(__name__)

CALLS_AT_ONCE = 64
GATEWAYS_AT_ONCE = 16
COALESCE_SECONDS = 0.2
"""Changes come in bursts: a pool's children bring some ten events within a second. One pass is for all of these."""
READINGS_SECONDS = {"pool": 5.0, "model": 15.0}
"""Utilization, speeds and the like move in each report, and a status tells of them seldom: one pass is for the reports
of all of a pool's workers, or of all workers of the pools that name a model."""
OLDEST_SECONDS = 300.0
"""A key that waits or is worked on this long means that the queue is stuck. Every call has a shorter
deadline."""
DRAIN_SECONDS = 5.0


class WatchError(Exception):
    """kopf gave up: the API server went on refusing a list or a watch."""


class Leader:
    """Everything that only the leading replica runs."""

    def __init__(self, settings: Settings, configuration: Configuration, client: KubeClient) -> None:
        self._settings = settings
        self._configuration = configuration
        self._client = client
        self._identity = settings.lease.identity
        self._store = Store()
        key = load_key(settings.caller_key_file)
        self._workers = WorkerClient(Tokens(key))
        self._calls = WorkerCalls(self._store, client, self._workers, self._wake, self._wake_later)
        events = EventRecorder(client, settings.lease.identity)
        actor = Actor(self._store, client, events, self._wake)
        self._nodes = NodeWatch(self._store, client, self._wake)
        reconciler = Reconciler(
            self._store,
            actor,
            workers=settings.workers,
            caller_public_key=public_pem(key),
            call=self._call,
            watch=self._watch_gateways,
            interruptions=Interruptions(events, self._interrupt),
        )
        self._queue: WorkQueue[Key] = WorkQueue(
            "reconcile", reconciler.run, concurrency=settings.queue_workers, lag=_lag("reconcile")
        )
        self._call_queue: WorkQueue[Name] = WorkQueue(
            "call", self._calls.run, concurrency=CALLS_AT_ONCE, lag=_lag("call")
        )
        self._gateways = GatewayClient()
        self._counts = Gateways(
            self._store.figures,
            self._store.demands,
            self._store.loads,
            self._store.drawn,
            client,
            self._gateways,
            namespace=settings.lease.namespace,
            selector=settings.gateway_selector,
            add=self._ask_gateway,
            wake=self._wake,
        )
        self._gateway_queue: WorkQueue[str] = WorkQueue(
            "gateway", self._counts.run, concurrency=GATEWAYS_AT_ONCE, lag=_lag("gateway")
        )
        self._rollouts = RolloutMetrics()
        self._budgets = BudgetMetrics(lambda: self._store.parents(POOL.kind))
        self._relisted = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until ``stop`` is set, or until something ends that must not.

        Raises MissingKindError, ApiError, ApiUnreachableError for the first lists, and WatchError for the watches.
        """
        try:
            await list_all(self._store, self._client)
            counts = sorted(self._store.counts().items())
            logger.info("listed %s", ", ".join(f"{count} {kind}" for kind, count in counts) or "nothing")
            REGISTRY.register(self._budgets)
            self._queue.start()
            self._call_queue.start()
            self._gateway_queue.start()
            self._gateway_queue.add(FIND)
            self._wake(self._store.parent_keys())
            following = (self._resync(), self._follow_relists(), self._nodes.run())
            listing = [asyncio.create_task(each) for each in following]
            try:
                await self._watch(stop)
            finally:
                for task in listing:
                    task.cancel()
                await self._queue.stop(DRAIN_SECONDS)
                await self._call_queue.stop(0)
                await self._gateway_queue.stop(0)
                REGISTRY.unregister(self._budgets)
        finally:
            await self._workers.close()
            await self._gateways.close()

    async def _watch(self, stop: asyncio.Event) -> None:
        try:
            await kopf.operator(
                registry=make_registry(self._store, self._wake, self._relisted.set, self._configuration),
                settings=make_settings(),
                clusterwide=True,
                standalone=True,
                # Its default asks for the user's name, which a container's user id need not have.
                identity=self._identity,  # type: ignore[arg-type]  # a NewType of str that kopf does not export
                stop_flag=stop,
            )
        except Exception as error:
            raise WatchError(f"the watches ended, starting again is the cure: {error!r}") from error

    @property
    def _queues(self) -> tuple[WorkQueue[Key] | WorkQueue[Name] | WorkQueue[str], ...]:
        return self._queue, self._call_queue, self._gateway_queue

    def problems(self) -> list[str]:
        """What is wrong with the queues; nothing where they work."""
        dead = [f"a worker of the {q.name} queue has ended" for q in self._queues if not q.alive()]
        old = [f"the {q.name} queue is stuck" for q in self._queues if q.oldest() > OLDEST_SECONDS]
        return dead + old

    def refresh_metrics(self) -> None:
        """Bring the gauges up to date that are read from the queues and the store."""
        for queue in self._queues:
            metrics.QUEUE_DEPTH.labels(queue.name).set(queue.depth())
            metrics.QUEUE_AGE.labels(queue.name).set(queue.oldest())
        metrics.PARENTS.clear()
        for kind in (POOL.kind, MODEL.kind):
            found = Counter(
                (condition["type"], condition["status"])
                for parent in self._store.parents(kind)
                for condition in parent.status.get("conditions") or ()
            )
            for (condition, status), count in found.items():
                metrics.PARENTS.labels(kind, condition, status).set(count)
        self._rollouts.refresh(self._store.parents(POOL.kind))
        prepull_metrics.refresh(self._store.parents(POOL.kind))
        scaling_metrics.refresh(self._store.parents(POOL.kind), self._store.loads.of)
        metrics.DEMAND.clear()
        for pool in self._store.parents(POOL.kind):
            for model, seconds in (self._store.demands.of(pool.namespace, pool.name) or {}).items():
                metrics.DEMAND.labels(pool.namespace, pool.name, model).set(seconds)

    async def _resync(self) -> None:
        await resync(self._store, self._client, self._queue.add, self._settings.resync_seconds)

    async def _follow_relists(self) -> None:
        await follow_relists(self._store, self._client, self._queue.add, self._relisted)

    def _wake(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add(key, COALESCE_SECONDS)

    def _wake_later(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add(key, READINGS_SECONDS[key[0]])

    def _watch_gateways(self, pool: Name, wanted: bool) -> None:
        self._counts.watch(pool, wanted)

    def _ask_gateway(self, key: str, seconds: float) -> None:
        self._gateway_queue.add(key, seconds)

    def _interrupt(self, pod: Pod) -> None:
        self._calls.interrupt(pod)
        self._call_queue.add((pod.namespace, pod.name))

    def _call(self, pod: Name, seconds: float, wanted: Policy | None, role: Role) -> None:
        self._call_queue.add(pod, self._calls.arrange(pod, seconds, wanted, role))


def _lag(queue: str) -> Callable[[float], None]:
    return metrics.QUEUE_LAG.labels(queue).observe
