"""One image request's way to a worker: choose, send, try another, wait."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from random import SystemRandom
from random import random as uniform
from typing import Protocol

from . import routing, work
from .cache import Cache
from .errors import MAX_RETRY_AFTER_SECONDS, RATE_LIMIT, SUSPENDED, ApiError, read_error, server_error
from .events import EventTooLargeError
from .figures import Figures
from .hold import Hold, HoldFullError
from .loads import NEUTRAL_RATE, Loads, WorkerLoad
from .metrics import Metrics
from .relay import Relay, SuspendedError, Trace, Visit, connection_broke
from .resources import ModelView, Worker, measured
from .routing import Choice
from .snapshot import Route, Share, Snapshot
from .split import Split
from .suspension import route_suspended
from .upstream import ConnectionBrokenError, Reply, Stream

MAX_ATTEMPTS = 3
# Short enough to be typed again by hand.
SEED_BITS = 32

_seeds = SystemRandom()


class Fleet(Protocol):
    """What the watches know."""

    snapshot: Snapshot
    loads: Loads


class Client(Protocol):
    async def post(
        self,
        host: str,
        port: int,
        path: bytes,
        authorization: bytes,
        request_id: bytes,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        deadline: float,
    ) -> Reply | Stream: ...


class Bearers(Protocol):
    def bearer(self, namespace: str, pool: str) -> bytes: ...


def retry_reason(status: int, code: str) -> str | None:
    """Why a worker's reply means to try another worker; None where the reply stands."""
    if status == 429:
        return "queue_full"
    if status == 503:
        return code if code in ("worker_draining", "model_loading", "model_failed") else "unavailable"
    if status == 404 and code == "model_not_allowed":
        return code
    return None


class Dispatcher:
    def __init__(
        self,
        fleet: Fleet,
        client: Client,
        tokens: Bearers,
        hold: Hold,
        metrics: Metrics,
        figures: Figures,
        split: Split,
        cache: Cache,
        *,
        hold_seconds: float,
        upstream_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        self._fleet = fleet
        self._client = client
        self._tokens = tokens
        self._hold = hold
        self._metrics = metrics
        self._figures = figures
        self._split = split
        self._cache = cache
        self._hold_seconds = hold_seconds
        self._upstream_seconds = upstream_seconds
        self._clock = clock
        self._random = random
        self.under_way: set[Visit] = set()
        """Requests that are on a worker."""

    async def generate(self, request: work.Request, trace: Trace) -> Reply | Relay:
        """A worker's reply that stands, or its stream, whose first event has arrived. Raises ApiError."""
        seed = request.parameters.seed
        trace.seed = _seeds.getrandbits(SEED_BITS) if seed is None else seed
        return await _Run(self, request, trace).serve()


class _Run:
    """One request under way."""

    def __init__(self, dispatcher: Dispatcher, request: work.Request, trace: Trace) -> None:
        self._d = dispatcher
        self._request = request
        self._trace = trace
        self._counted = False
        # (pool, ImageModel) that turned out to be suspended on the way.
        self._closed: set[tuple[str, str]] = set()
        self._suspended: Route | None = None
        """The route that was asked for, where another one stands in for it."""
        self._take(dispatcher._fleet.snapshot.find(request.parameters.model))

    def _take(self, route: Route) -> None:
        self._route = route
        self._trace.name = route.name
        # One place for all attempts: a request does not change versions because a worker was busy.
        self._place = self._d._split.place(route, self._request.parameters.user, self._trace.headers)
        self._plans: dict[str, work.Plan] = {}

    async def serve(self) -> Reply | Relay:
        while True:
            if not self._route.pools:
                kept = self._fall_back()
                if kept is not None:
                    return kept
                continue
            tiers = routing.draw(self._route, self._place)
            share = tiers[0][0]
            self._trace.key = (share.namespace, share.pool, share.model)
            choice = self._choose(tiers)
            if choice is None:
                await self._wait(tiers[0] + tiers[1])
                self._look_again()
                continue
            try:
                reply = await self._attempt(choice)
            except SuspendedError:
                self._closed.add((choice.share.pool, choice.share.model))
                self._d._metrics.retried(self._trace.key, SUSPENDED)
                self._look_again()
                continue
            if reply is not None:
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
            plan = work.plan(self._request, view, self._route.name, self._trace.seed)
            self._plans[view.name] = plan
        return plan

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
            self._d._hold_seconds if until is None else max(0.0, until - now),
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
        if trace.hold_until is None:
            trace.hold_until = now + self._d._hold_seconds
        if now >= trace.hold_until:
            raise self._loading(shares)
        self._count(shares[0], None)
        with self._held():
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
    def _held(self) -> Iterator[None]:
        key, start = self._trace.key, self._d._clock()
        demand = self._d._metrics.demand(key)
        demand.held += 1
        try:
            yield
        finally:
            demand.held -= 1
            seconds = self._d._clock() - start
            self._trace.held_seconds += seconds
            self._d._metrics.held(key, seconds)

    def _loading(self, shares: list[Share]) -> ApiError:
        seconds = routing.retry_after(shares, self._d._fleet.loads, self._d._clock())
        return server_error(
            503,
            "model_loading",
            f"No worker serves model '{self._route.full_name}' yet. Try again in {seconds} seconds.",
            retry_after=seconds,
        )

    def _count(self, share: Share, choice: Choice | None) -> None:
        """Count the request's work as arrived, once."""
        if self._counted or share.view is None:
            return
        self._counted = True
        key = (share.namespace, share.pool, share.model)
        work = choice.work_seconds if choice else self._units(share.view) * (share.view.rate or NEUTRAL_RATE)
        self._d._metrics.demand(key).arrived_work_seconds += work

    async def _attempt(self, choice: Choice) -> Reply | Relay | None:
        """Send to a worker. None: it did not serve the request, and another may. Raises ApiError and SuspendedError."""
        trace, worker, share = self._trace, choice.worker, choice.share
        trace.key = (share.namespace, share.pool, share.model)
        trace.worker = worker.pod
        trace.attempts += 1
        self._count(share, choice)
        load = self._d._fleet.loads[worker.uid]
        demand = self._d._metrics.demand(trace.key)
        visit = Visit(choice, load, demand, trace, self._d._clock, self._d.under_way)
        with visit:
            try:
                reply = await self._post(visit)
            except ConnectionBrokenError as error:
                visit.suspect()
                self._failed(502, "worker_lost")
                self._broken(worker, error)
                return None
            except ApiError as error:
                self._failed(error.status, error.code)
                raise
        return reply if isinstance(reply, Relay) else self._judge(choice, load, reply)

    def _failed(self, status: int, code: str) -> None:
        """An attempt was not served."""
        self._d._figures.attempt_failed(self._trace.entry, self._trace.key[2], status, code)

    async def _post(self, visit: Visit) -> Reply | Relay:
        """Raises ApiError and ConnectionBrokenError."""
        worker, trace = visit.choice.worker, self._trace
        authorization = self._d._tokens.bearer(worker.namespace, worker.pool)
        plan = self._plan(visit.choice.view)
        trace.units = plan.units
        trace.timed = not plan.body.stream and plan.body.priority != "batch"
        body = work.encode(plan.body, self._d._clock() - trace.start, visit.choice.share.scored)
        deadline = asyncio.get_running_loop().time() + self._d._upstream_seconds
        try:
            reply = await self._d._client.post(
                worker.host,
                worker.port,
                b"/v1/generate",
                authorization,
                trace.request_id.encode(),
                body,
                trace.tracing,
                deadline,
            )
            if isinstance(reply, Stream):
                return await self._relay(visit, reply, plan, deadline)
        except TimeoutError:
            seconds = self._d._upstream_seconds
            raise server_error(
                504,
                "worker_timeout",
                f"The worker did not finish within {seconds:g} seconds. Ask for less work.",
            ) from None
        visit.hear(reply)
        if reply.status == 200 and plan.body.stream:
            raise self._fault(worker, "answered a stream's request without a stream")
        trace.pictures = plan.body.n if reply.status == 200 else 0
        return reply

    async def _relay(self, visit: Visit, stream: Stream, plan: work.Plan, deadline: float) -> Relay:
        """A stream whose first event has arrived. Raises ConnectionBrokenError, TimeoutError and ApiError."""
        worker = visit.choice.worker
        relay = Relay(visit, stream, plan.body.n, deadline)
        try:
            if stream.status != 200 or not plan.body.stream:
                raise self._fault(worker, f"answered {stream.status} with a stream")
            async with asyncio.timeout_at(deadline):
                await relay.start()
        except EventTooLargeError:
            stream.close()
            raise self._fault(worker, "sent an event without an end") from None
        except BaseException:
            stream.close()
            raise
        return relay

    def _broken(self, worker: Worker, error: ConnectionBrokenError) -> None:
        trace = self._trace
        trace.tried.append(worker)
        trace.breaks += 1
        trace.failure = connection_broke(worker.pod)
        self._d._metrics.retried(trace.key, "connection_broken")
        if trace.breaks > 1:
            raise trace.failure from error

    def _judge(self, choice: Choice, load: WorkerLoad, reply: Reply) -> Reply | None:
        """The reply, where it stands; None where another worker may serve the request.

        Raises ApiError and SuspendedError.
        """
        if reply.status == 200:
            self._keep(reply)
            return reply
        code, message = read_error(reply.body)
        if code == SUSPENDED:
            load.not_resident(choice.share.model)
            raise SuspendedError
        self._failed(reply.status, code)
        reason = retry_reason(reply.status, code)
        if reason is None:
            return self._stands(choice, reply, code)
        if reason in ("model_failed", "model_not_allowed", "model_loading"):
            load.not_resident(choice.share.model)
        self._trace.tried.append(choice.worker)
        self._trace.failure = self._failure(choice, reply, reason, message)
        self._d._metrics.retried(self._trace.key, reason)
        return None

    def _keep(self, reply: Reply) -> None:
        fallback = self._route.fallback
        if fallback is not None and fallback.cached:
            self._d._cache.put(self._request, self._route.full_name, self._trace.key, reply.body)

    def _stands(self, choice: Choice, reply: Reply, code: str) -> Reply:
        """A reply that the caller gets as it is, unless it is about the gateway and not about the request."""
        if code and reply.status in (400, 413, 500):
            self._trace.worker_code = code
            return reply
        raise self._fault(choice.worker, f"answered {reply.status}{f' ({code})' if code else ''}")

    @staticmethod
    def _fault(worker: Worker, what: str) -> ApiError:
        message = f"Worker '{worker.pod}' {what}, which is a fault of the fleet, not of the request."
        return server_error(502, "worker_error", message)

    def _failure(self, choice: Choice, reply: Reply, reason: str, message: str) -> ApiError | None:
        """How the request ends if this worker was the last to try; None: by waiting for another worker."""
        if reason in ("worker_draining", "model_not_allowed"):
            # Lag between the cluster and this snapshot: the replacement is on its way.
            return self._trace.failure
        seconds = self._soonest(choice, reply)
        if reason == "queue_full":
            return ApiError(
                429,
                "queue_full",
                f"All workers of model '{self._route.full_name}' are full. Try again in {seconds} seconds.",
                kind=RATE_LIMIT,
                retry_after=seconds,
            )
        code = "model_failed" if reason == "model_failed" else "model_loading"
        return server_error(503, code, message or "The worker is not ready.", retry_after=seconds)

    def _soonest(self, choice: Choice, reply: Reply) -> int:
        """Whole seconds until the first of the workers tried so far is worth trying again: 1 to 120."""
        given = measured(reply.header(b"retry-after"))
        if not given:
            given = routing.retry_after([choice.share], self._d._fleet.loads, self._d._clock())
        self._trace.retry_after.append(max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(given))))
        return min(self._trace.retry_after)
