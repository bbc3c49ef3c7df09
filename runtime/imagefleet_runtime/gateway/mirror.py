"""Copies of callers' requests to an ImageModel that nobody waits for: its pictures are thrown away, its figures kept.

A copy is made after its caller has the reply, and only for a worker that has the model in memory and little to do. It
never waits here and is never sent twice. For the operator's scaling its work counts as the model's demand, since it
is work on the model's workers.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from random import random as uniform

import msgspec
from msgspec import UNSET

from . import routing, work
from .attempt import Bearers, Client, Fleet, retry_reason
from .bodies import MAX_BODY_BYTES
from .errors import ApiError, read_error
from .figures import CONTENT_POLICY, Figures, Name, counts, read_figures
from .metrics import Metrics
from .relay import Visit
from .resources import ModelView, Worker
from .resume import INTERRUPTED
from .routing import Choice
from .snapshot import Route, Share
from .spending import Spending
from .split import Ledger
from .trace import Trace
from .upstream import ConnectionBrokenError, Reply, Stream

_log = logging.getLogger(__name__)

MAX_COPIES = 16
# Of the pictures in all copies under way (bytes): callers' own requests have a budget of their own.
MAX_COPIES_BYTES = MAX_BODY_BYTES
# A worker with more to do than this (seconds) gets no copies.
MAX_WORK_LEFT_SECONDS = 5.0
# A copy's request id names its original's; workers take ids of at most 128 characters.
_ID_SUFFIX = "-mirror"
_MAX_ID = 128


class Outcome(StrEnum):
    """What became of a copy, in `imagefleet_gateway_mirrored_total`."""

    DRAWN = "drawn"
    FAILED = "failed"
    """The worker failed it: an error of the model."""
    REFUSED = "refused"
    """The model does not serve such a request."""
    NO_WORKER = "no_worker"
    """None has the model in memory and at most 5 s of work left; or it refused, being full or on its way out."""
    FULL = "full"
    """As many copies are under way as may be."""
    INTERRUPTED = "interrupted"
    """The worker gave it up: it does not go on elsewhere."""
    CANCELLED = "cancelled"
    """Copies to this model ended, or the gateway did."""


Target = tuple[Name, str]
"""A name and the ImageModel that gets copies of its requests."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Copy:
    name: Name
    choice: Choice
    body: work.WorkerRequest
    units: float
    size: int
    """Bytes of its pictures."""
    trace: Trace

    @property
    def target(self) -> Target:
        return self.name, self.choice.share.model


class Mirror:
    def __init__(
        self,
        fleet: Fleet,
        client: Client,
        tokens: Bearers,
        figures: Figures,
        metrics: Metrics,
        *,
        upstream_seconds: float,
        freed: Callable[[], object],
        spending: Spending,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        self._fleet = fleet
        self._client = client
        self._tokens = tokens
        self._figures = figures
        self._metrics = metrics
        self._upstream_seconds = upstream_seconds
        self._spending = spending
        self._freed = freed
        self._clock = clock
        self._random = random
        self._shares: dict[Name, list[Share]] = {}
        self._turns: dict[Target, Ledger] = {}
        self._copies: dict[asyncio.Task[Outcome], _Copy] = {}

    def __len__(self) -> int:
        """Copies under way."""
        return len(self._copies)

    def keep(self, routes: Mapping[str, Route]) -> None:
        """Take over which ImageModels get copies, and of which percent of a name's requests. Copies to others end."""
        self._shares = {}
        for full_name, route in routes.items():
            if "/" not in full_name:
                continue
            for share in route.mirrors:
                self._shares.setdefault((share.namespace, share.pool, route.name), []).append(share)
        self._turns = {
            (name, share.model): self._ledger((name, share.model), share.percent)
            for name, shares in self._shares.items()
            for share in shares
        }
        for task, copy in self._copies.items():
            if copy.target not in self._turns:
                task.cancel()

    def _ledger(self, target: Target, percent: float) -> Ledger:
        """Whose turn it is: 0 for a copy, 1 for none. It goes on while the percent stays."""
        cells = ((0.0, percent), (percent, 100 - percent))
        ledger = self._turns.get(target)
        return ledger if ledger is not None and ledger.cells == cells else Ledger(cells, self._random)

    def close(self) -> None:
        """End all copies."""
        self.keep({})

    def offer(self, request: work.Request, trace: Trace, status: int, code: str) -> None:
        """Copy a request whose caller has its reply, where it is its turn. Returns at once.

        Not one that no worker drew, that was refused, or whose caller left: it would not be counted either.
        """
        namespace, pool, _ = trace.key
        name = (namespace, pool, trace.name)
        shares = self._shares.get(name)
        if not shares or not trace.attempts or trace.repeated or not counts(status, code):
            return
        for share in shares:
            if self._turns[name, share.model].turn() == 0:
                outcome = self._begin(name, share, request, trace)
                if outcome is not None:
                    self._metrics.mirrored((namespace, pool, share.model), outcome)

    def _begin(self, name: Name, share: Share, request: work.Request, trace: Trace) -> Outcome | None:
        """None where a copy is under way, else why it is not."""
        size = _picture_bytes(request)
        if len(self._copies) >= MAX_COPIES or self._bytes() + size > MAX_COPIES_BYTES:
            return Outcome.FULL
        if share.view is None or trace.seed is None:
            return Outcome.NO_WORKER
        try:
            reduced = share.view.reduced if trace.degraded else None
            plan = work.plan(request, share.view, trace.name, trace.seed, reduced=reduced)
        except ApiError:
            return Outcome.REFUSED
        choice = self._choose(share, share.view, plan.units)
        if choice is None:
            return Outcome.NO_WORKER
        own = Trace(
            trace.request_id[: _MAX_ID - len(_ID_SUFFIX)] + _ID_SUFFIX,
            self._clock(),
            key=share.key,
        )
        copy = _Copy(name, choice, _in_background(plan.body), plan.units, size, own)
        task = asyncio.create_task(self._draw(copy))
        self._copies[task] = copy
        task.add_done_callback(self._ended)
        return None

    def _bytes(self) -> int:
        return sum(copy.size for copy in self._copies.values())

    def _choose(self, share: Share, view: ModelView, units: float) -> Choice | None:
        now = self._clock()
        idle = tuple(worker for worker in share.workers if self._is_free(worker, view, now))
        shares = [dataclasses.replace(share, workers=idle)]
        return routing.choose([shares], self._fleet.loads, now, lambda _: units, 0.0, (), self._random)

    def _is_free(self, worker: Worker, view: ModelView, now: float) -> bool:
        load = self._fleet.loads[worker.uid]
        waits = load.load_wait(view, (view.name, True) in worker.placement, now)
        return not waits and not load.penalty(now) and load.work_left(now) <= MAX_WORK_LEFT_SECONDS

    async def _draw(self, copy: _Copy) -> Outcome:
        model = copy.choice.share.model
        demand = self._metrics.demand(copy.trace.key)
        demand.arrived_work_seconds += copy.choice.work_seconds
        load = self._fleet.loads[copy.choice.worker.uid]
        account = self._spending.of_copy(copy.choice.share)
        stay = Visit(copy.choice, load, demand, copy.trace, self._clock, freed=self._freed, account=account)
        with stay as visit:
            reply = await self._post(copy, visit)
        if isinstance(reply, Reply):
            return self._judge(copy, reply)
        self._figures.attempt_failed(copy.name, model, *reply)
        return Outcome.FAILED

    async def _post(self, copy: _Copy, visit: Visit) -> Reply | tuple[int, str]:
        """The worker's reply, or the status and code that stand for there being none."""
        worker = copy.choice.worker
        try:
            reply = await self._client.post(
                worker.host,
                worker.port,
                b"/v1/generate",
                self._tokens.bearer(worker.namespace, worker.pool),
                copy.trace.request_id.encode(),
                work.encode(copy.body, 0.0),
                (),
                asyncio.get_running_loop().time() + self._upstream_seconds,
            )
        except ConnectionBrokenError:
            visit.suspect()
            return 502, "worker_lost"
        except TimeoutError:
            return 504, "worker_timeout"
        if isinstance(reply, Stream):
            reply.close()
            return 502, "worker_error"
        visit.hear(reply)
        return reply

    def _judge(self, copy: _Copy, reply: Reply) -> Outcome:
        name, model = copy.target
        code = "" if reply.status == 200 else read_error(reply.body)[0]
        if reply.status == 200 or code == CONTENT_POLICY:
            worker = read_figures(reply)
            self._figures.ended(
                name, model, reply.status, code, units=copy.units, worker=worker, mirrored=True
            )
            self._metrics.looked_at(copy.trace.key, worker)
            return Outcome.DRAWN
        if code == INTERRUPTED:
            return Outcome.INTERRUPTED
        reason = retry_reason(reply.status, code)
        if reason in ("model_failed", "model_not_allowed", "model_loading"):
            self._fleet.loads[copy.choice.worker.uid].not_resident(model)
        if self._figures.attempt_failed(name, model, reply.status, code):
            return Outcome.FAILED
        return Outcome.NO_WORKER if reason else Outcome.REFUSED

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        copy = self._copies.pop(task)
        if task.cancelled():
            outcome = Outcome.CANCELLED
        elif (error := task.exception()) is not None:
            # Its words may be the caller's.
            _log.error("a copy for %s failed: %s", "/".join(copy.trace.key), type(error).__name__)
            outcome = Outcome.FAILED
        else:
            outcome = task.result()
        self._metrics.mirrored(copy.trace.key, outcome)


def _picture_bytes(request: work.Request) -> int:
    pictures = (request.image, request.mask, request.control_image)
    return sum(len(picture.data) for picture in pictures if picture is not None)


def _in_background(body: work.WorkerRequest) -> work.WorkerRequest:
    """The same pictures, whole, scored, and after everyone else's."""
    return msgspec.structs.replace(
        body, priority="batch", deadline_seconds=UNSET, stream=False, partial_images=0, score=True
    )
