"""What callers want of each model: the work that gateways counted, and how much of it came lately.

A gateway tells counters since its start, so what came is the difference between two of its answers. The first answer
of a gateway is where its counting begins for us.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from imagefleet_operator.plan.types import Name
from imagefleet_operator.store.loads import Route, Said, grown

HALF_LIFE = 600.0
"""Seconds after which work that came counts half."""
FRESH_SECONDS = 60.0
"""Where no gateway has said anything for so long there is no opinion on what callers want."""
TELL_SECONDS = 10.0
"""A pool is told of further work at most this often: residency is a matter of minutes."""
FORGOTTEN = 1e-9
"""GPU-seconds that count as none."""


@dataclass(frozen=True, slots=True)
class Recent:
    """GPU-seconds that came, half of them forgotten every ``HALF_LIFE``, as of a time on the clock."""

    seconds: float = 0.0
    at: float = 0.0

    def now(self, now: float) -> float:
        """Worked example: 8 GPU-seconds are 2 after 20 minutes."""
        return self.seconds * math.exp2(-max(0.0, now - self.at) / HALF_LIFE)


def arrived_since(before: Mapping[Route, Said], after: Mapping[Route, Said]) -> dict[Route, float]:
    """GPU-seconds that came between two answers of one gateway, of the models for which any did."""
    found = {}
    for key, said in after.items():
        known = before.get(key)
        came = grown(known.load if known is not None else None, said.load).arrived_seconds
        if came > 0:
            found[key] = came
    return found


class Demands:
    """Demand of all gateways, by pool and model. ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, tuple[float, Mapping[Route, Said]]] = {}
        """By gateway (the uid of its pod): when it said something last, and what."""
        self._recent: dict[Name, dict[str, Recent]] = {}
        self._told: dict[Name, float] = {}
        self._known = False

    def put(self, gateway: str, said: Mapping[Route, Said]) -> set[Name]:
        """Take in what a gateway says now; the pools that are to be told of what came."""
        now = self._clock()
        before = self._heard.get(gateway)
        self._heard[gateway] = (now, said)
        if before is None:
            return set()
        self._known = True
        came = arrived_since(before[1], said)
        for (namespace, pool, model), seconds in came.items():
            models = self._recent.setdefault((namespace, pool), {})
            models[model] = Recent(models.get(model, Recent()).now(now) + seconds, now)
        due = {key[:2] for key in came if now - self._told.get(key[:2], -TELL_SECONDS) >= TELL_SECONDS}
        self._told |= dict.fromkeys(due, now)
        return due

    def drop(self, gateway: str) -> None:
        """A gateway has gone. What came through it came."""
        self._heard.pop(gateway, None)

    def forget_pool(self, namespace: str, pool: str) -> None:
        """A pool has gone: nobody asks for anything of the next one of its name."""
        self._recent.pop((namespace, pool), None)
        self._told.pop((namespace, pool), None)

    def of(self, namespace: str, pool: str) -> dict[str, float] | None:
        """GPU-seconds that came lately for each model of a pool; one that is absent was not asked for. None where
        nobody says: before the second answer of any gateway, or after a minute of silence of all of them."""
        now = self._clock()
        if not self._known or all(at < now - FRESH_SECONDS for at, _ in self._heard.values()):
            return None
        found = {model: r.now(now) for model, r in self._recent.get((namespace, pool), {}).items()}
        return {model: seconds for model, seconds in found.items() if seconds > FORGOTTEN}
