"""When a request that is turned away is worth sending again. Pure."""

import math
from collections.abc import Sequence

from .errors import MAX_RETRY_AFTER_SECONDS
from .loads import WorkerLoad, expected_load_seconds
from .resources import ModelView, Worker
from .routing import LoadLookup
from .snapshot import Share


def retry_after(
    shares: Sequence[Share], loads: LoadLookup, now: float, wall: float, held_seconds: float = 0.0
) -> int:
    """Whole seconds, 1 to 120: when those who serve the shares, and the next who will, are done with what there is.

    That is the work at hand of the workers that hold the model, and `held_seconds` of work that waits here. Without
    such workers it begins when the first one has the model: the least that is left of a load, the operator's
    `expectedAt`, else a worker's start, where there is none, and the model's load. `wall` is Unix time.

    Worked examples: two workers with 10 s each and 40 s that wait: 60 / 2 = 30 s. A third one expected in 12 s: 24 s
    are done by then, the other 36 by three: 24 s. No worker, 12 s to load the model, 41.5 s for a start: 54 s.
    """
    ready, coming = _workers(shares, loads, now)
    coming += [at - wall for share in shares if (at := share.scaling.expected_at) is not None and at > wall]
    if ready:
        seconds = _drained(sum(ready) + held_seconds, len(ready), min(coming, default=math.inf))
    else:
        seconds = (min(coming) if coming else _from_nothing(shares)) + held_seconds
    return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(seconds)))


def _workers(shares: Sequence[Share], loads: LoadLookup, now: float) -> tuple[list[float], list[float]]:
    """Work at hand of each worker that holds a share's model; and seconds until others have loaded it."""
    ready, coming = list[float](), list[float]()
    for share in shares:
        for worker in share.workers:
            load = loads[worker.uid]
            if share.view and _holds(load, share.view, worker, now):
                ready.append(load.at_hand(share.model, 0.0, now))
            elif remaining := load.load_remaining(share.model, now):
                coming.append(remaining)
    return ready, coming


def _holds(load: WorkerLoad, view: ModelView, worker: Worker, now: float) -> bool:
    return load.load_wait(view, (view.name, True) in worker.placement, now) <= 0


def _drained(work: float, workers: int, another: float) -> float:
    """Seconds in which so many workers do the work, with one more from `another` on."""
    alone = work / workers
    return alone if alone <= another else another + (work - workers * another) / (workers + 1)


def _from_nothing(shares: Sequence[Share]) -> float:
    return min(
        expected_load_seconds(share.view) + (0.0 if share.workers else share.scaling.start_seconds or 0.0)
        for share in shares
    )
