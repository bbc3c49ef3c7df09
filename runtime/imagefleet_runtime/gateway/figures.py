"""What the gateway counts of each ImageModel behind a pool's name, for the operator to judge.

Three accounts, in the words of docs/contract.md: `arms` compare ImageModels since a rollout's step began, `budget` is
what callers got lately, `served` what they got of a model at all. Nothing is counted for a name that no pool has, so
that no caller's word takes memory.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from .errors import SUSPENDED
from .resources import PoolView, measured
from .resume import INTERRUPTED
from .windows import Budget, Window

Name = tuple[str, str, str]
"""Namespace, pool, and the name of an entry of the pool's models."""

SHORT = (10.0, 30)
LONG = (60.0, 60)
"""Seconds of a bucket and buckets of the two windows: 5 minutes and 1 hour."""
# ImageModels that an entry's accounts hold beside those that it has now; the oldest of more are forgotten.
FORMER_MODELS = 16

CONTENT_POLICY = "content_policy_violation"
# 5xx replies of a worker that say nothing of the model: it has enough to do, ends, or was told to stop.
_NO_FAULT = frozenset({"queue_full", "worker_draining", SUSPENDED, INTERRUPTED})


class Headers(Protocol):
    """A worker's reply."""

    def header(self, name: bytes, /) -> str | None: ...


class WorkerFigures(msgspec.Struct, frozen=True):
    """What a worker's reply says of the pictures it drew. None: no opinion."""

    run_seconds: float | None = None
    checked: int = 0
    unsafe: int = 0
    quality: float | None = None


NO_FIGURES = WorkerFigures()


def read_figures(reply: Headers) -> WorkerFigures:
    """Figures in a reply's headers. What is absent, no number, negative or impossible is no opinion.

    Examples: checked 2, unsafe 1 are kept; checked 1, unsafe 2 are dropped, and so are quality 1.2 and NaN.
    """
    quality = measured(reply.header(b"x-imagefleet-quality"))
    checked = _whole(reply.header(b"x-imagefleet-checked"))
    unsafe = _whole(reply.header(b"x-imagefleet-unsafe"))
    if unsafe > checked:
        checked = unsafe = 0
    return WorkerFigures(
        run_seconds=measured(reply.header(b"x-imagefleet-run-seconds")),
        checked=checked,
        unsafe=unsafe,
        quality=quality if quality is not None and quality <= 1 else None,
    )


def _whole(header: str | None) -> int:
    number = measured(header)
    return int(number) if number is not None and number.is_integer() else 0


def counts(status: int, code: str) -> bool:
    """Whether a request that ended so says anything of its model.

    Not one whose caller left (499), that was refused (4xx), or that a suspension ended. A picture that failed the
    safety check is refused to the caller, and counts: it was drawn.
    """
    if 400 <= status < 500:
        return code == CONTENT_POLICY
    return code != SUSPENDED


class Moments(msgspec.Struct):
    """Sums over measured values, from which mean and variance follow."""

    count: int = 0
    sum: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.squares += value * value


class Arm(msgspec.Struct, rename="camel"):
    """One ImageModel in the window under way. A request is an attempt that a worker served or failed."""

    model: str
    requests: int = 0
    errors: int = 0
    out_of_memory: int = 0
    checked: int = 0
    unsafe: int = 0
    latency: Moments = msgspec.field(default_factory=Moments)
    """ln of seconds per megapixel-step."""
    quality: Moments = msgspec.field(default_factory=Moments)

    def failed(self, code: str) -> None:
        self.requests += 1
        self.errors += 1
        self.out_of_memory += code == "out_of_memory"

    def drew(self, units: float, worker: WorkerFigures) -> None:
        self.requests += 1
        self.checked += worker.checked
        self.unsafe += worker.unsafe
        if worker.run_seconds and units > 0:
            self.latency.add(math.log(worker.run_seconds / units))
        if worker.quality is not None:
            self.quality.add(worker.quality)


class Served(msgspec.Struct):
    """What callers got of one ImageModel since the gateway started; times in seconds since the epoch."""

    model: str
    requests: int
    pictures: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Entry:
    """What the cluster says of a name, as far as counting depends on it."""

    window: str = ""
    """`arms` begin anew when it changes."""
    models: frozenset[str] = frozenset()
    """ImageModels that have traffic, a share of copies, or are suspended."""
    slow_seconds: float | None = None
    """A success that took the caller longer is slow; None: none is."""


def entries(pools: Iterable[PoolView]) -> dict[Name, Entry]:
    """The names of all pools."""
    return {
        (pool.namespace, pool.name, entry.name): Entry(
            entry.window,
            frozenset((*(model for model, _ in (*entry.traffic, *entry.mirror)), *entry.suspended_models)),
            entry.slow_seconds,
        )
        for pool in pools
        for entry in pool.models
    }


class _Account:
    """All that is counted of one name. By ImageModel, the one that came first at the front."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.arms: dict[str, Arm] = {}
        self.budgets: dict[str, tuple[Window, Window]] = {}
        self.served: dict[str, Served] = {}

    def turn(self, entry: Entry) -> None:
        """The cluster says something new of the name."""
        if entry.window != self.entry.window:
            self.arms = {}
        self.entry = entry
        for account in (self.arms, self.budgets, self.served):
            _forget_former(account, entry.models)

    def arm(self, model: str) -> Arm:
        arm = self.arms.get(model)
        if arm is None:
            arm = self.arms[model] = Arm(model)
        return arm

    def budget(self, model: str) -> tuple[Window, Window]:
        windows = self.budgets.get(model)
        if windows is None:
            windows = self.budgets[model] = (Window(*SHORT), Window(*LONG))
        return windows


def _forget_former(account: dict[str, Any], current: frozenset[str]) -> None:
    """A model that has lost its traffic a moment ago still counts; those longest in the account go first."""
    former = [model for model in account if model not in current]
    for model in former[: max(0, len(former) - FORMER_MODELS)]:
        del account[model]


class Figures:
    """`wall` gives seconds since the epoch, `clock` seconds that never go back."""

    def __init__(
        self, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._clock = clock
        self._accounts: dict[Name, _Account] = {}

    def keep(self, entries: Mapping[Name, Entry]) -> None:
        """Take over what the cluster has now; what it has no more is forgotten with its name."""
        for gone in self._accounts.keys() - entries.keys():
            del self._accounts[gone]
        for name, entry in entries.items():
            account = self._accounts.get(name)
            if account is None:
                self._accounts[name] = _Account(entry)
            elif account.entry != entry:
                account.turn(entry)

    def attempt_failed(self, name: Name, model: str, status: int, code: str) -> bool:
        """A worker did not serve a request: its reply's status and code, or those that stand for a broken connection.

        To be called for each attempt, whatever became of the request, mirrored ones included. Whether it is an error of
        the model: replies that say nothing of it (4xx, a full queue, draining, a suspension) are left out here.
        """
        if status < 500 or code in _NO_FAULT:
            return False
        account = self._accounts.get(name)
        if account is not None:
            account.arm(model).failed(code)
        return True

    def ended(
        self,
        name: Name,
        model: str,
        status: int,
        code: str,
        *,
        seconds: float | None = None,
        units: float = 0.0,
        worker: WorkerFigures = NO_FIGURES,
        pictures: int = 0,
        mirrored: bool = False,
        repeated: bool = False,
    ) -> None:
        """A request ended; `status` 499: its caller left.

        `seconds` from its arrival to its reply, None where they are no measure (a stream is as slow as its reader, a
        batch may wait); `units` its megapixel-steps; `pictures` those that the caller got; `repeated`: it got an answer
        of earlier again, which says nothing but that it did. An error is an error of the arm by `attempt_failed` alone,
        once for each attempt.
        """
        account = self._accounts.get(name)
        if account is None:
            return
        if pictures and not mirrored:
            self._serve(account, model, pictures)
        if repeated or not counts(status, code):
            return
        if status >= 500:
            worker = NO_FIGURES
        else:
            account.arm(model).drew(units, worker)
        if not mirrored:
            self._spend(account, model, status, seconds, worker)

    def _serve(self, account: _Account, model: str, pictures: int) -> None:
        now = self._wall()
        served = account.served.get(model)
        if served is None:
            served = account.served[model] = Served(model, 0, 0, now, now)
        served.requests += 1
        served.pictures += pictures
        served.last = now

    def _spend(
        self, account: _Account, model: str, status: int, seconds: float | None, worker: WorkerFigures
    ) -> None:
        limit = account.entry.slow_seconds
        slow = status == 200 and limit is not None and seconds is not None and seconds > limit
        got = Budget(1, int(status >= 500), int(slow), worker.checked, worker.unsafe)
        now = self._clock()
        for window in account.budget(model):
            window.add(got, now)

    def report(self) -> list[dict[str, Any]]:
        """`names` of `GET /v1/gateway`."""
        now = self._clock()
        return [
            {
                "namespace": namespace,
                "pool": pool,
                "name": name,
                "window": account.entry.window,
                "arms": list(account.arms.values()),
                "budget": [
                    {"model": model, "short": short.sums(now), "long": long.sums(now)}
                    for model, (short, long) in account.budgets.items()
                ],
                "served": list(account.served.values()),
            }
            for (namespace, pool, name), account in self._accounts.items()
        ]
