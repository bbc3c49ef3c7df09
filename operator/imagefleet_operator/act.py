"""Carrying out plans: server-side applies of children, calls to workers, statuses and Events."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from imagefleet_operator import metrics
from imagefleet_operator.client import ApiError, KubeClient
from imagefleet_operator.events import EventRecorder
from imagefleet_operator.kinds import CHILDREN, POD, Kind
from imagefleet_operator.plan import drift
from imagefleet_operator.plan.conditions import transitions
from imagefleet_operator.plan.policy import Annotate, Step
from imagefleet_operator.plan.types import Json, Parent, Pod, Refusal, Worker
from imagefleet_operator.render import hash_of
from imagefleet_operator.store.records import PLACEMENT_ANNOTATION, child_record, our_fields
from imagefleet_operator.store.store import Key, Store
from imagefleet_operator.workers import WorkerClient, WorkerError

logger = logging.getLogger(__name__)


class Actor:
    """The only part that changes anything outside. What it writes it also takes into the store at once."""

    def __init__(
        self,
        store: Store,
        client: KubeClient,
        workers: WorkerClient,
        events: EventRecorder,
        wake: Callable[[Iterable[Key]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._client = client
        self._workers = workers
        self._events = events
        self._wake = wake
        self._clock = clock

    async def child(self, body: Json, owner: Parent[Any]) -> bool | Refusal:
        """Bring one child to ``body``: whether it was written, or why it cannot be. Raises ApiError,
        ApiUnreachableError."""
        kind = CHILDREN[body["kind"]]
        metadata = body["metadata"]
        known = self._store.child(kind.kind, metadata["namespace"], metadata["name"])
        action = drift.decide(known, owner.uid, hash_of(body), self._store.trusted(known))
        if action is drift.Action.LOOK:
            action = await self._look(kind, body, owner)
        if action is drift.Action.REFUSE:
            return Refusal("ChildNotOwned", _not_owned(body, owner))
        return await self._apply(kind, body) if action is drift.Action.APPLY else False

    async def _look(self, kind: Kind, body: Json, owner: Parent[Any]) -> drift.Action:
        found = await self._client.get(kind, body["metadata"]["namespace"], body["metadata"]["name"])
        if found is None:
            return drift.Action.APPLY
        child = child_record(kind.kind, found)
        if drift.covers(our_fields(found), body):
            self._store.trust(child)
        action = drift.decide(child, owner.uid, hash_of(body), self._store.trusted(child))
        return drift.Action.APPLY if action is drift.Action.LOOK else action

    async def _apply(self, kind: Kind, body: Json) -> bool | Refusal:
        try:
            applied = await self._client.apply(kind, body)
        except ApiError as error:
            if not error.refused:
                raise
            name = f"{kind.kind} {body['metadata']['name']}"
            return Refusal("ChildRejected", f"The API server refuses {name}: {error.message}")
        self._store.put(kind, applied)
        self._store.trust(child_record(kind.kind, applied))
        return True

    async def worker(self, worker: Worker, steps: Sequence[Step]) -> None:
        """Carry out the steps in order; the first that fails ends them, as the next rely on it. Raises
        ApiError."""
        for step in steps:
            if isinstance(step, Annotate):
                await self._annotate(worker.pod, step.placement)
            elif not await self._put(worker, step.policy, step.policy_hash):
                return

    async def _annotate(self, pod: Pod, placement: str) -> None:
        metadata = {"uid": pod.uid, "annotations": {PLACEMENT_ANNOTATION: placement}}
        try:
            written = await self._client.merge(POD, pod.namespace, pod.name, {"metadata": metadata})
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            logger.info("pod %s/%s has gone before its placement was written", pod.namespace, pod.name)
        else:
            self._store.put(POD, written)

    async def _put(self, worker: Worker, policy: Sequence[Json], policy_hash: str) -> bool:
        pod, state = worker.pod, self._store.worker(worker.pod)
        try:
            report = await self._workers.put_models(pod, policy)
        except WorkerError as error:
            metrics.POLL_FAILURES.labels(pod.namespace, pod.pool, "put").inc()
            logger.warning("worker %s/%s did not take its models: %s", pod.namespace, pod.name, error)
            silent = state.silent_since or self._clock()
            self._wake(self._store.put_worker(pod, replace(state, silent_since=silent)))
            return False
        told = replace(state, report=report, silent_since=None, policy_hash=policy_hash)
        self._wake(self._store.put_worker(pod, told))
        return True

    async def status(self, kind: Kind, parent: Parent[Any], status: Json) -> None:
        """Write a status, then tell of its transitions. Raises ApiError and ApiUnreachableError.

        The uid makes the write fail for an object that was deleted and made anew meanwhile.
        """
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"namespace": parent.namespace, "name": parent.name, "uid": parent.uid},
            "status": status,
        }
        try:
            written = await self._client.apply(kind, body, subresource="status")
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            logger.info(
                "%s %s/%s has gone before its status was written", kind.kind, parent.namespace, parent.name
            )
            return
        self._store.put(kind, written)
        await self._events.post(kind, parent, transitions(parent.status, status))


def _not_owned(body: Json, owner: Parent[Any]) -> str:
    kind, name = body["kind"], body["metadata"]["name"]
    return (
        f"{kind} {name} exists and does not belong to {owner.name}: delete or rename it; it is left as it is."
    )
