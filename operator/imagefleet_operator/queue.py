"""A work queue of keys: level-triggered work, each key by one worker at a time.

Adding a key that waits already changes nothing but its time; one that is being worked on is worked on again
afterwards. A failing key waits longer each time (exponential back-off with jitter) and disturbs no other.
"""

import asyncio
import heapq
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
logger = logging.getLogger(__name__)

BACKOFF_FIRST = 0.5
BACKOFF_LAST = 120.0
BACKOFF_DOUBLINGS = 8


def backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after that many failures in a row; ``jitter`` in 0..1 spreads them over the upper half.

    Worked example: the third failure waits 0.5 s x 2^2 = 2 s, so 1 s at jitter 0 and 2 s at jitter 1.
    """
    full = min(BACKOFF_LAST, BACKOFF_FIRST * 2.0 ** min(failures - 1, BACKOFF_DOUBLINGS))
    return float(full / 2 * (1 + jitter))


class WorkQueue(Generic[K]):
    """Runs ``work(key)`` for every added key with at most ``concurrency`` at once.

    ``work`` returns the seconds after which the key is due again, or None. ``lag`` is told how long each key that was
    due waited. ``clock`` and ``jitter`` are parameters so that tests own them; waiting uses the event loop's own time.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[K], Awaitable[float | None]],
        *,
        concurrency: int,
        lag: Callable[[float], None] | None = None,
        clock: Callable[[], float] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._work = work
        self._concurrency = concurrency
        self._lag = lag
        self._clock = clock or asyncio.get_running_loop().time
        self._jitter = jitter
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._running: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._stopping = False
        self._wake = asyncio.Event()
        # Of idle workers one waits for a key, and the others for its place: all of them would wake up for each key.
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, key: K, delay: float = 0.0) -> None:
        """Have the key worked on after ``delay`` seconds, or earlier where that was asked for before. Does nothing
        once the queue is being stopped."""
        if self._stopping:
            return
        due = self._clock() + delay
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._wake.set()

    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        now = self._clock()
        return sum(due <= now and key not in self._running for key, due in self._due.items())

    def oldest(self) -> float:
        """Seconds that the longest-waiting due key waits, or the longest-running one runs; 0 when idle."""
        now = self._clock()
        waiting = (due for key, due in self._due.items() if key not in self._running)
        return max(0.0, now - min(itertools.chain(waiting, self._running.values()), default=now))

    def start(self) -> None:
        """Start the workers."""
        self._tasks = [
            asyncio.create_task(self._serve(), name=f"{self.name} worker {n}")
            for n in range(self._concurrency)
        ]

    def alive(self) -> bool:
        """Whether every worker that was started still runs. They outlive any failure of ``work``, so that one
        that ended is a bug."""
        return not any(task.done() for task in self._tasks)

    async def stop(self, grace: float) -> None:
        """Let running work end for ``grace`` seconds, then cancel it. Nothing new is started."""
        self._stopping = True
        self._due.clear()
        self._heap.clear()
        if self._running:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    while self._running:
                        self._wake.clear()
                        await self._wake.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self) -> None:
        while True:
            async with self._turn:
                key, due = await self._next()
                self._running[key] = now = self._clock()
            if self._lag is not None:
                self._lag(now - due)
            try:
                await self._run(key)
            finally:
                del self._running[key]
                self._wake.set()

    async def _run(self, key: K) -> None:
        try:
            again = await self._work(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = backoff(failures, self._jitter())
            logger.warning(
                "%s %s failed (%s in a row), again in %.1f s: %r", self.name, key, failures, delay, error
            )
            logger.debug("the failure of %s", key, exc_info=True)
            self.add(key, delay)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add(key, again)

    async def _next(self) -> tuple[K, float]:
        """A key to work on, and when it was due."""
        while True:
            found, wait = self._pop()
            if found is not None:
                return found
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    def _pop(self) -> tuple[tuple[K, float] | None, float | None]:
        """A due key that nobody works on, or how long to wait for one (None: until something happens)."""
        held = []
        found: tuple[K, float] | None = None
        wait: float | None = None
        while self._heap:
            due, order, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
            elif due > self._clock():
                wait = due - self._clock()
                break
            else:
                heapq.heappop(self._heap)
                if key not in self._running:
                    del self._due[key]
                    found = key, due
                    break
                held.append((due, order, key))
        for entry in held:
            heapq.heappush(self._heap, entry)
        return found, wait
