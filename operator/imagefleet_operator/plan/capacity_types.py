"""The values that decisions about the number of workers are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from imagefleet_operator.plan.scaling import ScalingSpec


@dataclass(frozen=True, slots=True)
class PoolScaling:
    """``spec.scaling``. ``external``: somebody else writes ``spec.replicas``, and only the bounds are ours."""

    spec: ScalingSpec
    external: bool = False


@dataclass(frozen=True, slots=True)
class WarmWindow:
    """A time of the day in UTC with its own number of warm workers."""

    days: frozenset[int]
    """On which it begins; 0 is Monday."""
    start: int
    end: int
    """Minutes since midnight; an end that is not after the start is on the next day."""
    replicas: int


@dataclass(frozen=True, slots=True)
class WarmSpec:
    """``spec.warmPool``."""

    replicas: int = 1
    on_accelerator: bool = True
    """Whether their models are loaded; else no more than read into their nodes' memory."""
    windows: tuple[WarmWindow, ...] = ()
    forecast: bool = False


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """What gateways said of one model of a pool. The first group grows as long as the operator runs and means
    something as a difference; the second is as of now."""

    arrived_seconds: float = 0.0
    """GPU-seconds that arrived."""
    arrived: int = 0
    started: int = 0
    late: int = 0
    """Requests; those that are late had waited too long when they started or were given up."""

    held: int = 0
    running: int = 0
    held_seconds: float = 0.0
    """GPU-seconds that wait at gateways."""
    oldest_seconds: float = 0.0
    """For how long the oldest request has been held."""


@dataclass(frozen=True, slots=True)
class Load:
    """What gateways said of a pool, by model."""

    models: Mapping[str, ModelLoad] = field(default_factory=dict)
    quiet_seconds: float = 0.0
    """Since the last request came, as far as is known."""
    age: float | None = None
    """Seconds since the gateway that spoke last did; None: none has."""
    partial: bool = False
    """Whether a gateway that is there has fallen silent: there may be more."""

    @property
    def sum(self) -> ModelLoad:
        """Over all models."""
        found = self.models.values()
        return ModelLoad(
            arrived_seconds=sum(m.arrived_seconds for m in found),
            arrived=sum(m.arrived for m in found),
            started=sum(m.started for m in found),
            late=sum(m.late for m in found),
            held=sum(m.held for m in found),
            running=sum(m.running for m in found),
            held_seconds=sum(m.held_seconds for m in found),
            oldest_seconds=max((m.oldest_seconds for m in found), default=0.0),
        )
