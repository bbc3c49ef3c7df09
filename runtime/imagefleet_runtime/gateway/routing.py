"""Which worker serves a request. Pure: clock, loads and randomness are arguments."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import MAX_RETRY_AFTER_SECONDS
from .loads import WorkerLoad, expected_load_seconds
from .resources import ModelView, Worker
from .snapshot import Route, Share


class LoadLookup(Protocol):
    def __getitem__(self, uid: str, /) -> WorkerLoad: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A worker to send to, with the two parts of the work that this request brings there, in seconds."""

    share: Share
    view: ModelView
    worker: Worker
    work_seconds: float
    load_seconds: float


def draw(route: Route, place: float) -> tuple[list[Share], list[Share]]:
    """Shares to serve a request, and those that serve it where they have no worker; of a route that has any.

    In every pool the ImageModel at `place` (0 to 100) of its traffic serves. One place is used for all pools,
    so that a canary of 5 % is 5 % of the name's traffic wherever it runs. The other ImageModels serve too where
    they must, because a picture from the other version is better than none.
    Example: traffic 95/5 of a and b: place 12.0 gives ([a], [b]), place 97.0 gives ([b], [a]).
    """
    if len(route.pools) == 1 and len(route.pools[0]) == 1:
        return [route.pools[0][0]], []
    drawn = [_at(shares, place) for shares in route.pools]
    return drawn, [share for shares in route.pools for share in shares if share not in drawn]


def _at(shares: Sequence[Share], place: float) -> Share:
    at = place * sum(share.percent for share in shares) / 100
    for share in shares:
        at -= share.percent
        if at < 0:
            return share
    return shares[-1]


def choose(
    tiers: Iterable[Sequence[Share]],
    loads: LoadLookup,
    now: float,
    units: Callable[[ModelView], float],
    patience: float,
    tried: Collection[Worker],
    random: Callable[[], float],
) -> Choice | None:
    """The candidate that would finish first; None where there is none.

    Candidates are the workers that allow their share's ImageModel, were not `tried`, and do not still load it
    for longer than `patience` seconds; those of a later tier count only where an earlier one has none. A
    worker finishes after its work left, plus the load where the model is not resident, plus the request's own
    work at the worker's rate. Ties go to fewer requests of ours in flight, then to chance. `units` gives the
    request's megapixel-steps.
    """
    for shares in tiers:
        best: Choice | None = None
        best_rank: tuple[float, float, float] = (math.inf, math.inf, 0.0)
        for share, view in _serving(shares):
            amount = units(view)
            for worker in share.workers:
                if worker in tried:
                    continue
                load = loads[worker.uid]
                wait = load.load_wait(view, (view.name, True) in worker.placement, now)
                if wait > patience and load.load_remaining(view.name, now) is not None:
                    continue
                work = amount * load.rate(view)
                finish = load.work_left(now) + load.penalty(now) + wait + work
                if finish <= best_rank[0] and (rank := (finish, load.inflight, random())) < best_rank:
                    best_rank, best = rank, Choice(share, view, worker, work, wait)
        if best is not None:
            return best
    return None


def _serving(shares: Iterable[Share]) -> Iterator[tuple[Share, ModelView]]:
    """Shares whose ImageModel can serve."""
    for share in shares:
        if share.view is not None and not share.view.stalled:
            yield share, share.view


def unavailable(shares: Iterable[Share]) -> str | None:
    """Why no share can serve, now or after waiting; None where at least one can."""
    reasons = []
    for share in shares:
        if share.view is None:
            reasons.append(f"ImageModel '{share.model}' does not exist in namespace '{share.namespace}'")
        elif share.view.stalled:
            reasons.append(f"ImageModel '{share.model}' cannot be served: {share.view.stalled}")
        else:
            return None
    return "; ".join(dict.fromkeys(reasons))


def retry_after(shares: Iterable[Share], loads: LoadLookup, now: float) -> int:
    """Whole seconds until a held request is worth sending again: 1 to 120.

    The shortest remaining load on any worker, else the model's measured load time, else a default.
    """
    waits = [
        remaining
        for share in shares
        for worker in share.workers
        if (remaining := loads[worker.uid].load_remaining(share.model, now))
    ] or [expected_load_seconds(share.view) for share in shares]
    return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(min(waits))))
