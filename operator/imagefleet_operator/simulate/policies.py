"""Policies that say how many workers there should be: ours, through the same functions that the operator plans
with."""

from imagefleet_operator.plan.forecast import Forecaster
from imagefleet_operator.plan.scaling import DECIDE_SECONDS, Inputs, Memory, ScalingSpec, decide
from imagefleet_operator.simulate.world import View


class Ours:
    """The operator's own decisions."""

    drains = False
    memory_seconds = float("inf")

    def __init__(self, spec: ScalingSpec, day: float = 86_400.0, interval: float = DECIDE_SECONDS) -> None:
        self.interval = interval
        self._spec = spec
        self.forecaster = Forecaster(spec.lead, day=day)
        self._memory = Memory()
        self._arrived_at = -spec.zero_seconds

    def decide(self, view: View) -> int | None:
        """As ``plan.scaling.decide``."""
        forecast = self.forecaster.observe(view.now, view.arrived_seconds)
        if view.arrived:
            self._arrived_at = view.now
        inputs = Inputs(
            work_left=view.queued_seconds + view.running_seconds,
            ready=view.ready,
            starting=tuple(view.starting),
            idle=tuple(view.idle),
            started=view.started,
            late=view.late,
            quiet=view.now - self._arrived_at,
        )
        decision, self._memory = decide(self._spec, inputs, forecast, self._memory, view.now)
        return decision.replicas


class Fixed:
    """Always as many."""

    drains = False
    memory_seconds = 0.0
    interval = 15.0

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def decide(self, view: View) -> int:
        """As many as ever."""
        return self._replicas
