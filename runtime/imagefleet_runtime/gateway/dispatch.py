"""One image request's way to a worker: choose, send, try another, wait."""

import asyncio
import contextlib
from collections.abc import Iterator
from random import SystemRandom

from . import routing, work
from .attempt import Attempts
from .bodies import Budget
from .cache import Cache
from .course import Course
from .demand import Demand, Held
from .errors import RATE_LIMIT, SUSPENDED, ApiError, server_error
from .estimate import retry_after
from .line import Line, LineFullError
from .metrics import Metrics
from .relay import Relay, SuspendedError
from .resume import Checkpoint
from .routing import Choice, Wait
from .seeker import Seeker, Surroundings
from .snapshot import Route, Share
from .split import Split
from .suspension import route_suspended
from .trace import Trace
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
        around: Surroundings,
        attempts: Attempts,
        line: Line,
        metrics: Metrics,
        split: Split,
        cache: Cache,
        bodies: Budget,
    ) -> None:
        self._around = around
        self._fleet = around.fleet
        self._clock = around.clock
        self._attempts = attempts
        self._line = line
        self._metrics = metrics
        self._split = split
        self._cache = cache
        self._bodies = bodies

    async def generate(self, request: work.Request, trace: Trace) -> Reply | Course:
        """A worker's reply that stands, or its stream, whose first event has arrived. Raises ApiError.

        Whoever calls drops the trace's checkpoint when the request has ended.
        """
        seed = request.parameters.seed
        trace.arrived = self._clock()
        trace.seed = _seeds.getrandbits(SEED_BITS) if seed is None else seed
        trace.checkpoint = Checkpoint(self._bodies)
        run = _Run(self, request, trace)
        reply = await run.serve()
        return Course(reply, run.go_on) if isinstance(reply, Relay) else reply


class _Run:
    """One request under way."""

    def __init__(self, dispatcher: Dispatcher, request: work.Request, trace: Trace) -> None:
        self._d = dispatcher
        self._request = request
        self._trace = trace
        self._streaming = False
        """The caller has a part of a stream."""
        self._suspended: Route | None = None
        """The route that was asked for, where another one stands in for it."""
        self._take(dispatcher._fleet.snapshot.find(request.parameters.model))

    def _take(self, route: Route) -> None:
        self._trace.name = route.name
        self._trace.failure = None
        place = self._d._split.place(route, self._request.parameters.user, self._trace.headers)
        self._seeker = Seeker(self._d._around, self._request, self._trace, route, place)
        self._demand: Demand | None = None

    async def serve(self) -> Reply | Relay:
        try:
            return await self._serve()
        except ApiError as error:
            if self._demand is not None and error.code in _NO_CAPACITY and not self._trace.began:
                self._demand.refuse()
            raise

    async def go_on(self, relay: Relay) -> Reply | Relay:
        """What another worker makes of a stream that one gave up. Raises ApiError."""
        assert relay.interruption is not None
        worker = relay.choice.worker
        self._d._attempts.interrupted(worker, relay.interruption, self._trace)
        self._streaming = True
        self._seeker.keep_to(relay.choice.share.model)
        return await self.serve()

    async def _serve(self) -> Reply | Relay:
        seeker, trace = self._seeker, self._trace
        while True:
            if not seeker.route.pools:
                kept = self._fall_back()
                if kept is not None:
                    return kept
                seeker = self._seeker
                continue
            trace.key = seeker.tiers[0][0].key
            # Nobody overtakes those that wait.
            placed = Wait.FULL if len(self._d._line) and not trace.tried else seeker.place()
            choice = await self._wait() if isinstance(placed, Wait) else placed
            if choice is None:
                seeker.follow()
                continue
            self._count(choice.share, choice.work_seconds)
            try:
                reply = await self._d._attempts.make(choice, seeker.plan(choice.view), trace)
            except SuspendedError:
                seeker.close(choice.share)
                self._d._metrics.retried(trace.key, SUSPENDED)
                seeker.follow()
                continue
            if reply is not None:
                self._keep(reply)
                return reply
            if trace.attempts - trace.uncounted >= MAX_ATTEMPTS:
                raise trace.failure or self._loading()

    def _fall_back(self) -> Reply | None:
        """Nothing behind the name may draw: an earlier reply, or None where another name stands in for it.

        Raises ApiError where there is neither. The name that stands in is not stood in for.
        """
        route = self._suspended or self._seeker.route
        self._trace.name = route.name
        self._trace.key = (route.namespace, *route.suspended[0])
        fallback = route.fallback
        if fallback is None or self._suspended is not None or self._streaming:
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

    async def _wait(self) -> Choice | None:
        """Wait until there is a worker to try; None where the cluster changed. Raises ApiError where none comes in
        time.
        """
        trace, seeker, now = self._trace, self._seeker, self._d._clock()
        gone = routing.unavailable(seeker.shares)
        if gone is not None:
            raise server_error(
                503, "model_unavailable", f"Model '{seeker.route.full_name}' cannot be served: {gone}."
            )
        if trace.failure is not None:
            raise trace.failure
        share, plan = seeker.settle()
        trace.key = share.key
        # Demand is visible from here on, whether or not there is a worker, or anything was measured.
        self._count(share, seeker.work_seconds)
        if trace.hold_until is None:
            trace.hold_until = now + seeker.hold_seconds
        if now >= trace.hold_until:
            return self._now_or_never()
        snapshot = self._d._fleet.snapshot
        try:
            with self._held(share, plan):
                choice = await self._d._line.wait(seeker, trace.hold_until - now)
        except LineFullError:
            raise self._full() from None
        except TimeoutError:
            return self._now_or_never()
        return choice if self._d._fleet.snapshot is snapshot else None

    @contextlib.contextmanager
    def _held(self, share: Share, plan: work.Plan) -> Iterator[None]:
        start = self._d._clock()
        demand = self._d._metrics.demand(share.key)
        try:
            with demand.holding(Held(self._trace.arrived, self._seeker.work_seconds)):
                yield
        except asyncio.CancelledError:
            waited = self._d._clock() - self._trace.arrived
            demand.give_up(waited, work.allowed_wait(plan.body, share.scaling.wait_seconds))
            raise
        finally:
            held = self._d._clock() - start
            self._trace.held_seconds += held
            self._d._metrics.held(share.key, held)

    def _now_or_never(self) -> Choice:
        """Its time is over. Raises ApiError where no worker has room, or there is none."""
        placed = self._seeker.place()
        if isinstance(placed, Choice):
            return placed
        raise self._loading() if placed is Wait.NOBODY else self._full()

    def _full(self) -> ApiError:
        seconds, waiting = self._soonest(), len(self._d._line)
        return ApiError(
            429,
            "queue_full",
            f"No worker of model '{self._seeker.route.full_name}' has room for more, and {waiting} requests wait at "
            f"this gateway. Try again in {seconds} seconds.",
            kind=RATE_LIMIT,
            retry_after=seconds,
        )

    def _loading(self) -> ApiError:
        seconds = self._soonest()
        return server_error(
            503,
            "model_loading",
            f"No worker serves model '{self._seeker.route.full_name}' yet. Try again in {seconds} seconds.",
            retry_after=seconds,
        )

    def _soonest(self) -> int:
        """Whole seconds until it is worth to send the request again: what waits goes before it."""
        shares = self._seeker.tiers[0]
        held = self._d._metrics.held_work_seconds({(share.namespace, share.pool) for share in shares})
        return retry_after(shares, self._d._fleet.loads, self._d._clock(), self._d._around.wall(), held)

    def _count(self, share: Share, work_seconds: float) -> None:
        """Count the request and its work as arrived, once."""
        if self._demand is None:
            self._demand = self._d._metrics.demand(share.key)
            self._demand.arrive(work_seconds, self._d._clock())

    def _keep(self, reply: Reply | Relay) -> None:
        """Where the name's fallback are earlier replies, this is one from now on."""
        route = self._seeker.route
        if not (route.fallback and route.fallback.cached):
            return
        if isinstance(reply, Reply) and reply.status == 200 and not self._trace.degraded:
            self._d._cache.put(self._request, route.full_name, self._trace.key, reply.body)
