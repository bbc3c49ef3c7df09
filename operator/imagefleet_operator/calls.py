"""Calls to workers: asking for their reports, and bringing them and the gateways' annotation to a policy.

They run in a queue of their own with one key per pod, so that a worker that hangs holds up nothing but itself,
and no two calls to one worker overtake each other.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from imagefleet_operator import metrics
from imagefleet_operator.client import ApiError, KubeClient
from imagefleet_operator.kinds import POD
from imagefleet_operator.observe import observe_worker
from imagefleet_operator.plan import policy
from imagefleet_operator.plan.cluster_types import Pod, Role
from imagefleet_operator.plan.policy import Annotate, Cost, Policy, Put
from imagefleet_operator.plan.pool import POLL_UNSETTLED
from imagefleet_operator.plan.types import Json, Name, Report
from imagefleet_operator.pod_http import CallError
from imagefleet_operator.store.records import DELETION_COST_ANNOTATION, PLACEMENT_ANNOTATION
from imagefleet_operator.store.store import Key, Store, WorkerState
from imagefleet_operator.workers import WorkerClient

logger = logging.getLogger(__name__)


class WorkerCalls:
    """What is said to workers and heard of them. ``wake`` is called with the keys that news concern, ``later`` with
    those that mere readings do."""

    def __init__(
        self,
        store: Store,
        client: KubeClient,
        workers: WorkerClient,
        wake: Callable[[Iterable[Key]], None],
        later: Callable[[Iterable[Key]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._client = client
        self._workers = workers
        self._wake = wake
        self._later = later
        self._clock = clock
        self._intervals: dict[Name, float] = {}
        self._wanted: dict[Name, tuple[Policy, Role]] = {}
        self._interrupted: dict[Name, str] = {}

    def arrange(self, name: Name, seconds: float, policy: Policy | None, role: Role = Role.ACTIVE) -> float:
        """Remember how often to ask a worker, and the policy and role that it is to be brought to (None: it is there);
        the seconds until its next call."""
        self._intervals[name] = max(seconds, POLL_UNSETTLED)
        wanted = None if policy is None else (policy, role)
        if wanted is None:
            self._wanted.pop(name, None)
            return seconds
        # What waits already, or was not taken, is not hastened.
        again = self._wanted.get(name) == wanted
        self._wanted[name] = wanted
        return seconds if again else 0.0

    def interrupt(self, pod: Pod) -> None:
        """In the next round with this very worker: its node is about to go."""
        self._interrupted[pod.namespace, pod.name] = pod.uid

    async def run(self, name: Name) -> float | None:
        """One round with one worker; the seconds until the next, None where its pod is not there to answer.
        Raises ApiError and ApiUnreachableError for its annotation: then the same is tried again."""
        pod = self._store.pod(*name)
        if pod is not None and not pod.deleting and self._interrupted.get(name) == pod.uid:
            return None if await self._end(pod) else POLL_UNSETTLED
        if pod is None or not pod.ready or pod.deleting:
            for known in (self._intervals, self._wanted, self._interrupted):
                known.pop(name, None)
            return None
        wanted = self._wanted.get(name)
        if wanted is None:
            await self._ask(pod)
        elif await self._bring(pod, *wanted) and self._wanted.get(name) == wanted:
            del self._wanted[name]
        return self._intervals.get(name)

    async def _end(self, pod: Pod) -> bool:
        """Gateways stop choosing the worker, it hands over what it draws, and its pod ends, so that the next one is
        made at once: whether it does. A pod that is ready still may have to wait for others of its pool."""
        if policy.annotated(pod.placement):
            await self._annotate(pod, {PLACEMENT_ANNOTATION: policy.placement_text({})})
        if pod.ready:
            try:
                await self._workers.interrupt(pod)
            except CallError as error:
                # The end of its pod tells it the same.
                logger.warning("worker %s/%s was not interrupted: %s", pod.namespace, pod.name, error)
        try:
            await self._client.evict(pod.namespace, pod.name, pod.uid)
        except ApiError as error:
            if error.status not in (404, 409, 429):
                raise
            return error.status != 429
        return True

    async def _bring(self, pod: Pod, wanted: Policy, role: Role) -> bool:
        """Whether all steps went well, from how the worker stands now; the first that fails ends them, as the next
        rely on it."""
        for step in policy.steps(replace(observe_worker(self._store, pod), role=role), wanted):
            if isinstance(step, Annotate):
                await self._annotate(pod, {PLACEMENT_ANNOTATION: step.placement})
            elif isinstance(step, Cost):
                # None takes the annotation away: 0 is what a pod without it has.
                await self._annotate(pod, {DELETION_COST_ANNOTATION: str(step.cost) if step.cost else None})
            elif not await self._put(pod, step):
                return False
        return True

    async def _annotate(self, pod: Pod, annotations: Json) -> None:
        metadata = {"uid": pod.uid, "annotations": annotations}
        try:
            written = await self._client.merge(POD, pod.namespace, pod.name, {"metadata": metadata})
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            logger.info("pod %s/%s has gone before its annotations were written", pod.namespace, pod.name)
        else:
            self._wake(self._store.put(POD, written))

    async def _put(self, pod: Pod, step: Put) -> bool:
        try:
            report = await self._workers.put_models(pod, step.policy)
        except CallError as error:
            logger.warning("worker %s/%s did not take its models: %s", pod.namespace, pod.name, error)
            self._silent(pod, "put", error)
            return False
        self._heard(pod, report, step.policy_hash)
        return True

    async def _ask(self, pod: Pod) -> None:
        try:
            report = await self._workers.report(pod)
        except CallError as error:
            logger.debug("worker %s/%s: %s", pod.namespace, pod.name, error)
            self._silent(pod, "get", error)
        else:
            self._heard(pod, report, self._store.worker(pod).policy_hash)

    def _heard(self, pod: Pod, report: Report, policy_hash: str | None) -> None:
        before = self._store.worker(pod)
        state = WorkerState(pod.uid, report, None, policy_hash, heard_at=self._clock())
        keys = self._store.put_worker(pod, state)
        same = before.report is not None and before.report.news == report.news
        mere_readings = same and (before.silent_since, before.policy_hash) == (None, policy_hash)
        (self._later if mere_readings else self._wake)(keys)

    def _silent(self, pod: Pod, call: str, error: CallError) -> None:
        metrics.POLL_FAILURES.labels(pod.namespace, pod.pool, call).inc()
        before = self._store.worker(pod)
        if before.silent_since is None:
            silent = replace(before, silent_since=self._clock(), silence=error.brief)
            self._wake(self._store.put_worker(pod, silent))
        # How long it has been silent is part of the pool's condition.
        self._wake([("pool", pod.namespace, pod.pool)])
