"""The figures of all gateways, added up: what each said last, and what those served that have gone."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from imagefleet_operator.plan.rollout_types import Arm, Budget, NameFigures, Served
from imagefleet_operator.plan.types import Name
from imagefleet_operator.store.figures import Entry

FRESH_SECONDS = 15.0
"""What a gateway said longer ago has no say: it may be cut off, and serve no one."""
NOTHING = NameFigures()

V = TypeVar("V", Arm, Budget, Served)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a gateway said last, and when on the clock."""

    at: float
    figures: Mapping[Entry, NameFigures]


class Ledger:
    """Figures by gateway (the uid of its pod). ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, Heard] = {}
        self._past: dict[Entry, dict[str, Served]] = {}
        """What was served by processes that have ended."""

    def put(self, gateway: str, figures: Mapping[Entry, NameFigures]) -> set[Name]:
        """Take in what a gateway says now; the pools about which that is news."""
        before = self._heard.get(gateway, Heard(0.0, {})).figures
        self._heard[gateway] = Heard(self._clock(), figures)
        changed = {e for e in before.keys() | figures.keys() if before.get(e) != figures.get(e)}
        for entry in changed:
            self._close(entry, before.get(entry, NOTHING).served, figures.get(entry, NOTHING).served)
        return {(namespace, pool) for namespace, pool, _ in changed}

    def drop(self, gateway: str) -> None:
        """A gateway has gone. What it served stays served."""
        heard = self._heard.pop(gateway, None)
        for entry, figures in heard.figures.items() if heard else ():
            self._close(entry, figures.served, {})

    def forget_pool(self, namespace: str, pool: str) -> None:
        """A pool has gone: one of the same name begins at nothing but what gateways still say."""
        for entry in [entry for entry in self._past if entry[:2] == (namespace, pool)]:
            del self._past[entry]

    def of(self, entry: Entry, window: str) -> NameFigures | None:
        """The sums for one entry of a pool, whose ``arms`` are to be of ``window``; None where nobody said anything."""
        since = self._clock() - FRESH_SECONDS
        heard = [h for h in self._heard.values() if entry in h.figures]
        fresh = [h.figures[entry] for h in heard if h.at >= since]
        past = self._past.get(entry, {})
        if not heard and not past:
            return None
        return NameFigures(
            window=window,
            arms=_sums(figures.arms for figures in fresh if figures.window == window),
            short=_sums(figures.short for figures in fresh),
            long=_sums(figures.long for figures in fresh),
            served=_sums([past, *(h.figures[entry].served for h in heard)]),
        )

    def _close(self, entry: Entry, before: Mapping[str, Served], now: Mapping[str, Served]) -> None:
        """Keep what ``now`` does not go on counting: a gateway that started anew has another first request."""
        past = self._past.get(entry, {})
        ended = {m: s for m, s in before.items() if m not in now or now[m].first != s.first}
        if ended:
            self._past[entry] = _sums([past, ended])


def _sums(parts: Iterable[Mapping[str, V]]) -> dict[str, V]:
    """Worked example: {a: 1}, {a: 2, b: 3} is {a: 3, b: 3}."""
    found: dict[str, V] = {}
    for part in parts:
        for model, value in part.items():
            found[model] = found[model] + value if model in found else value
    return found
