"""Carrying out plans on the API server: children, statuses and Events. What workers are told is in ``calls``."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from imagefleet_operator.client import ApiError, KubeClient
from imagefleet_operator.events import EventRecorder
from imagefleet_operator.kinds import CHILDREN, Kind
from imagefleet_operator.plan import drift
from imagefleet_operator.plan.cluster_types import Child
from imagefleet_operator.plan.conditions import News, Transition, transitions
from imagefleet_operator.plan.story import story
from imagefleet_operator.plan.types import Json, Parent, Refusal
from imagefleet_operator.render import hash_of
from imagefleet_operator.store.records import child_record, our_fields
from imagefleet_operator.store.store import Key, Store

logger = logging.getLogger(__name__)


class Actor:
    """What it writes it also takes into the store at once; ``wake`` is called with the keys that this concerns."""

    def __init__(
        self,
        store: Store,
        client: KubeClient,
        events: EventRecorder,
        wake: Callable[[Iterable[Key]], None],
    ) -> None:
        self._store = store
        self._client = client
        self._events = events
        self._wake = wake

    async def child(self, body: Json, parent_kind: Kind, owner: Parent[Any]) -> bool | Refusal:
        """Bring one child to ``body``: whether it was written, or why it cannot be. Raises ApiError,
        ApiUnreachableError."""
        kind = CHILDREN[body["kind"]]
        metadata = body["metadata"]
        known = self._store.child(kind.kind, metadata["namespace"], metadata["name"])
        action = self._decide(known, body)
        if action is drift.Action.LOOK:
            action = await self._look(kind, body)
            # A parent that we reported on before must have lost this child; where it has gone itself, unnoticed,
            # the garbage collector would take away whatever we made for it.
            reported = owner.status.get("observedGeneration", -1) > 0
            if action is drift.Action.APPLY and known is None and reported:
                action = action if await self._exists(parent_kind, owner) else drift.Action.KEEP
        if action is drift.Action.REFUSE:
            return Refusal("ChildNotOwned", _not_owned(body, owner))
        return await self._apply(kind, body) if action is drift.Action.APPLY else False

    async def remove(self, child: Child) -> bool:
        """Delete a child that is no longer wanted: whether it was there. Raises ApiError, ApiUnreachableError."""
        try:
            await self._client.delete(CHILDREN[child.kind], child.namespace, child.name, child.uid)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return False
        return True

    def _decide(self, known: Child | None, body: Json) -> drift.Action:
        (owner,) = body["metadata"]["ownerReferences"]
        return drift.decide(known, owner, hash_of(body), self._store.trusted(known))

    async def _look(self, kind: Kind, body: Json) -> drift.Action:
        found = await self._client.get(kind, body["metadata"]["namespace"], body["metadata"]["name"])
        if found is None:
            return drift.Action.APPLY
        child = child_record(kind.kind, found)
        if drift.covers(our_fields(found), body):
            self._store.trust(child)
        action = self._decide(child, body)
        return drift.Action.APPLY if action is drift.Action.LOOK else action

    async def _apply(self, kind: Kind, body: Json) -> bool | Refusal:
        try:
            applied = await self._client.apply(kind, body)
        except ApiError as error:
            if not error.refused:
                raise
            name = f"{kind.kind} {body['metadata']['name']}"
            return Refusal("ChildRejected", f"The API server refuses {name}: {error.message}")
        self._wake(self._store.put(kind, applied))
        self._store.trust(child_record(kind.kind, applied))
        return True

    async def _exists(self, kind: Kind, parent: Parent[Any]) -> bool:
        """Whether the API server has this very pool or model; what it says goes to the store."""
        found = await self._client.get(kind, parent.namespace, parent.name)
        if found is None:
            self._wake(self._store.forget((kind.kind, parent.namespace, parent.name), parent.uid))
            return False
        self._wake(self._store.put(kind, found))
        return bool(found["metadata"]["uid"] == parent.uid)

    async def status(self, kind: Kind, parent: Parent[Any], status: Json) -> None:
        """Write a status, then tell of what changed with it. Raises ApiError and ApiUnreachableError.

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
            where = f"{kind.kind} {parent.namespace}/{parent.name}"
            logger.info("the status of %s was not written, it is looked at again: %s", where, error)
            await self._exists(kind, parent)
            return
        self._wake(self._store.put(kind, written))
        news: tuple[Transition | News, ...] = (
            *transitions(parent.status, status),
            *story(parent.status, status),
        )
        await self.tell(kind, parent, news)

    async def tell(self, kind: Kind, parent: Parent[Any], news: Sequence[Transition | News]) -> None:
        """Events for what happened."""
        await self._events.post(kind, parent, news)


def _not_owned(body: Json, owner: Parent[Any]) -> str:
    kind, name = body["kind"], body["metadata"]["name"]
    return (
        f"{kind} {name} exists and does not belong to {owner.name}: delete or rename it; it is left as it is."
    )
