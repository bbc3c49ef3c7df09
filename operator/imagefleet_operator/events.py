"""Kubernetes Events about our resources, posted by ourselves: one for each transition and each piece of news, never
twice the same."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from imagefleet_operator.client import FIELD_MANAGER, ApiError, ApiUnreachableError, KubeClient
from imagefleet_operator.kinds import EVENT, Kind
from imagefleet_operator.plan.conditions import News, Transition, truncated
from imagefleet_operator.plan.types import Json, Parent

logger = logging.getLogger(__name__)
NOTE_BYTES = 1024
"""The API's limit on a note."""
REMEMBERED = 4096
REPEAT_SECONDS = 600.0
"""The same transition of the same object makes no second Event within this time: flapping is told once."""


def event_body(kind: Kind, parent: Parent[Any], told: Transition | News, identity: str, now: float) -> Json:
    """The Event about what happened; its name is made of the time in nanoseconds, as the Kubernetes recorders
    do it."""
    moment = datetime.fromtimestamp(now, UTC)
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": f"{parent.name}.{int(now * 1e9):x}", "namespace": parent.namespace},
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": FIELD_MANAGER,
        "reportingInstance": identity,
        "action": "Reconcile",
        "type": "Warning" if told.warning else "Normal",
        "reason": told.reason,
        "note": _note(told),
        "regarding": {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "namespace": parent.namespace,
            "name": parent.name,
            "uid": parent.uid,
        },
    }


def _note(told: Transition | News) -> str:
    line = truncated(told.note)
    return line.encode()[:NOTE_BYTES].decode(errors="ignore")


class EventRecorder:
    """Posts Events. They are news, not state: one that cannot be posted is logged and let go."""

    def __init__(self, client: KubeClient, identity: str, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._identity = identity
        self._clock = clock
        self._posted: OrderedDict[tuple[str, Transition | News], float] = OrderedDict()

    async def post(self, kind: Kind, parent: Parent[Any], found: Sequence[Transition | News]) -> None:
        """Post an Event for each that was not told within the last ten minutes."""
        for item in found:
            now, told = self._clock(), (parent.uid, item)
            if now - self._posted.get(told, -REPEAT_SECONDS) < REPEAT_SECONDS:
                continue
            self._posted[told] = now
            self._posted.move_to_end(told)
            if len(self._posted) > REMEMBERED:
                self._posted.popitem(last=False)
            body = event_body(kind, parent, item, self._identity, now)
            try:
                await self._client.create(EVENT, parent.namespace, body)
            except (ApiError, ApiUnreachableError) as error:
                logger.info("an event about %s/%s was not posted: %s", parent.namespace, parent.name, error)
