"""How many workers a pool needs, from its demand in GPU-seconds.

One worker does one GPU-second of work a second. So the rate at which work arrives is the number of workers that it
keeps busy, and work that waits is what they are behind by.

    needed  = max(rate / target utilization, exposed x (rate + caution x deviation)) + surplus / lead
    exposed = (lead - wait) / lead, at least 0
    surplus = work left + rate x lead - what the workers there are do within the lead - what may well be left then

``rate`` and ``deviation`` are the forecast's, the lead is the time from a decision to a worker that draws. A worker
that is started when a burst begins is there a lead later, and what came less than the wait before that is still in
time: only what arrives in the rest of the lead, its exposed share, is for the workers that stand by.

``caution`` is learned from how many requests started late: it rises by STEP for each late one and falls by STEP x
AIM x the allowed share for every one, so that in the long run a little less than is allowed are late, whatever the
load is like (adaptive conformal inference: Gibbs and Candès 2021).

A worker goes when more are there than were needed at any time of ``scaleDown``'s stabilization window, and it has no
work. The window is a lead by default: a worker that is kept for what it would take to start it again costs at most
twice what the best decision in hindsight would have (ski rental: Karlin et al. 1988), and every change of direction
takes that long, so that the number cannot swing.

Worked example: work arrives at 4 GPU-seconds a second with a deviation of 2.5, caution is 4, the target utilization
0.8, the lead 60 s, the wait 30 s, and nothing waits: max(4 / 0.8, 0.5 x (4 + 4 x 2.5)) = 7 workers. With 5 ready
workers and 300 s of work left, the surplus is 300 + 240 - 5 x 60 - 5 x 15 = 165 s; that makes 165 / 60 = 2.75 more:
9.75, so 10.

A pool with ``minReplicas: 0`` goes to zero when nothing came for ``zero_seconds``, and comes back with the first
request: the formula alone would always keep some for the unexpected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from imagefleet_operator.plan.behavior import Behavior, Past, limited
from imagefleet_operator.plan.forecast import Forecast

STEP = 0.05
"""Caution for one late request: twenty of them, a burst, are one deviation more."""
AIM = 0.9
"""Of the late requests that the objective allows, the share that caution settles at: bursts come in clusters, and a
mean that is just met is missed every other week."""
FINE = 0.5
"""Work left on each worker that is no reason for more of them, as a share of the wait: what runs, mostly."""
CAUTION_FIRST = 4.5
"""Before anything was learned. Where callers come with many requests each, 99 % of what arrives in a minute is within
four to five deviations, not two."""
CAUTION_MOST = 6.0
"""Caution beyond this buys nothing: what is late then came faster than a worker starts."""
DECIDE_SECONDS = 2.0
"""Between two decisions of a pool: short beside any worker's start."""
STALE_SECONDS = 60.0
"""Age at which figures of gateways and workers say nothing of now."""

START_SECONDS = 60.0
LOAD_SECONDS = 3.0
"""What is assumed of workers before one was seen to start, and to load a model."""

METRICS_ABSENT = "MetricsAbsent"
"""No gateway or worker has said anything yet: no opinion."""
METRICS_STALE = "MetricsStale"
"""What they said last is too old: no opinion."""
BACKLOG = "Backlog"
"""More workers: those there are would not catch up in time."""
DEMAND = "Demand"
"""More workers: more work arrives, or is expected."""
IDLE = "Idle"
"""Fewer workers: some have not been needed for long."""
UNUSED = "Unused"
"""No workers: nothing came for long, and ``minReplicas`` is 0."""
STEADY = "Steady"
"""No more are needed, and none can go yet."""
BOUNDED = "Bounded"
"""``minReplicas`` or ``maxReplicas`` decides."""
LIMITED = "BehaviorLimited"
"""``behavior`` allows less of a change than wanted."""


@dataclass(frozen=True, slots=True)
class ScalingSpec:
    """``spec.scaling`` of a pool, with what is known of its workers."""

    min_replicas: int = 1
    max_replicas: int = 100
    target_utilization: float = 0.9
    wait_seconds: float = 30.0
    """A request is in time where it starts this soon after its arrival."""
    objective: float = 0.99
    """Share of the requests that is to be in time."""
    start_seconds: float = START_SECONDS
    """From a decision until a worker is ready."""
    load_seconds: float = LOAD_SECONDS
    """From then until its first model is loaded."""
    zero_seconds: float = 600.0
    """Without a request for so long a pool that may goes to zero."""
    behavior: Behavior = field(default_factory=Behavior)

    @property
    def lead(self) -> float:
        """From a decision until a worker draws."""
        return self.start_seconds + self.load_seconds

    @property
    def exposed(self) -> float:
        """Share of a lead in which requests arrive that no worker started meanwhile can begin in time."""
        return max(0.0, self.lead - self.wait_seconds) / self.lead


@dataclass(frozen=True, slots=True)
class Inputs:
    """What gateways and workers report of a pool, estimates in GPU-seconds."""

    work_left: float
    """Of queued and running requests, and of loads that requests wait for."""
    ready: int
    starting: tuple[float, ...] = ()
    """Of each worker that starts: seconds until it draws."""
    idle: tuple[float, ...] = ()
    """Of each ready worker without work: for how long, in seconds."""
    started: int = 0
    """Requests that began since the last decision; and how many of them were ``late``."""
    late: int = 0
    quiet: float = 0.0
    """Seconds since the last request came."""
    age: float | None = 0.0
    """Seconds since these were true. None: nobody has said anything."""

    @property
    def replicas(self) -> int:
        """Workers that there are or will be."""
        return self.ready + len(self.starting)


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves to the next."""

    caution: float = CAUTION_FIRST
    past: Past = field(default_factory=Past)


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome. ``replicas`` is None where there is no opinion: leave them as they are."""

    replicas: int | None
    reason: str
    message: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """What it follows from, for ``status.scaling``."""


def decide(
    spec: ScalingSpec, inputs: Inputs, forecast: Forecast, memory: Memory, now: float
) -> tuple[Decision, Memory]:
    """How many workers there should be. ``now`` in seconds; see the module for the formula."""
    if inputs.age is None:
        return Decision(None, METRICS_ABSENT, "No gateway or worker has reported yet."), memory
    if inputs.age > STALE_SECONDS:
        message = f"The last reports are {inputs.age:.0f} s old, more than {STALE_SECONDS:.0f} s."
        return Decision(None, METRICS_STALE, message), memory
    memory = replace(memory, caution=learned(spec, memory.caution, inputs))
    cautious = spec.exposed * (forecast.rate + memory.caution * forecast.deviation)
    standing = max(forecast.rate / spec.target_utilization, cautious)
    extra = surplus(spec, inputs, forecast) / spec.lead
    needed = 0 if unused(spec, inputs) else max(1, round(standing + extra))
    bounded = _between(needed, spec)
    allowed, past = limited(spec.behavior, memory.past, bounded, inputs.replicas, now)
    # Those that work stay. The bounds are a promise, so they come last: above them even those that work drain and go.
    at_work = inputs.replicas - len(inputs.idle) - len(inputs.starting)
    replicas = _between(max(allowed, at_work) if allowed < inputs.replicas else allowed, spec)
    figures = {
        "rate": forecast.rate,
        "deviation": forecast.deviation,
        "caution": memory.caution,
        "workLeft": inputs.work_left,
        "needed": needed,
        "ready": inputs.ready,
        "starting": len(inputs.starting),
    }
    reason = UNUSED if replicas == needed == 0 else _reason(inputs, needed, bounded, replicas, extra)
    message = _message(inputs, forecast, needed, replicas)
    return Decision(replicas, reason, message, figures), replace(memory, past=past)


def _between(replicas: int, spec: ScalingSpec) -> int:
    return min(max(replicas, spec.min_replicas), spec.max_replicas)


def learned(spec: ScalingSpec, caution: float, inputs: Inputs) -> float:
    """The caution after what was seen. Example: with an objective of 0.99, one late of 25 requests: 3 becomes
    3 + 0.05 x (1 - 0.9 x 0.01 x 25) = 3.03875."""
    allowed = AIM * (1 - spec.objective) * inputs.started
    return min(max(caution + STEP * (inputs.late - allowed), 0.0), CAUTION_MOST)


def unused(spec: ScalingSpec, inputs: Inputs) -> bool:
    """Whether the pool can be at zero."""
    return spec.min_replicas == 0 and inputs.work_left <= 0 and inputs.quiet >= spec.zero_seconds


def surplus(spec: ScalingSpec, inputs: Inputs, forecast: Forecast) -> float:
    """GPU-seconds of work that will be left when a worker that is started now draws; at least 0."""
    lead = spec.lead
    done = inputs.ready * (lead + spec.wait_seconds * FINE) + sum(
        max(0.0, lead - soon) for soon in inputs.starting
    )
    return max(0.0, inputs.work_left + forecast.rate * lead - done)


def _reason(inputs: Inputs, needed: int, bounded: int, replicas: int, extra: float) -> str:
    have = inputs.replicas
    if bounded != needed and replicas == bounded:
        return BOUNDED
    if bounded > have and replicas < bounded:
        return LIMITED
    if replicas > have:
        return BACKLOG if extra >= 1 else DEMAND
    return IDLE if replicas < have else STEADY


def _message(inputs: Inputs, forecast: Forecast, needed: int, allowed: int) -> str:
    change = "keep" if allowed == inputs.replicas else f"{inputs.replicas} to"
    return (
        f"{change} {allowed} workers: {needed} needed for {forecast.rate:.2f} GPU-seconds a second expected"
        f" (deviation {forecast.deviation:.2f}) and {inputs.work_left:.0f} s of work left."
    )
