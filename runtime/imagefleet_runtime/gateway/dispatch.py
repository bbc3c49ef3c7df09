"""One image request's way to a worker: choose, send, try another, wait."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from random import SystemRandom
from random import random as uniform

from . import routing, work
from .attempt import Attempts, Fleet
from .cache import Cache
from .demand import Demand, Held
from .errors import SUSPENDED, ApiError, server_error
from .hold import Hold, HoldFullError
from .loads import NEUTRAL_RATE
from .metrics import Metrics
from .relay import Relay, SuspendedError, Trace
from .resources import ModelView
from .routing import Choice
from .snapshot import Route, Share
from .split import Split
from .suspension import route_suspended
from .upstream import Reply

MAX_ATTEMPTS = 3
# Errors of a request that no worker had the time for.
_NO_CAPACITY = ("queue_full", "model_loading")
# Short enough to be typed again by hand.
SEED_BITS = 32

_seeds = SystemRandom()


class Dispatcher:
    def __init__(
        self,
        fleet: Fleet,
        attempts: Attempts,
        hold: Hold,
        metrics: Metrics,
        split: Split,
        cache: Cache,
        *,
        hold_seconds: float,
        batch_hold_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        self._fleet = fleet
        self._attempts = attempts
        self._hold = hold
        self._metrics = metrics
        self._split = split
        self._cache = cache
        self._hold_seconds = {"interactive": hold_seconds, "batch": batch_hold_seconds}
        self._clock = clock
        self._random = random

    async def generate(self, request: work.Request, trace: Trace) -> Reply | Relay:
        """A worker's reply that stands, or its stream, whose first event has arrived. Raises ApiError."""
        seed = request.parameters.seed
        trace.arrived = self._clock()
        trace.seed = _seeds.getrandbits(SEED_BITS) if seed is None else seed
        return await _Run(self, request, trace).serve()


class _Run:
    """One request under way."""

    def __init__(self, dispatcher: Dispatcher, request: work.Request, trace: Trace) -> None:
        self._d = dispatcher
        self._request = request
        self._trace = trace
        self._suspended: Route | None = None
        """The route that was asked for, where another one stands in for it."""
        self._take(dispatcher._fleet.snapshot.find(request.parameters.model))

    def _take(self, route: Route) -> None:
        self._route = route
        self._trace.name = route.name
        self._trace.failure = None
        # One place for all attempts: a request does not change versions because a worker was busy.
        self._place = self._d._split.place(route, self._request.parameters.user, self._trace.headers)
        self._plans: dict[str, work.Plan] = {}
        # (pool, ImageModel) behind the name that turned out to be suspended on the way.
        self._closed: set[tuple[str, str]] = set()
        self._demand: Demand | None = None

    async def serve(self) -> Reply | Relay:
        try:
            return await self._serve()
        except ApiError as error:
            if self._demand is not None and error.code in _NO_CAPACITY and not self._trace.began:
                self._demand.refuse()
            raise

    async def _serve(self) -> Reply | Relay:
        while True:
            if not self._route.pools:
                kept = self._fall_back()
                if kept is not None:
                    return kept
                continue
            tiers = routing.draw(self._route, self._place)
            self._trace.key = tiers[0][0].key
            choice = self._choose(tiers)
            if choice is None:
                await self._wait(tiers[0] + tiers[1])
                self._look_again()
                continue
            self._count(choice.share, choice.work_seconds)
            try:
                reply = await self._d._attempts.make(choice, self._plan(choice.view), self._trace)
            except SuspendedError:
                self._closed.add((choice.share.pool, choice.share.model))
                self._d._metrics.retried(self._trace.key, SUSPENDED)
                self._look_again()
                continue
            if reply is not None:
                self._keep(reply)
                return reply
            if self._trace.attempts >= MAX_ATTEMPTS:
                raise self._trace.failure or self._loading(tiers[0])

    def _look_again(self) -> None:
        """Take over what the cluster now says of the route. Raises ApiError where it is gone."""
        route = self._d._fleet.snapshot.find(self._route.full_name)
        self._route = route.without(self._closed) if self._closed else route

    def _fall_back(self) -> Reply | None:
        """Nothing behind the name may draw: an earlier reply, or None where another name stands in for it.

        Raises ApiError where there is neither. The name that stands in is not stood in for.
        """
        route = self._suspended or self._route
        self._trace.name = route.name
        self._trace.key = (route.namespace, *route.suspended[0])
        fallback = route.fallback
        if fallback is None or self._suspended is not None:
            raise route_suspended(route)
        kept = self._d._cache.get(self._request, route.full_name) if fallback.cached else None
        if kept is not None:
            self._trace.repeat(kept.key, self._request.parameters.n or 1)
            self._d._metrics.cache_hit(kept.key)
            return Reply(200, {}, kept.body)
        other = self._d._fleet.snapshot.routes.get(f"{route.namespace}/{fallback.model}")
        if other is None or not other.pools:
            raise route_suspended(route)
        self._d._metrics.fell_back(self._trace.key, SUSPENDED)
        self._suspended = route
        self._take(other)
        return None

    def _plan(self, view: ModelView) -> work.Plan:
        plan = self._plans.get(view.name)
        if plan is None or plan.view is not view:
            assert self._trace.seed is not None
            plan = work.plan(self._request, view, self._route.name, self._trace.seed, self._route.batch)
            self._plans[view.name] = plan
        return plan

    @property
    def _hold_seconds(self) -> float:
        return self._d._hold_seconds[work.priority(self._request, self._route.batch)]

    def _units(self, view: ModelView) -> float:
        return self._plan(view).units

    def _choose(self, tiers: tuple[list[Share], list[Share]]) -> Choice | None:
        now = self._d._clock()
        until = self._trace.hold_until
        return routing.choose(
            tiers,
            self._d._fleet.loads,
            now,
            self._units,
            self._hold_seconds if until is None else max(0.0, until - now),
            self._trace.tried,
            self._d._random,
        )

    async def _wait(self, shares: list[Share]) -> None:
        """Wait until there is a worker to try. Raises ApiError where there will be none in time."""
        trace, now = self._trace, self._d._clock()
        why = routing.unavailable(shares)
        if why is not None:
            raise server_error(
                503, "model_unavailable", f"Model '{self._route.full_name}' cannot be served: {why}."
            )
        if trace.failure is not None:
            raise trace.failure
        self._check_limits(shares)
        # Demand is visible from here on, whether or not there is a worker, or anything was measured.
        share, view = next((share, share.view) for share in shares if share.view and not share.view.stalled)
        trace.key = share.key
        seconds = self._units(view) * (view.rate or NEUTRAL_RATE)
        self._count(share, seconds)
        if trace.hold_until is None:
            trace.hold_until = now + self._hold_seconds
        if now >= trace.hold_until:
            raise self._loading(shares)
        with self._held(share, self._plan(view), seconds):
            try:
                woken = await self._d._hold.wait(self._wait_is_over, trace.hold_until - now)
            except HoldFullError:
                raise self._loading(shares) from None
        if not woken:
            raise self._loading(shares)

    def _check_limits(self, shares: list[Share]) -> None:
        """A request that no worker will ever accept does not wait."""
        for share in shares:
            if share.view is not None:
                self._plan(share.view)

    def _wait_is_over(self) -> bool:
        route = self._d._fleet.snapshot.routes.get(self._route.full_name)
        if route is None or not (route := route.without(self._closed)).pools:
            return True
        tiers = routing.draw(route, self._place)
        try:
            return self._choose(tiers) is not None or routing.unavailable(tiers[0] + tiers[1]) is not None
        except ApiError:
            # The model's limits changed; the request learns it when it goes on.
            return True

    @contextlib.contextmanager
    def _held(self, share: Share, plan: work.Plan, work_seconds: float) -> Iterator[None]:
        start = self._d._clock()
        demand = self._d._metrics.demand(share.key)
        try:
            with demand.holding(Held(self._trace.arrived, work_seconds)):
                yield
        except asyncio.CancelledError:
            waited = self._d._clock() - self._trace.arrived
            demand.give_up(waited, work.allowed_wait(plan.body, share.scaling.wait_seconds))
            raise
        finally:
            held = self._d._clock() - start
            self._trace.held_seconds += held
            self._d._metrics.held(share.key, held)

    def _loading(self, shares: list[Share]) -> ApiError:
        seconds = routing.retry_after(shares, self._d._fleet.loads, self._d._clock())
        return server_error(
            503,
            "model_loading",
            f"No worker serves model '{self._route.full_name}' yet. Try again in {seconds} seconds.",
            retry_after=seconds,
        )

    def _count(self, share: Share, work_seconds: float) -> None:
        """Count the request and its work as arrived, once."""
        if self._demand is None:
            self._demand = self._d._metrics.demand(share.key)
            self._demand.arrive(work_seconds, self._d._clock())

    def _keep(self, reply: Reply | Relay) -> None:
        """Where the name's fallback are earlier replies, this is one from now on."""
        fallback = self._route.fallback
        if fallback is not None and fallback.cached and isinstance(reply, Reply) and reply.status == 200:
            self._d._cache.put(self._request, self._route.full_name, self._trace.key, reply.body)
