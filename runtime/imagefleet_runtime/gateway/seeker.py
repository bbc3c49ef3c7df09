"""Where one request may go, as the cluster is now."""

import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, replace

from . import budgets, routing, work
from .attempt import Fleet
from .errors import ApiError
from .loads import NEUTRAL_RATE
from .resources import ModelView, Worker
from .resume import AVOID_SECONDS
from .routing import Choice, Wait
from .snapshot import Route, Share
from .trace import Trace


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all requests of a gateway share. Times in seconds."""

    fleet: Fleet
    clock: Callable[[], float]
    random: Callable[[], float]
    ahead_seconds: float
    """A worker with more work at hand gets no more of what could wait."""
    hold_seconds: float
    batch_hold_seconds: float
    wall: Callable[[], float] = time.time
    """Seconds since the epoch."""


class Seeker:
    """A request for a route, with one place in its traffic for all attempts: it does not change versions because a
    worker was busy. In the line it is a `Waiter`.
    """

    def __init__(
        self, around: Surroundings, request: work.Request, trace: Trace, route: Route, traffic_place: float
    ) -> None:
        """`route` has pools. `traffic_place`: 0 to 100. Raises ApiError where budgets have nothing left for it."""
        self._around = around
        self._request = request
        self._trace = trace
        self._traffic_place = traffic_place
        self._plans: dict[str, work.Plan] = {}
        # (pool, ImageModel) behind the name that turned out to be suspended on the way.
        self._closed: set[tuple[str, str]] = set()
        self._model = ""
        self._degraded = False
        self.route = self._paid_for(route)
        self.batch = work.priority(request, route.batch) == "batch"
        self._room = routing.Room(around.ahead_seconds, self._joins)
        self.work_seconds = 0.0
        self.start_by = 0.0
        self.tiers: tuple[list[Share], list[Share]] = ([], [])
        if self.route.pools:
            self.tiers = routing.draw(self.route, traffic_place)

    def _paid_for(self, route: Route) -> Route:
        """The route as budgets leave it for this caller. What a worker has begun stays as large as it is."""
        if route.pools:
            self._trace.key = route.pools[0][0].key
        if not route.budgeted and not self._degraded:
            return route
        headers, now = self._trace.headers, self._around.wall()
        open_route = budgets.within(route, headers, now)
        degraded = budgets.degraded(open_route, headers, now)
        if degraded != self._degraded and not self._trace.attempts:
            self._degraded, self._plans = degraded, {}
        return open_route

    @property
    def shares(self) -> list[Share]:
        return [*self.tiers[0], *self.tiers[1]]

    @property
    def lane(self) -> Hashable:
        tried = tuple(worker.uid for worker in self._trace.tried)
        return tuple(share.key for share in self.tiers[0]), tuple(share.key for share in self.tiers[1]), tried

    @property
    def order(self) -> tuple[bool, float]:
        return not self._trace.interruptions, self._trace.arrived

    @property
    def hold_seconds(self) -> float:
        return self._around.batch_hold_seconds if self.batch else self._around.hold_seconds

    def close(self, share: Share) -> None:
        """The share turned out to be suspended."""
        self._closed.add((share.pool, share.model))

    def follow(self) -> None:
        """Take over what the cluster now says of the route. Raises ApiError where it is gone, or no budget is left."""
        route = self._around.fleet.snapshot.find(self.route.full_name)
        self.route = self._paid_for(route.without(self._closed) if self._closed else route)
        if self._model and (kept := [share for share in self.route.shares if share.model == self._model]):
            self.tiers = (kept, [])
        elif self._model and any(model == self._model for _, model in self.route.suspended):
            self.route = replace(self.route, pools=())
        elif self.route.pools:
            self.tiers = routing.draw(self.route, self._traffic_place)

    def keep_to(self, model: str) -> None:
        """The caller has a part of this ImageModel's stream: no other goes on with it while it is there."""
        self._model = model
        self.follow()

    def look(self) -> bool:
        try:
            self.follow()
            if not self.route.pools or routing.unavailable(self.shares) is not None:
                return False
            self.settle()
        except ApiError:
            # The request learns it when it goes on.
            return False
        return True

    def settle(self) -> tuple[Share, work.Plan]:
        """The share that it waits for first. Raises ApiError where no worker will ever accept the request."""
        for share in self.shares:
            if share.view is not None:
                self.plan(share.view)
        share, view = next((s, s.view) for s in self.shares if s.view and not s.view.stalled)
        plan = self.plan(view)
        self.work_seconds = plan.units * (view.rate or NEUTRAL_RATE)
        self.start_by = self._trace.arrived + work.begin_within(
            plan.body, share.scaling.wait_seconds, self.work_seconds
        )
        return share, plan

    def plan(self, view: ModelView) -> work.Plan:
        """Raises ApiError where the ImageModel never serves such a request, or none that is not reduced."""
        plan = self._plans.get(view.name)
        if plan is None or plan.view is not view:
            assert self._trace.seed is not None
            reduced = view.reduced if self._degraded else None
            plan = work.plan(
                self._request, view, self.route.name, self._trace.seed, self.route.batch, reduced
            )
            if plan.degraded and budgets.refuses(self._trace.headers):
                raise budgets.only_reduced(self.route, self._around.wall())
            self._plans[view.name] = plan
        return plan

    def place(self, waiting: float = 0.0) -> Choice | Wait:
        # Who was refused by a worker has waited, and goes to the next best one at once.
        trace = self._trace
        room = self._room if not trace.tried else routing.ANY_ROOM
        giver = trace.given_up_by
        if giver is not None and self._around.clock() - trace.given_up_at < AVOID_SECONDS:
            placed = self._place([*trace.tried, giver], room, waiting)
            if placed is not Wait.NOBODY:
                return placed
        return self._place(trace.tried, room, waiting)

    def _place(self, tried: Collection[Worker], room: routing.Room, waiting: float) -> Choice | Wait:
        around, until = self._around, self._trace.hold_until
        now = around.clock()
        return routing.place(
            self.tiers,
            around.fleet.loads,
            now,
            self._units,
            self.hold_seconds if until is None else max(0.0, until - now),
            tried,
            around.random,
            room,
            waiting,
        )

    def _units(self, view: ModelView) -> float:
        return self.plan(view).units

    def _joins(self, view: ModelView, at_hand: float, seconds: float) -> bool:
        """Whether what is at hand on a worker is less than a full batch of such pictures.

        Worked example: pictures of 10 s of which 4 are drawn together; with up to 30 s at hand this one joins them.
        """
        body = self.plan(view).body
        return at_hand <= (view.together(body.width, body.height) - 1) * seconds / body.n
