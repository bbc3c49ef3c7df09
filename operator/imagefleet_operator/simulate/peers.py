"""How others scale, after their source and documentation. Each is given what it would see of a pool of its own.

All but the keep-alive see requests in flight (waiting and running), the metric that their guides use for inference;
it is kinder to them than utilization, which cannot exceed 1.
"""

import math
from collections import deque

from imagefleet_operator.plan.behavior import KUBERNETES, Past, limited
from imagefleet_operator.simulate.world import View


class HorizontalPodAutoscaler:
    """HPA v2: ``desired = ceil(metric / target)``, none within the tolerance, its default ``behavior``.

    Kubernetes, *Horizontal Pod Autoscaling*, "Algorithm details". It looks every 15 s; fewer than one replica only
    with an alpha feature, so ``least`` is at least 1 unless KEDA does that part.
    """

    drains = True
    memory_seconds = 900.0
    tolerance = 0.1

    def __init__(self, target: float = 1.0, least: int = 1, most: int = 10_000) -> None:
        self.interval = 15.0
        self._target, self._least, self._most = target, least, most
        self._past = Past()

    def decide(self, view: View) -> int | None:
        """Replicas for the requests in flight."""
        current = view.ready + len(view.starting)
        if current == 0:
            return self._least
        ratio = (view.queued + view.running) / (self._target * current)
        steady = abs(ratio - 1) <= self.tolerance + 1e-9
        wanted = current if steady else math.ceil(ratio * current - 1e-9)
        wanted = min(max(wanted, self._least), self._most)
        allowed, self._past = limited(KUBERNETES, self._past, wanted, current, view.now)
        return max(allowed, self._least)


class Keda:
    """A KEDA ScaledObject with its defaults: asked every 30 s whether anything waits (0 to 1), an HPA from 1 on,
    back to 0 after 300 s without work.

    KEDA, *Scaling Deployments*, ``pollingInterval``, ``cooldownPeriod``; *RabbitMQ Queue*: messages in flight count,
    5 or ``target`` of them for a replica.
    """

    drains = True
    interval = 15.0
    memory_seconds = 900.0
    polling, cooldown = 30.0, 300.0

    def __init__(self, target: float = 5.0, least: int = 0) -> None:
        self._least = least
        self._hpa = HorizontalPodAutoscaler(target, max(1, least))
        self._active_at = -math.inf

    def decide(self, view: View) -> int | None:
        """0 or 1 by itself, more by the HPA."""
        active = view.queued + view.running > 0
        if active:
            self._active_at = view.now
        if view.ready + len(view.starting) == 0:
            return max(1, self._least) if active and view.now % self.polling < self.interval else self._least
        if not active and view.now - self._active_at >= self.cooldown:
            return self._least
        return self._hpa.decide(view)


class KnativePodAutoscaler:
    """Knative's KPA: the mean concurrency of a stable window (60 s) and of a panic window (6 s).

    Knative Serving, ``pkg/autoscaler/scaling/autoscaler.go`` and ``config/core/configmaps/autoscaler.yaml``: looks
    every 2 s; panics where the short window wants twice what is ready, until it has not for a stable window, and
    never scales down meanwhile; up to 1000 times and down to half at once; to 0 another 30 s after the last work.
    """

    drains = True
    interval = 2.0
    memory_seconds = 180.0
    stable, panic, threshold, grace = 60.0, 6.0, 2.0, 30.0
    up_rate, down_rate = 1000.0, 2.0

    def __init__(self, target: float = 0.7, least: int = 0) -> None:
        self._target, self._least = target, least
        self._seen: deque[tuple[float, float]] = deque()
        self._stable_sum, self._panic_sum = 0.0, 0.0
        self._panic_at = -math.inf
        self._panic_most = 0
        self._zero_since: float | None = None

    def decide(self, view: View) -> int:
        """Replicas for the mean concurrency."""
        stable, panic = self._means(view)
        ready = max(1, view.ready)
        up, down = math.ceil(self.up_rate * ready), math.floor(ready / self.down_rate)
        for_stable = min(max(math.ceil(stable / self._target), down), up)
        for_panic = min(max(math.ceil(panic / self._target), down), up)
        if for_panic / ready >= self.threshold:
            self._panic_at = view.now
        if view.now - self._panic_at <= self.stable:
            self._panic_most = max(self._panic_most, for_panic, for_stable)
            return max(self._panic_most, self._least)
        self._panic_most = 0
        return max(self._after_grace(for_stable if stable > 0 else 0, view), self._least)

    def _means(self, view: View) -> tuple[float, float]:
        """Over both windows; a new revision's windows are as long as it has been there."""
        self._seen.append((view.now, view.queued + view.running))
        while self._seen[0][0] <= view.now - self.stable:
            self._seen.popleft()
        recent = [c for t, c in self._seen if t > view.now - self.panic]
        return sum(c for _, c in self._seen) / len(self._seen), sum(recent) / len(recent)

    def _after_grace(self, wanted: int, view: View) -> int:
        if wanted > 0:
            self._zero_since = None
            return wanted
        if self._zero_since is None:
            self._zero_since = view.now
        return 0 if view.now - self._zero_since >= self.grace else min(1, view.ready + len(view.starting))


class KeepAlive:
    """A worker for each request that finds none idle, kept until it has been idle for ``seconds``: the usual
    serverless way (AWS Lambda, OpenWhisk; Shahrad et al. 2020, *Serverless in the Wild*, section 2)."""

    drains = False
    interval = 5.0

    def __init__(self, seconds: float = 600.0, least: int = 0) -> None:
        self._seconds, self._least = seconds, least
        self.memory_seconds = seconds + 60.0

    def decide(self, view: View) -> int:
        """All that work, start or were busy lately, and one for each request that waits beyond those that start."""
        have = view.ready + len(view.starting)
        expired = sum(seconds >= self._seconds for seconds in view.idle)
        missing = max(0, view.queued - len(view.starting) - len(view.idle))
        return max(have + missing - expired, self._least)
