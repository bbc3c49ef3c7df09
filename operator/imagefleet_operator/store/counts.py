"""What gateways counted for budgets: read, and kept by gateway and pool."""

from collections import OrderedDict
from collections.abc import Mapping
from sys import intern
from typing import Any

from imagefleet_operator.plan.spend_types import Counted
from imagefleet_operator.plan.types import Name
from imagefleet_operator.store.figures import InvalidFiguresError, amount

MOST_GONE = 64
"""Gateways that have gone and whose last words are kept: a pool's status is written with a lag."""


def read_counts(body: Any) -> tuple[str, dict[Name, Counted]]:
    """``started`` and ``tenants`` of ``GET /v1/gateway``, by pool. Raises InvalidFiguresError.

    An entry that cannot be is left out. A gateway of a version that counts nothing yet answers without: no opinion.
    """
    try:
        drawn: dict[Name, dict[tuple[str, str], float]] = {}
        in_flight: dict[Name, dict[tuple[str, str], float]] = {}
        for entry in body.get("tenants") or ():
            pool = intern(str(entry["namespace"])), intern(str(entry["pool"]))
            key = intern(str(entry["model"])), intern(str(entry["tenant"]))
            work, under_way = amount(entry, "workSeconds"), amount(entry, "inFlightSeconds")
            if work is None:
                continue
            drawn.setdefault(pool, {})[key] = work
            if under_way:
                in_flight.setdefault(pool, {})[key] = under_way
        found = {pool: Counted(work, in_flight.get(pool, {})) for pool, work in drawn.items()}
        return str(body.get("started") or ""), found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidFiguresError(f"{type(error).__name__}: {error}") from error


class Counts:
    """By gateway's process: the uid of its pod, and when it started, for its counters begin at zero then."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, Mapping[Name, Counted]]] = {}
        """By uid: the process, and what it said last."""
        self._gone: OrderedDict[str, Mapping[Name, Counted]] = OrderedDict()
        """By process; nothing of theirs is in flight."""

    def put(self, gateway: str, started: str, counts: Mapping[Name, Counted]) -> set[Name]:
        """Take in what a gateway says now; the pools about which that is news."""
        process = f"{gateway}/{started}"
        before, known = self._said.get(gateway, ("", {}))
        if before not in ("", process):
            self._retire(before, known)
            known = {}
        self._said[gateway] = process, counts
        return {pool for pool in known.keys() | counts.keys() if known.get(pool) != counts.get(pool)}

    def drop(self, gateway: str) -> None:
        """A gateway has gone. What it drew stays drawn."""
        process, known = self._said.pop(gateway, ("", {}))
        if process:
            self._retire(process, known)

    def of(self, namespace: str, pool: str) -> dict[str, Counted]:
        """What all of them counted of one pool, by process."""
        said = {**self._gone, **dict(self._said.values())}
        return {process: found for process, pools in said.items() if (found := pools.get((namespace, pool)))}

    def _retire(self, process: str, known: Mapping[Name, Counted]) -> None:
        self._gone[process] = {pool: Counted(counted.drawn) for pool, counted in known.items()}
        if len(self._gone) > MOST_GONE:
            self._gone.popitem(last=False)
