"""What the watches know, joined into the routing snapshot whenever it changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import msgspec

from .loads import Loads, WorkerState
from .resources import ModelView, PoolView, Worker
from .snapshot import EMPTY, Snapshot, build
from .upstream import ConnectionBrokenError, Reply

_log = logging.getLogger(__name__)

ObjectKey = tuple[str, str]
"""Namespace and name."""
View = Worker | PoolView | ModelView
KINDS = ("pods", "inferencepools", "imagemodels")

# A worker that is Ready answers at once; one that does not is asked again, then left to be learnt from its
# replies.
PROBE_DELAYS_SECONDS = (0.0, 0.5, 2.0, 8.0)
_PROBES_AT_ONCE = 32
# While requests wait, a worker that told nothing for so long is asked: what it draws may be another gateway's.
REFRESH_SECONDS = 1.0


class Fleet:
    """The three kinds of views, and the snapshot built from them.

    `on_change` is called after each new snapshot, in the event loop. Changes that come together are joined:
    one snapshot per turn of the loop.
    """

    def __init__(self) -> None:
        self.snapshot: Snapshot = EMPTY
        self.loads = Loads()
        self.on_change: list[Callable[[], None]] = []
        self._views: dict[str, dict[ObjectKey, View]] = {kind: {} for kind in KINDS}
        self._listed: set[str] = set()
        self._scheduled = False

    @property
    def unlisted(self) -> list[str]:
        """Kinds that were never fully listed yet."""
        return [kind for kind in KINDS if kind not in self._listed]

    def replace(self, kind: str, views: dict[ObjectKey, View]) -> None:
        """A full list: what is not in it is gone."""
        self._listed.add(kind)
        if self._views[kind] != views:
            self._views[kind] = views
            self._schedule()

    def put(self, kind: str, key: ObjectKey, view: View | None) -> None:
        """One object changed; None: it is gone, or is of no use to routing."""
        views = self._views[kind]
        if views.get(key) == view:
            return
        if view is None:
            del views[key]
        else:
            views[key] = view
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._rebuild)

    def _rebuild(self) -> None:
        self._scheduled = False
        workers = [v for v in self._views["pods"].values() if isinstance(v, Worker)]
        self.snapshot = build(
            workers,
            [v for v in self._views["inferencepools"].values() if isinstance(v, PoolView)],
            [v for v in self._views["imagemodels"].values() if isinstance(v, ModelView)],
        )
        self.loads.keep(workers)
        for notify in self.on_change:
            notify()


class Getter(Protocol):
    async def get(self, host: str, port: int, path: bytes, authorization: bytes) -> Reply: ...


class Prober:
    """Asks each new worker, and each whose placement changed, once for its state; others on request."""

    def __init__(
        self,
        client: Getter,
        bearer: Callable[[str, str], bytes],
        loads: Loads,
        learnt: Callable[[], None],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._bearer = bearer
        self._loads = loads
        self._learnt = learnt
        self._clock = clock
        self._sleep = sleep
        self._slots = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        """By pod uid."""

    def update(self, workers: Iterable[Worker]) -> None:
        """Probe workers that were not probed as they are now; stop probing those that are gone."""
        current = set(workers)
        for gone in self._tasks.keys() - current:
            self._tasks.pop(gone).cancel()
        for new in current - self._tasks.keys():
            self._tasks[new] = asyncio.create_task(self._probe(new))

    def refresh(self, workers: Iterable[Worker]) -> None:
        """Ask those that were not heard of for a while, where they are not being asked."""
        now = self._clock()
        for worker in workers:
            if now - self._loads[worker.uid].heard_at >= REFRESH_SECONDS and worker.uid not in self._asking:
                self._asking[worker.uid] = asyncio.create_task(self._refresh(worker))

    async def _refresh(self, worker: Worker) -> None:
        try:
            await self._learn(worker)
        finally:
            del self._asking[worker.uid]

    def close(self) -> None:
        self.update(())
        for task in self._asking.values():
            task.cancel()

    async def _probe(self, worker: Worker) -> None:
        for delay in PROBE_DELAYS_SECONDS:
            await self._sleep(delay)
            if await self._learn(worker):
                return

    async def _learn(self, worker: Worker) -> bool:
        load = self._loads[worker.uid]
        before = load.sent_seconds
        state = await self._ask(worker)
        if state is not None:
            load.observe(state, self._clock(), load.sent_seconds - before)
            self._learnt()
        return state is not None

    async def _ask(self, worker: Worker) -> WorkerState | None:
        try:
            async with self._slots, asyncio.timeout(5):
                reply = await self._client.get(
                    worker.host, worker.port, b"/v1/worker", self._bearer(worker.namespace, worker.pool)
                )
            if reply.status == 200:
                return msgspec.json.decode(reply.body, type=WorkerState)
            why = f"it answered {reply.status}"
        except (ConnectionBrokenError, TimeoutError, msgspec.DecodeError) as error:
            why = repr(error)
        _log.warning("the state of worker %s/%s is not known: %s", worker.namespace, worker.pod, why)
        return None
