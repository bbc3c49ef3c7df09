"""One image request on one worker: what is sent, and what the worker's answer means for the request."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from . import work
from .errors import MAX_RETRY_AFTER_SECONDS, RATE_LIMIT, SUSPENDED, ApiError, read_error, server_error
from .estimate import retry_after
from .events import Delivered, EventTooLargeError
from .figures import Figures
from .loads import Loads, WorkerLoad
from .metrics import Metrics
from .relay import Relay, SuspendedError, Visit, connection_broke
from .resources import Worker, measured
from .resume import INTERRUPTED, UNUSABLE, Interruption, read_interruption
from .routing import Choice
from .snapshot import Snapshot
from .spending import Spending
from .trace import Trace
from .upstream import ConnectionBrokenError, Reply, Stream


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


def _drawn(reply: Reply | Stream, queued: float | None) -> bool:
    """Whether a reply is to a request that was drawn, at least in part. `queued`: what it says of the time before."""
    return reply.status == 200 or (reply.status in (400, 500) and queued is not None)


def retry_reason(status: int, code: str) -> str | None:
    """Why a worker's reply means to try another worker; None where the reply stands."""
    if status == 429:
        return "queue_full"
    if status == 503:
        return code if code in ("worker_draining", "model_loading", "model_failed") else "unavailable"
    if status == 404 and code == "model_not_allowed":
        return code
    return None


class Attempts:
    def __init__(
        self,
        fleet: Fleet,
        client: Client,
        tokens: Bearers,
        metrics: Metrics,
        figures: Figures,
        *,
        upstream_seconds: float,
        clock: Callable[[], float],
        freed: Callable[[], object],
        spending: Spending,
    ) -> None:
        """`freed`: called whenever a worker may have room for another request."""
        self._fleet = fleet
        self._client = client
        self._tokens = tokens
        self._metrics = metrics
        self._figures = figures
        self._upstream_seconds = upstream_seconds
        self._clock = clock
        self._freed = freed
        self._spending = spending
        self.under_way: set[Visit] = set()
        """Requests that are on a worker."""

    async def make(self, choice: Choice, plan: work.Plan, trace: Trace) -> Reply | Relay | None:
        """Send to a worker. None: it did not serve the request, and another may.

        Raises ApiError, and SuspendedError where the ImageModel is or becomes suspended.
        """
        worker, share = choice.worker, choice.share
        trace.key = share.key
        trace.worker = worker.pod
        trace.attempts += 1
        trace.degraded = plan.degraded
        load = self._fleet.loads[worker.uid]
        demand = self._metrics.demand(trace.key)
        account = self._spending.of(share, trace.headers)
        visit = Visit(choice, load, demand, trace, self._clock, self.under_way, self._freed, account)
        with visit:
            try:
                reply = await self._post(visit, plan, trace)
            except ConnectionBrokenError as error:
                visit.suspect()
                self._failed(trace, 502, "worker_lost")
                self._broken(trace, worker, error)
                return None
            except ApiError as error:
                self._failed(trace, error.status, error.code)
                raise
        return reply if isinstance(reply, Relay) else self._judge(visit, load, reply, plan, trace)

    def _failed(self, trace: Trace, status: int, code: str) -> None:
        """An attempt was not served."""
        self._figures.attempt_failed(trace.entry, trace.key[2], status, code)

    async def _post(self, visit: Visit, plan: work.Plan, trace: Trace) -> Reply | Relay:
        """Raises ApiError and ConnectionBrokenError."""
        worker = visit.choice.worker
        authorization = self._tokens.bearer(worker.namespace, worker.pool)
        trace.units = plan.units
        trace.timed = not plan.body.stream and plan.body.priority != "batch"
        if trace.resuming:
            trace.resuming = False
            self._metrics.resumed(trace.key)
        resume = trace.checkpoint.of(trace.key[2]) if trace.checkpoint else None
        body = work.encode(plan.body, self._clock() - trace.start, visit.choice.share.scored, resume)
        deadline = asyncio.get_running_loop().time() + self._upstream_seconds
        try:
            reply = await self._client.post(
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
                return await self._relay(visit, reply, plan, deadline, trace)
        except TimeoutError:
            seconds = self._upstream_seconds
            raise server_error(
                504,
                "worker_timeout",
                f"The worker did not finish within {seconds:g} seconds. Ask for less work.",
            ) from None
        visit.hear(reply)
        self._began(visit, reply, plan, trace)
        if reply.status == 200 and plan.body.stream:
            raise self._fault(worker, "answered a stream's request without a stream")
        trace.pictures = plan.body.n if reply.status == 200 else 0
        return reply

    async def _relay(
        self, visit: Visit, stream: Stream, plan: work.Plan, deadline: float, trace: Trace
    ) -> Relay:
        """A stream whose first event has arrived. Raises ConnectionBrokenError, TimeoutError and ApiError."""
        worker = visit.choice.worker
        delivered = trace.delivered = trace.delivered or Delivered()
        delivered.begin()
        relay = Relay(visit, stream, plan.body.n - delivered.pictures, deadline)
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
        self._began(visit, stream, plan, trace)
        return relay

    def _began(
        self,
        visit: Visit,
        reply: Reply | Stream,
        plan: work.Plan,
        trace: Trace,
        interruption: Interruption | None = None,
    ) -> None:
        """Count the request as started, once, where the worker says that it drew."""
        queued = measured(reply.header(b"x-imagefleet-queue-seconds"))
        drawn = _drawn(reply, queued) if interruption is None else interruption.steps_done > 0
        if trace.began or not drawn:
            return
        trace.began = True
        allowed = work.allowed_wait(plan.body, visit.choice.share.scaling.wait_seconds)
        self._metrics.demand(trace.key).begin(visit.waited + (queued or 0.0), allowed)

    def _broken(self, trace: Trace, worker: Worker, error: ConnectionBrokenError) -> None:
        trace.tried.append(worker)
        trace.breaks += 1
        trace.failure = connection_broke(worker.pod)
        self._metrics.retried(trace.key, "connection_broken")
        if trace.breaks > 1:
            raise trace.failure from error

    def _judge(
        self, visit: Visit, load: WorkerLoad, reply: Reply, plan: work.Plan, trace: Trace
    ) -> Reply | None:
        """The reply, where it stands; None where another worker may serve the request.

        Raises ApiError and SuspendedError.
        """
        choice = visit.choice
        if reply.status == 200:
            return reply
        found = read_interruption(reply.body) if reply.status == 503 else None
        if found is not None:
            self._began(visit, reply, plan, trace, found)
            self.interrupted(choice.worker, found, trace)
            return None
        code, message = read_error(reply.body)
        if reply.status == 400 and code == UNUSABLE and trace.checkpoint is not None:
            trace.checkpoint.drop()
            trace.uncounted += 1
            self._metrics.retried(trace.key, UNUSABLE)
            return None
        if code == SUSPENDED:
            load.not_resident(choice.share.model)
            raise SuspendedError
        self._failed(trace, reply.status, code)
        reason = retry_reason(reply.status, code)
        if reason is None:
            return self._stands(choice, reply, code, trace)
        if reason in ("model_failed", "model_not_allowed", "model_loading"):
            load.not_resident(choice.share.model)
        trace.tried.append(choice.worker)
        trace.failure = self._failure(choice, reply, reason, message, trace)
        self._metrics.retried(trace.key, reason)
        return None

    def interrupted(self, worker: Worker, found: Interruption, trace: Trace) -> None:
        """A worker gave the request up. Raises ApiError where that was once too often."""
        self._metrics.retried(trace.key, INTERRUPTED)
        trace.interrupt(worker, found, self._clock())

    def _stands(self, choice: Choice, reply: Reply, code: str, trace: Trace) -> Reply:
        """A reply that the caller gets as it is, unless it is about the gateway and not about the request."""
        if code and reply.status in (400, 413, 500):
            trace.worker_code = code
            return reply
        raise self._fault(choice.worker, f"answered {reply.status}{f' ({code})' if code else ''}")

    @staticmethod
    def _fault(worker: Worker, what: str) -> ApiError:
        message = f"Worker '{worker.pod}' {what}, which is a fault of the fleet, not of the request."
        return server_error(502, "worker_error", message)

    def _failure(
        self, choice: Choice, reply: Reply, reason: str, message: str, trace: Trace
    ) -> ApiError | None:
        """How the request ends if this worker was the last to try; None: by waiting for another worker."""
        if reason in ("worker_draining", "model_not_allowed"):
            # Lag between the cluster and this snapshot: the replacement is on its way.
            return trace.failure
        seconds = self._soonest(choice, reply, trace)
        if reason == "queue_full":
            return ApiError(
                429,
                "queue_full",
                f"All workers of model '{choice.share.namespace}/{trace.name}' are full. "
                f"Try again in {seconds} seconds.",
                kind=RATE_LIMIT,
                retry_after=seconds,
            )
        code = "model_failed" if reason == "model_failed" else "model_loading"
        return server_error(503, code, message or "The worker is not ready.", retry_after=seconds)

    def _soonest(self, choice: Choice, reply: Reply, trace: Trace) -> int:
        """Whole seconds until the first of the workers tried so far is worth trying again: 1 to 120."""
        given = measured(reply.header(b"retry-after"))
        if not given:
            given = retry_after([choice.share], self._fleet.loads, self._clock(), time.time())
        trace.retry_after.append(max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(given))))
        return min(trace.retry_after)
