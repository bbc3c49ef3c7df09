"""Interruptions of spot workers: each is told and counted once, and the worker is ended."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from imagefleet_operator import metrics
from imagefleet_operator.events import EventRecorder
from imagefleet_operator.kinds import POOL
from imagefleet_operator.plan.cluster_types import Pod
from imagefleet_operator.plan.conditions import News
from imagefleet_operator.plan.spot import Interruption
from imagefleet_operator.plan.types import Parent

REMEMBERED = 4096


class Interruptions:
    """``end`` is called with each worker that nobody has told to end yet."""

    def __init__(self, events: EventRecorder, end: Callable[[Pod], None]) -> None:
        self._events = events
        self._end = end
        self._known: OrderedDict[str, None] = OrderedDict()

    async def take(self, pool: Parent[Any], found: Sequence[Interruption]) -> None:
        """Act on those of a pool's interruptions that are new."""
        for one in found:
            pod = one.pod
            if pod.uid in self._known:
                continue
            self._known[pod.uid] = None
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            metrics.INTERRUPTIONS.labels(pod.namespace, pod.pool).inc()
            if not pod.deleting:
                self._end(pod)
            await self._events.post(POOL, pool, [_news(one)])


def _news(one: Interruption) -> News:
    note = (
        f"Node {one.pod.node} is about to go ({one.taint}): worker {one.pod.name} hands over what it draws."
    )
    return News("SpotInterrupted", note, True, one.pod.uid)
