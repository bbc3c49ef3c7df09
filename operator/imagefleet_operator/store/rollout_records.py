"""From an entry of a pool's spec to the values of plans: texts become numbers, what is absent the default."""

from math import log
from sys import intern

from imagefleet_operator import api
from imagefleet_operator.plan.rollout_types import (
    DEFAULT_TOLERANCES,
    AnalysisSpec,
    Analyze,
    Experiment,
    Metric,
    Mirror,
    OnInconclusive,
    OnUnsafe,
    Pause,
    RolloutSpec,
    RolloutStep,
    SetWeight,
    Shadow,
    Slo,
)
from imagefleet_operator.plan.types import PoolModel


def entry_record(entry: api.PoolModel) -> PoolModel:
    """One entry of ``spec.models``."""
    shadow = entry.shadow
    return PoolModel(
        name=intern(entry.name),
        model=intern(entry.model),
        min_resident=entry.min_resident,
        rollout=_rollout(entry.rollout),
        slo=_slo(entry.slo),
        experiments=tuple(_experiment(experiment) for experiment in entry.experiments),
        shadow=None if shadow is None else Shadow(intern(shadow.model), shadow.percent),
        suspend=entry.suspend,
    )


def _rollout(rollout: api.Rollout) -> RolloutSpec:
    return RolloutSpec(
        steps=tuple(_step(step) for step in rollout.steps),
        analysis=_analysis(rollout.analysis),
        progress_deadline_seconds=float(rollout.progress_deadline_seconds),
        pause_burn_rate=float(rollout.pause_burn_rate),
        abort_burn_rate=float(rollout.abort_burn_rate),
    )


def _step(step: api.RolloutStep) -> RolloutStep:
    if step.set_weight is not None:
        return SetWeight(step.set_weight)
    if step.mirror is not None:
        return Mirror(step.mirror.percent)
    if step.pause is not None:
        return Pause(None if step.pause.seconds is None else float(step.pause.seconds))
    return Analyze()


def _analysis(analysis: api.Analysis) -> AnalysisSpec:
    return AnalysisSpec(
        tolerances=_tolerances(analysis),
        min_requests=analysis.min_requests,
        max_wait_seconds=float(analysis.max_wait_seconds),
        on_inconclusive=OnInconclusive(analysis.on_inconclusive),
    )


def _tolerances(analysis: api.Analysis) -> dict[Metric, float]:
    """Of the metrics that are named, or of all where none is: ``latency: {maxRatio: "1.25"}`` is
    ``{LATENCY: 0.2231...}``, the logarithm."""
    bounds = {
        Metric.ERROR_RATE: analysis.error_rate,
        Metric.OUT_OF_MEMORY_RATE: analysis.out_of_memory_rate,
        Metric.SAFETY_PASS_RATE: analysis.safety_pass_rate,
        Metric.LATENCY: analysis.latency,
        Metric.QUALITY_SCORE: analysis.quality_score,
    }
    named = {m: _tolerance(m, bound.allowed) for m, bound in bounds.items() if bound is not None}
    return named or dict(DEFAULT_TOLERANCES)


def _tolerance(metric: Metric, allowed: str | None) -> float:
    if allowed is None:
        return DEFAULT_TOLERANCES[metric]
    return log(float(allowed)) if metric is Metric.LATENCY else float(allowed)


def _slo(slo: api.Slo) -> Slo:
    return Slo(
        latency_p95_seconds=None if slo.latency_seconds is None else float(slo.latency_seconds.p95),
        success_rate=None if slo.success_rate is None else float(slo.success_rate),
        safety_pass_rate=None if slo.safety_pass_rate is None else float(slo.safety_pass_rate),
        on_unsafe=OnUnsafe(slo.on_unsafe),
    )


def _experiment(experiment: api.Experiment) -> Experiment:
    return Experiment(
        name=intern(experiment.name),
        arms=tuple((intern(arm.model), arm.percent) for arm in experiment.arms),
        seconds=None if experiment.seconds is None else float(experiment.seconds),
    )
