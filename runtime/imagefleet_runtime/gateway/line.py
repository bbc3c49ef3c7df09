"""The line: requests that wait at the gateway until a worker has room for them.

A request on a worker stays there; one that waits here can go to a worker that does not exist yet. So workers get only
as much as keeps them busy. Of those that wait, class interactive goes before batch, those that can still start in time
before those that are late (in a burst that is more than the workers can do, as many as can be are in time, instead of
none), and then whoever came first.
"""

import asyncio
from bisect import insort
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .loads import Loads
from .resources import Worker
from .routing import Choice, Wait
from .snapshot import Share

# Workers' work falls while nobody speaks of it, and requests become late (seconds). Less than what workers have at
# hand, so that none of them idles meanwhile.
TICK_SECONDS = 0.25


class LineFullError(Exception):
    """As many requests wait as may."""


class Waiter(Protocol):
    """A request in the line."""

    @property
    def lane(self) -> Hashable:
        """Requests with the same one may go to the same workers."""
        ...

    @property
    def shares(self) -> Sequence[Share]:
        """What may serve it."""
        ...

    @property
    def batch(self) -> bool: ...

    @property
    def order(self) -> tuple[bool, float]:
        """Lowest first, of those of its class that are all in time, or all late."""
        ...

    @property
    def start_by(self) -> float:
        """When it should begin, in the clock's time."""
        ...

    @property
    def work_seconds(self) -> float: ...

    def look(self) -> bool:
        """Take over what the cluster now says; False where the request must go on to learn what became of it."""
        ...

    def place(self, waiting: float = 0.0) -> Choice | Wait:
        """Where it may go now, with so many seconds of work of its lane before it."""
        ...


class _Place:
    """A request's place in the line."""

    __slots__ = ("choice", "future", "lane", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.lane = waiter.lane
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.choice: Choice | None = None

    @property
    def order(self) -> tuple[bool, float]:
        return self.waiter.order


@dataclass(slots=True)
class _Lane:
    """What waits in a lane."""

    requests: int = 0
    work_seconds: float = 0.0


class Line:
    """At most `limit` requests that wait.

    `on_tick` is called now and then while there are any. Whoever is sent may wait another `ahead_seconds` on the
    worker, for the work that it has at hand: in time is who can begin after that.
    """

    def __init__(
        self,
        limit: int,
        loads: Loads,
        clock: Callable[[], float],
        on_tick: Callable[[], object] = lambda: None,
        *,
        ahead_seconds: float = 0.0,
    ) -> None:
        self._limit = limit
        self._loads = loads
        self._clock = clock
        self._ahead = ahead_seconds
        self._interactive: list[_Place] = []
        self._batch: list[_Place] = []
        self._lanes: dict[Hashable, _Lane] = {}
        """Those in which requests wait."""
        self._ticking: asyncio.TimerHandle | None = None
        self._due = False
        self.on_tick = on_tick

    def __len__(self) -> int:
        return len(self._interactive) + len(self._batch)

    def workers(self) -> list[Worker]:
        """Those that what waits may go to, each once."""
        places = (*self._interactive, *self._batch)
        lanes = {place.lane: place.waiter.shares for place in places}
        return list(
            {w.uid: w for shares in lanes.values() for share in shares for w in share.workers}.values()
        )

    async def wait(self, waiter: Waiter, seconds: float) -> Choice | None:
        """A worker with room, once there is one; None where the request must look at the cluster itself.

        Raises TimeoutError after so many seconds, and LineFullError.
        """
        if len(self) >= self._limit:
            return self._past(waiter)
        place = _Place(waiter)
        # Where others of its lane wait there is no room; where there is some, others may have the better claim.
        may_go = place.lane not in self._lanes and isinstance(waiter.place(), Choice)
        self._enter(place)
        if may_go:
            self._release()
        try:
            if not place.future.done():
                async with asyncio.timeout(seconds):
                    await place.future
        except BaseException:
            if place.choice is not None and place.choice.load_seconds > 0:
                self._loads[place.choice.worker.uid].not_resident(place.choice.share.model)
            raise
        finally:
            self._leave(place)
            self._book(place.choice, -1)
        return place.choice

    def _past(self, waiter: Waiter) -> Choice:
        """Who would have nobody before it need not wait."""
        placed = Wait.FULL if waiter.lane in self._lanes else waiter.place()
        if isinstance(placed, Wait):
            raise LineFullError
        return placed

    def freed(self) -> None:
        """A worker may have room."""
        if len(self) and not self._due:
            # Replies that come together are one change.
            self._due = True
            asyncio.get_running_loop().call_soon(self._release)

    def changed(self) -> None:
        """The cluster changed, or what is known of a worker."""
        for place in [*self._interactive, *self._batch]:
            self._count(place, -1)
            goes_on = not place.waiter.look()
            place.lane = place.waiter.lane
            self._count(place, 1)
            if goes_on:
                self._go(place, None)
        self._release()

    def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()

    def _ordered(self, now: float) -> Iterator[_Place]:
        for places in (self._interactive, self._batch):
            late = []
            for place in list(places):
                if place.waiter.start_by >= now + self._ahead:
                    yield place
                else:
                    late.append(place)
            yield from late

    def _release(self) -> None:
        """Send whom there is room for, in order."""
        self._due = False
        stuck = set[Hashable]()
        before: dict[Hashable, float] = {}
        for place in self._ordered(self._clock()):
            lane = place.lane
            if lane in stuck:
                continue
            placed = place.waiter.place(before.get(lane, 0.0))
            if isinstance(placed, Choice):
                self._go(place, placed)
                continue
            before[lane] = before.get(lane, 0.0) + place.waiter.work_seconds
            if placed is not Wait.RATHER or place.waiter.place(self._lanes[lane].work_seconds) is Wait.RATHER:
                # Nor is there a place for those behind.
                stuck.add(lane)
                if len(stuck) >= len(self._lanes):
                    break

    def _go(self, place: _Place, choice: Choice | None) -> None:
        if place.future.done():
            return
        # Counted at the worker until the request itself goes on, so that nobody else takes the room.
        place.choice = choice
        self._book(choice, 1)
        self._leave(place)
        place.future.set_result(None)

    def _book(self, choice: Choice | None, sign: int) -> None:
        if choice is None:
            return
        load, model, now = self._loads[choice.worker.uid], choice.share.model, self._clock()
        work, loads = choice.work_seconds, choice.load_seconds
        if sign > 0:
            load.sent(model, work, loads, now)
        else:
            load.ended(model, work, loads, work + loads, now)

    def _enter(self, place: _Place) -> None:
        insort(self._batch if place.waiter.batch else self._interactive, place, key=lambda other: other.order)
        self._count(place, 1)
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _leave(self, place: _Place) -> None:
        for places in (self._interactive, self._batch):
            if place in places:
                places.remove(place)
                self._count(place, -1)

    def _count(self, place: _Place, sign: int) -> None:
        lane = self._lanes.setdefault(place.lane, _Lane())
        lane.requests += sign
        lane.work_seconds += sign * place.waiter.work_seconds
        if not lane.requests:
            del self._lanes[place.lane]

    def _tick(self) -> None:
        self._ticking = None
        if len(self):
            self._ticking = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
            self.on_tick()
            self._release()
