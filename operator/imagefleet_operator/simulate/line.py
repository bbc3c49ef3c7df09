"""Requests that wait at the gateway, and which of them an idle worker gets."""

from collections import deque
from collections.abc import Collection, Iterator
from itertools import chain, islice

from imagefleet_operator.simulate.trace import Trace

LOOK = 16
"""Requests that are looked through for one whose model the worker holds already."""
HASTE = 0.5
"""Share of the wait allowed after which a request is not passed over any more."""


class Line:
    """First come, first served, but for two things.

    A request whose model an idle worker holds may pass those whose model would have to be loaded, while they have
    time. With ``overdue_last``, those that can no longer start in time let those pass that can: in a burst that is
    more than the workers can do, as many as can be are in time, instead of none (Moore 1968 has the optimum for
    known work). Whoever is handed out may wait ``ahead`` seconds more, for what the worker has at hand.
    """

    def __init__(self, trace: Trace, wait_seconds: float, overdue_last: bool, ahead: float = 0.0) -> None:
        self._trace, self._wait, self._overdue_last, self._ahead = trace, wait_seconds, overdue_last, ahead
        self._waiting: deque[int] = deque()
        self._overdue: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._overdue)

    def __iter__(self) -> Iterator[int]:
        return chain(self._waiting, self._overdue)

    def add(self, request: int) -> None:
        """A request came."""
        self._waiting.append(request)

    def take(self, resident: Collection[str], now: float) -> int:
        """The request that a worker which holds these models gets."""
        waiting, trace = self._waiting, self._trace
        latest = now + self._ahead - self._wait
        while self._overdue_last and waiting and trace[waiting[0]].arrival < latest:
            self._overdue.append(waiting.popleft())
        if not waiting:
            return self._overdue.popleft()
        if trace[waiting[0]].arrival + self._wait * HASTE > now:
            for at, request in enumerate(islice(waiting, LOOK)):
                if trace[request].model in resident:
                    del waiting[at]
                    return request
        return waiting.popleft()
