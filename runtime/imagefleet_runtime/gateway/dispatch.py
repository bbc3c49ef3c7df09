"""One image request's way to a worker: choose, send, try another, wait."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import SystemRandom
from random import random as uniform
from typing import Protocol

from . import images, routing
from .errors import MAX_RETRY_AFTER_SECONDS, RATE_LIMIT, ApiError, read_error, server_error
from .hold import Hold, HoldFullError
from .images import ImagesRequest, WorkerRequest
from .loads import NEUTRAL_RATE, Loads, WorkerLoad
from .metrics import NO_KEY, Key, Metrics
from .resources import ModelView, Worker, measured
from .routing import Choice
from .snapshot import Share, Snapshot
from .upstream import ConnectionBrokenError, Reply

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
        self, host: str, port: int, path: bytes, authorization: bytes, request_id: bytes, body: bytes
    ) -> Reply: ...


class Bearers(Protocol):
    def bearer(self, namespace: str, pool: str) -> bytes: ...


@dataclass(slots=True)
class Trace:
    """What is known of a request: for its reply's headers, its log line and its metrics."""

    request_id: str
    start: float
    key: Key = NO_KEY
    seed: int | None = None
    worker: str = ""
    worker_code: str = ""
    """The error code of a worker's reply that was passed on."""
    attempts: int = 0
    held_seconds: float = 0.0
    worker_seconds: float = 0.0
    tried: list[Worker] = field(default_factory=list)
    breaks: int = 0
    retry_after: list[int] = field(default_factory=list)
    """Seconds, of each worker that was full or could not load the model."""
    failure: ApiError | None = None
    """How the request ends if no other worker can be tried; None: it waits for one."""
    hold_until: float | None = None
    """Set when it is first held."""


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
        self._hold_seconds = hold_seconds
        self._upstream_seconds = upstream_seconds
        self._clock = clock
        self._random = random

    async def generate(self, request: ImagesRequest, trace: Trace) -> Reply:
        """A worker's reply that stands. Raises ApiError."""
        trace.seed = _seeds.getrandbits(SEED_BITS) if request.seed is None else request.seed
        return await _Run(self, request, trace).serve()


class _Run:
    """One request under way."""

    def __init__(self, dispatcher: Dispatcher, request: ImagesRequest, trace: Trace) -> None:
        self._d = dispatcher
        self._request = request
        self._trace = trace
        # One draw for all attempts: a request does not change versions because a worker was busy.
        self._point = dispatcher._random() * 100
        self._route = dispatcher._fleet.snapshot.find(request.model)
        self._full_name = f"{self._route.namespace}/{self._route.name}"
        self._plans: dict[str, tuple[ModelView, WorkerRequest, float]] = {}
        self._counted = False

    async def serve(self) -> Reply:
        while True:
            tiers = routing.draw(self._route, self._point)
            share = tiers[0][0]
            self._trace.key = (share.namespace, share.pool, share.model)
            choice = self._choose(tiers)
            if choice is None:
                await self._wait(tiers[0] + tiers[1])
                self._route = self._d._fleet.snapshot.find(self._full_name)
                continue
            reply = await self._attempt(choice)
            if reply is not None:
                return reply
            if self._trace.attempts >= MAX_ATTEMPTS:
                raise self._trace.failure or self._loading(tiers[0])

    def _plan(self, view: ModelView) -> tuple[ModelView, WorkerRequest, float]:
        plan = self._plans.get(view.name)
        if plan is None or plan[0] is not view:
            assert self._trace.seed is not None
            body = images.worker_request(self._request, view, self._route.name, self._trace.seed)
            plan = self._plans[view.name] = (view, body, images.work_units(body, view))
        return plan

    def _units(self, view: ModelView) -> float:
        return self._plan(view)[2]

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
                503, "model_unavailable", f"Model '{self._full_name}' cannot be served: {why}."
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
        route = self._d._fleet.snapshot.routes.get(self._full_name)
        if route is None:
            return True
        tiers = routing.draw(route, self._point)
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
            f"No worker serves model '{self._full_name}' yet. Try again in {seconds} seconds.",
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

    async def _attempt(self, choice: Choice) -> Reply | None:
        """Send to a worker. None: it did not serve the request, and another may. Raises ApiError."""
        trace, worker, share = self._trace, choice.worker, choice.share
        trace.key = key = (share.namespace, share.pool, share.model)
        trace.worker = worker.pod
        trace.attempts += 1
        self._count(share, choice)
        load = self._d._fleet.loads[worker.uid]
        demand = self._d._metrics.demand(key)
        demand.running += 1
        start = self._d._clock()
        load.sent(share.model, choice.work_seconds, choice.load_seconds, start)
        reply: Reply | None = None
        try:
            reply = await self._post(choice)
        except ConnectionBrokenError as error:
            load.suspect(self._d._clock())
            self._broken(worker, error)
        finally:
            demand.running -= 1
            now = self._d._clock()
            trace.worker_seconds += now - start
            self._learn(choice, load, reply, now)
        return None if reply is None else self._judge(choice, load, reply)

    @staticmethod
    def _learn(choice: Choice, load: WorkerLoad, reply: Reply | None, now: float) -> None:
        """Take over what the worker says of its load; else the work of a request that was not served is
        undone.
        """
        load.inflight -= 1
        served = reply is not None and reply.status == 200
        if reply is not None:
            load.set_rate(choice.share.model, reply.header(b"x-imagefleet-rate"))
        reported = reply is not None and load.report(reply.header(b"x-imagefleet-work-seconds"), now)
        if not reported and not served:
            load.add(-choice.work_seconds, now)
        if served:
            load.loading(choice.share.model, 0.0, now)

    async def _post(self, choice: Choice) -> Reply:
        worker = choice.worker
        authorization = self._d._tokens.bearer(worker.namespace, worker.pool)
        body = images.encode(self._plan(choice.view)[1])
        try:
            async with asyncio.timeout(self._d._upstream_seconds):
                return await self._d._client.post(
                    worker.host,
                    worker.port,
                    b"/v1/generate",
                    authorization,
                    self._trace.request_id.encode(),
                    body,
                )
        except TimeoutError:
            seconds = self._d._upstream_seconds
            raise server_error(
                504,
                "worker_timeout",
                f"The worker did not finish within {seconds:g} seconds. Ask for less work.",
            ) from None

    def _broken(self, worker: Worker, error: ConnectionBrokenError) -> None:
        trace = self._trace
        trace.tried.append(worker)
        trace.breaks += 1
        trace.failure = server_error(
            502,
            "worker_lost",
            f"The connection to worker '{worker.pod}' broke. The request can be sent again.",
        )
        self._d._metrics.retried(trace.key, "connection_broken")
        if trace.breaks > 1:
            raise trace.failure from error

    def _judge(self, choice: Choice, load: WorkerLoad, reply: Reply) -> Reply | None:
        """The reply, where it stands; None where another worker may serve the request. Raises ApiError."""
        if reply.status == 200:
            return reply
        code, message = read_error(reply.body)
        reason = retry_reason(reply.status, code)
        if reason is None:
            return self._stands(choice, reply, code)
        if reason in ("model_failed", "model_not_allowed", "model_loading"):
            load.not_resident(choice.share.model)
        self._trace.tried.append(choice.worker)
        self._trace.failure = self._failure(choice, reply, reason, message)
        self._d._metrics.retried(self._trace.key, reason)
        return None

    def _stands(self, choice: Choice, reply: Reply, code: str) -> Reply:
        """A reply that the caller gets as it is, unless it is about the gateway and not about the request."""
        if code and reply.status in (400, 500):
            self._trace.worker_code = code
            return reply
        raise server_error(
            502,
            "worker_error",
            f"Worker '{choice.worker.pod}' answered {reply.status}{f' ({code})' if code else ''}, "
            "which is a fault of the fleet, not of the request.",
        )

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
                f"All workers of model '{self._full_name}' are full. Try again in {seconds} seconds.",
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
