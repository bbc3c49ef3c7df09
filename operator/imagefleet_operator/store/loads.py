"""What gateways say of the load of pools: read, and added up over gateways.

Gateways count since they started. Kept are differences, by gateway: one that starts anew begins at zero again, and one
that has gone takes nothing back.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from sys import intern
from typing import Any

from imagefleet_operator.plan.capacity_types import Load, ModelLoad
from imagefleet_operator.plan.types import Name
from imagefleet_operator.store.figures import InvalidFiguresError, amount, whole

Route = tuple[str, str, str]
"""Namespace, pool and ImageModel."""
FRESH_SECONDS = 15.0
"""A gateway that is silent for longer may hold requests that we know nothing of."""
GONE_SECONDS = 60.0
"""One that is silent for longer serves nobody."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one gateway says of one model; counters since it started."""

    load: ModelLoad
    since_arrival: float | None = None
    """Seconds since the last request came; None: not said."""


def read_loads(body: Any) -> dict[Route, Said]:
    """``models`` of ``GET /v1/gateway``. Raises InvalidFiguresError where they are none at all.

    What is missing or out of range is no opinion: it counts nothing.
    """
    try:
        return {_route(model): _said(model) for model in body.get("models") or ()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidFiguresError(f"{type(error).__name__}: {error}") from error


def _route(body: Mapping[str, Any]) -> Route:
    return intern(str(body["namespace"])), intern(str(body["pool"])), intern(str(body["model"]))


def _said(body: Mapping[str, Any]) -> Said:
    started, late = _whole(body, "started"), _whole(body, "late")
    load = ModelLoad(
        arrived_seconds=amount(body, "arrivedWorkSeconds") or 0.0,
        arrived=_whole(body, "arrived"),
        started=started,
        late=late,
        held=_whole(body, "held"),
        running=_whole(body, "running"),
        held_seconds=amount(body, "heldWorkSeconds") or 0.0,
        oldest_seconds=amount(body, "oldestHeldSeconds") or 0.0,
    )
    return Said(load, amount(body, "secondsSinceArrival"))


def _whole(body: Mapping[str, Any], key: str) -> int:
    return whole(body, key) or 0


@dataclass(frozen=True, slots=True)
class Heard:
    """What a gateway said last, and when."""

    at: float
    said: Mapping[Route, Said]


class Loads:
    """The load by pool. Gateways are told apart by their pods' uids; ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._heard: dict[str, Heard] = {}
        self._counted: dict[Name, dict[str, ModelLoad]] = defaultdict(dict)
        """What was counted since we started, by pool and model."""
        self._arrival: dict[Name, float] = {}
        """When the last request came that we know of, on the clock."""

    def put(self, gateway: str, said: Mapping[Route, Said]) -> set[Name]:
        """Take in what a gateway says now; the pools for which requests wait there that did not before."""
        now, before = self._clock(), self._heard.get(gateway)
        self._heard[gateway] = Heard(now, said)
        known = before.said if before is not None else said
        waiting = set()
        for route, new in said.items():
            pool, old = route[:2], known.get(route)
            came = self._count(route, old.load if old is not None else None, new.load)
            self._arrived(pool, came, new, now)
            if new.load.held and not (before and old is not None and old.load.held):
                waiting.add(pool)
        return waiting

    def drop(self, gateway: str) -> None:
        """A gateway has gone: what it held and ran is no longer there, what it counted stays counted."""
        self._heard.pop(gateway, None)

    def forget_pool(self, namespace: str, pool: str) -> None:
        """A pool has gone."""
        self._counted.pop((namespace, pool), None)
        self._arrival.pop((namespace, pool), None)

    def of(self, namespace: str, pool: str) -> Load:
        """The load of one pool."""
        now, name = self._clock(), (namespace, pool)
        models = dict(self._counted.get(name, {}))
        for heard in self._heard.values():
            for route, said in heard.said.items():
                if route[:2] == name:
                    models[route[2]] = _with_present(models.get(route[2], ModelLoad()), said.load)
        ages = [now - heard.at for heard in self._heard.values()]
        return Load(
            models=models,
            quiet_seconds=now - self._arrival.get(name, self._began),
            age=min(ages, default=None),
            partial=any(FRESH_SECONDS < age <= GONE_SECONDS for age in ages),
        )

    def _count(self, route: Route, old: ModelLoad | None, new: ModelLoad) -> bool:
        """Add what a gateway counted since it spoke last; whether requests came."""
        models, more = self._counted[route[:2]], grown(old, new)
        sums = models.get(route[2], ModelLoad())
        models[route[2]] = ModelLoad(
            arrived_seconds=sums.arrived_seconds + more.arrived_seconds,
            arrived=sums.arrived + more.arrived,
            started=sums.started + more.started,
            late=sums.late + more.late,
        )
        return more.arrived_seconds > 0

    def _arrived(self, pool: Name, came: bool, said: Said, now: float) -> None:
        at = now - said.since_arrival if said.since_arrival is not None else now if came else None
        if at is not None:
            self._arrival[pool] = max(at, self._arrival.get(pool, at))


def grown(old: ModelLoad | None, new: ModelLoad) -> ModelLoad:
    """What a gateway counted of a model since it spoke before: all of it, where it had said nothing of the model, or
    has begun anew since.

    Worked example: 5 then 7 is 2; 5 then 1 is 1; none then 3 is 3.
    """
    before = old if old is not None and _goes_on(old, new) else ModelLoad()
    return ModelLoad(
        arrived_seconds=new.arrived_seconds - before.arrived_seconds,
        arrived=new.arrived - before.arrived,
        started=new.started - before.started,
        late=new.late - before.late,
    )


def _goes_on(old: ModelLoad, new: ModelLoad) -> bool:
    """Whether these are the counters of the same process: none has fallen."""
    return (
        new.arrived_seconds >= old.arrived_seconds
        and new.arrived >= old.arrived
        and new.started >= old.started
        and new.late >= old.late
    )


def _with_present(sums: ModelLoad, now: ModelLoad) -> ModelLoad:
    return replace(
        sums,
        held=sums.held + now.held,
        running=sums.running + now.running,
        held_seconds=sums.held_seconds + now.held_seconds,
        oldest_seconds=max(sums.oldest_seconds, now.oldest_seconds),
    )
