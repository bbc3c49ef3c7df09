"""Which worker serves a request. Pure: clock, loads and randomness are arguments."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from .loads import WorkerLoad
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


class Wait(Enum):
    """Why a request is not sent to a worker now."""

    NOBODY = "no worker may serve it"
    FULL = "all that may serve it have enough to do"
    RATHER = "one that has enough to do would be done sooner than those that have room"


@dataclass(frozen=True, slots=True)
class Room:
    """When a worker takes another request."""

    ahead_seconds: float
    """With no more work at hand than that, as long as its queue has a place."""
    joins: Callable[[ModelView, float, float], bool] = lambda *_: False
    """Whether it does with more at hand: of an ImageModel, with so many seconds, a request of so many seconds."""


ANY_ROOM = Room(math.inf)
"""However much it has to do."""


def choose(
    tiers: Iterable[Sequence[Share]],
    loads: LoadLookup,
    now: float,
    units: Callable[[ModelView], float],
    patience: float,
    tried: Collection[Worker],
    random: Callable[[], float],
) -> Choice | None:
    """The candidate that would finish first, however much it has to do; None where there is none."""
    placed = place(tiers, loads, now, units, patience, tried, random, ANY_ROOM)
    return None if isinstance(placed, Wait) else placed


def place(
    tiers: Iterable[Sequence[Share]],
    loads: LoadLookup,
    now: float,
    units: Callable[[ModelView], float],
    patience: float,
    tried: Collection[Worker],
    random: Callable[[], float],
    room: Room,
    waiting: float = 0.0,
) -> Choice | Wait:
    """The candidate that would finish first where it has room for the request, else why it waits.

    Candidates are the workers that allow their share's ImageModel, were not `tried`, and do not still load it
    for longer than `patience` seconds; those of a later tier count only where an earlier one has none. A
    worker finishes after the work that is at hand there, plus the load where the model is not resident, plus the
    request's own work at the worker's rate. Where the model is neither there nor on its way, what its room costs counts
    too (the loads of what has to go for it), and while another worker loads it the load counts twice: a burst does not
    make every worker load. One without room finishes later by its part of `waiting`: seconds of work
    of the same ImageModel that wait before this request. Ties go to fewer requests of ours in flight, then to chance.
    `units` gives the request's megapixel-steps.

    Worked example: w1 has the model and 10 s of work, which is enough; idle w2 would load it in 30 s. A request of
    1 s would end after 11 s there and 31 s here: it waits. With 25 s of work before it, it would end after 36 s:
    it goes to w2.
    """
    ahead, limited = room.ahead_seconds, room is not ANY_ROOM
    for shares in tiers:
        best: Choice | None = None
        best_rank: tuple[float, float, float] = (math.inf, math.inf, 0.0)
        # Of those without room: the soonest to finish, and how many share what waits.
        soonest, sharing = math.inf, 0
        begun = _Begun(shares, loads, now)
        for share, view in _serving(shares):
            amount = units(view)
            for worker in share.workers:
                if worker in tried:
                    continue
                load = loads[worker.uid]
                wait = load.load_wait(view, (view.name, True) in worker.placement, now)
                comes = wait <= 0 or load.load_remaining(view.name, now) is not None
                if wait > patience and comes:
                    continue
                work = amount * load.rate(view)
                at_hand = load.at_hand(view.name, wait, now)
                finish = at_hand + load.penalty(now) + wait + work + (0.0 if comes else begun(load, wait))
                full = limited and load.inflight >= load.queue_limit
                if full or (at_hand > ahead and not room.joins(view, at_hand, work)):
                    soonest, sharing = min(soonest, finish), sharing + comes
                elif finish <= best_rank[0] and (rank := (finish, load.inflight, random())) < best_rank:
                    best_rank, best = rank, Choice(share, view, worker, work, wait)
        if best is not None:
            return best if best_rank[0] <= soonest + waiting / max(1, sharing) else Wait.RATHER
        if soonest < math.inf:
            return Wait.FULL
    return Wait.NOBODY


class _Begun:
    """What it costs to begin a load of a share's ImageModel: looked up once, and only where somebody would."""

    __slots__ = ("_loads", "_now", "_shares", "_under_way")

    def __init__(self, shares: Sequence[Share], loads: LoadLookup, now: float) -> None:
        self._shares, self._loads, self._now = shares, loads, now
        self._under_way: bool | None = None

    def __call__(self, load: WorkerLoad, wait: float) -> float:
        if self._under_way is None:
            self._under_way = any(
                (self._loads[worker.uid].load_remaining(share.model, self._now) or 0.0) > 0
                for share in self._shares
                for worker in share.workers
            )
        return load.room_seconds + wait * self._under_way


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
