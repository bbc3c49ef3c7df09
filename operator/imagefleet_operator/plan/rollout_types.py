"""The values that rollouts are made of: what a pool's entry asks for, and what gateways counted of it.

All of them are frozen. Fractions are 0 to 1, times are seconds, ``percent`` is 0 to 100.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Metric(StrEnum):
    """What an analysis compares, in the order in which findings are told."""

    ERROR_RATE = "errorRate"
    OUT_OF_MEMORY_RATE = "outOfMemoryRate"
    SAFETY_PASS_RATE = "safetyPassRate"  # noqa: S105 (a rate, no password)
    LATENCY = "latency"
    QUALITY_SCORE = "qualityScore"


DEFAULT_TOLERANCES: Mapping[Metric, float] = {
    Metric.ERROR_RATE: 0.05,
    Metric.OUT_OF_MEMORY_RATE: 0.05,
    Metric.SAFETY_PASS_RATE: 0.05,
    Metric.LATENCY: math.log(1.25),
    Metric.QUALITY_SCORE: 0.05,
}
"""The harm that must not get through: an increase of the rate, a decrease of the pass rate or the score, and for
latency the logarithm of the ratio."""


@dataclass(frozen=True, slots=True)
class SetWeight:
    """The canary gets that share of the traffic."""

    percent: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait that long; None: until someone promotes."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Analyze:
    """Go on once the canary is found no worse than the stable model."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """The canary draws copies of that share of the requests, for nobody; 0 ends it."""

    percent: int


RolloutStep = SetWeight | Pause | Analyze | Mirror


class OnInconclusive(StrEnum):
    """What follows where too little was counted in ``max_wait_seconds``."""

    PAUSE = "Pause"
    PROMOTE = "Promote"
    ABORT = "Abort"


@dataclass(frozen=True, slots=True)
class AnalysisSpec:
    """How canary and stable are compared. Only metrics with a tolerance are."""

    tolerances: Mapping[Metric, float] = field(default_factory=lambda: dict(DEFAULT_TOLERANCES))
    min_requests: int = 50
    """Of each side, before anything passes."""
    max_wait_seconds: float = 600.0
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """How an entry moves from one model to another. Without steps: at once, when the new one is ready."""

    steps: tuple[RolloutStep, ...] = ()
    analysis: AnalysisSpec = field(default_factory=AnalysisSpec)
    progress_deadline_seconds: float = 600.0
    pause_burn_rate: float = 2.0
    abort_burn_rate: float = 10.0


class OnUnsafe(StrEnum):
    """What follows where a model's pictures pass too seldom."""

    REPORT = "Report"
    SUSPEND = "Suspend"


@dataclass(frozen=True, slots=True)
class Slo:
    """What callers are promised. None: nothing."""

    latency_p95_seconds: float | None = None
    success_rate: float | None = None
    safety_pass_rate: float | None = None
    on_unsafe: OnUnsafe = OnUnsafe.REPORT


@dataclass(frozen=True, slots=True)
class Experiment:
    """Fixed shares of the traffic for other models, as long as it lasts."""

    name: str
    arms: tuple[tuple[str, int], ...]
    """Model and percent."""
    seconds: float | None = None
    """From its beginning; None: until it is taken out of the spec."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A model that draws copies of that share of the requests, for nobody."""

    model: str
    percent: int


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over measured values: how many, their sum and the sum of their squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float | None:
        """None where nothing was measured."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Arm:
    """What gateways counted of one model in a window. Requests that were the caller's own fault, or left by the
    caller, are not counted at all."""

    requests: int = 0
    errors: int = 0
    """Answered 5xx because of the worker or the model; out of memory included."""
    out_of_memory: int = 0
    checked: int = 0
    """Pictures that a safety check looked at."""
    unsafe: int = 0
    latency: Moments = field(default_factory=Moments)
    """ln(seconds on the worker per megapixel-step), of the requests that were drawn."""
    quality: Moments = field(default_factory=Moments)
    """Scores of pictures, 0 to 1."""

    def __add__(self, other: "Arm") -> "Arm":
        return Arm(
            self.requests + other.requests,
            self.errors + other.errors,
            self.out_of_memory + other.out_of_memory,
            self.checked + other.checked,
            self.unsafe + other.unsafe,
            self.latency + other.latency,
            self.quality + other.quality,
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """What callers got of one model lately: in the short window (5 minutes) or the long one (1 hour)."""

    requests: int = 0
    failed: int = 0
    """Answered 5xx, whatever the cause."""
    slow: int = 0
    """Answered in more than the SLO's latency."""
    checked: int = 0
    unsafe: int = 0

    def __add__(self, other: "Budget") -> "Budget":
        return Budget(
            self.requests + other.requests,
            self.failed + other.failed,
            self.slow + other.slow,
            self.checked + other.checked,
            self.unsafe + other.unsafe,
        )


@dataclass(frozen=True, slots=True)
class Served:
    """What callers got of one model since gateways remember; times in seconds since the epoch, 0: never."""

    requests: int = 0
    pictures: int = 0
    first: float = 0.0
    last: float = 0.0

    def __add__(self, other: "Served") -> "Served":
        known = [at for at in (self.first, other.first) if at]
        return Served(
            self.requests + other.requests,
            self.pictures + other.pictures,
            min(known, default=0.0),
            max(self.last, other.last),
        )


@dataclass(frozen=True, slots=True)
class NameFigures:
    """What all gateways that answer counted for one entry of a pool."""

    window: str = ""
    """The window that ``arms`` are of; figures of another one are none."""
    arms: Mapping[str, Arm] = field(default_factory=dict)
    short: Mapping[str, Budget] = field(default_factory=dict)
    long: Mapping[str, Budget] = field(default_factory=dict)
    served: Mapping[str, Served] = field(default_factory=dict)
    """All by ImageModel."""
