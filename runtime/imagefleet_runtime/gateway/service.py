"""The parts of a gateway, put together."""

import random
import time
from collections.abc import Callable

from .app import App, Sink
from .attempt import Attempts
from .bodies import Budget
from .cache import Cache
from .dispatch import Dispatcher
from .figures import Figures, entries
from .fleet import Fleet, Prober
from .line import Line
from .metrics import Metrics
from .mirror import Mirror
from .seeker import Surroundings
from .settings import Settings
from .spending import Spending
from .split import Split
from .suspension import stop_suspended
from .tokens import Tokens
from .upstream import Upstream


class Gateway:
    """All of a gateway except what feeds its fleet (the watches) and its sockets."""

    def __init__(
        self, settings: Settings, tokens: Tokens, log: Sink, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.fleet = Fleet()
        self.metrics = Metrics(clock)
        self.figures = Figures(clock=clock)
        self.spending = Spending()
        self.line = Line(
            settings.hold_limit, self.fleet.loads, clock, self._tick, ahead_seconds=settings.ahead_seconds
        )
        self.upstream = Upstream()
        self.bodies = Budget(settings.body_bytes)
        self._prober = Prober(self.upstream, tokens.bearer, self.fleet.loads, self.line.changed, clock)
        self._attempts = Attempts(
            self.fleet,
            self.upstream,
            tokens,
            self.metrics,
            self.figures,
            upstream_seconds=settings.upstream_seconds,
            clock=clock,
            freed=self.line.freed,
            spending=self.spending,
        )
        self._split = Split(random.random)
        dispatcher = Dispatcher(
            Surroundings(
                self.fleet,
                clock,
                random.random,
                settings.ahead_seconds,
                settings.hold_seconds,
                settings.batch_hold_seconds,
            ),
            self._attempts,
            self.line,
            self.metrics,
            self._split,
            Cache(settings.cache_bytes),
            self.bodies,
        )
        self.mirror = Mirror(
            self.fleet,
            self.upstream,
            tokens,
            self.figures,
            self.metrics,
            upstream_seconds=settings.upstream_seconds,
            clock=clock,
            freed=self.line.freed,
            spending=self.spending,
        )
        self.app = App(
            self.fleet,
            dispatcher,
            self.metrics,
            self.figures,
            self.spending,
            self.mirror,
            self.bodies,
            settings.pod,
            log,
            clock,
        )
        self.fleet.on_change.append(self._changed)

    def _changed(self) -> None:
        snapshot = self.fleet.snapshot
        workers = snapshot.workers.values()
        self.upstream.forget({(worker.host, worker.port) for worker in workers})
        # First of all: it must not wait for what follows.
        stop_suspended(self._attempts.under_way, snapshot)
        self._split.keep(snapshot.routes.values())
        self.metrics.keep(snapshot.routes.values())
        self.figures.keep(entries(snapshot.pools))
        self.spending.keep(snapshot.pools)
        self.mirror.keep(snapshot.routes)
        self._prober.update(workers)
        self.line.changed()

    def _tick(self) -> None:
        """While requests wait, workers that nobody here heard of are asked: other gateways send to them too."""
        self._prober.refresh(self.line.workers())

    def close(self) -> None:
        self.line.close()
        self._prober.close()
        self.mirror.close()
        self.upstream.close()
