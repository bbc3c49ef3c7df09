"""Rollouts, suspensions and burn rates as metrics, from statuses."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from imagefleet_operator.plan.types import Parent, PoolSpec
from imagefleet_operator.rollout_metrics import PHASES, RolloutMetrics
from prometheus_client import REGISTRY

from tests.unit.operator.make import pool

WHERE = {"namespace": "ns", "pool": "thumbs"}
SHAPES = {**WHERE, "name": "shapes"}


def value(metric: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"imagefleet_{metric}", labels)


@pytest.fixture
def rollouts() -> Iterator[RolloutMetrics]:
    made = RolloutMetrics()
    yield made
    made.refresh([])


def rolling(phase: str = "Analyzing", **entry: Any) -> Parent[PoolSpec]:
    traffic = [{"model": "shapes-1", "percent": 95}, {"model": "shapes-2", "percent": 5}]
    return pool(
        status={"models": [{"name": "shapes", "traffic": traffic, "rollout": {"phase": phase}, **entry}]}
    )


def ended(*verdicts: str) -> Parent[PoolSpec]:
    history = [
        {"name": "shapes", "from": "shapes-1", "to": "shapes-2", "verdict": verdict, "endedAt": str(number)}
        for number, verdict in enumerate(verdicts)
    ]
    return pool(status={"history": history})


def test_each_model_has_its_share(rollouts: RolloutMetrics) -> None:
    rollouts.refresh([rolling()])
    assert value("rollout_weight_percent", **SHAPES, model="shapes-1") == 95
    assert value("rollout_weight_percent", **SHAPES, model="shapes-2") == 5


@pytest.mark.parametrize("phase", PHASES)
def test_a_rollout_is_in_one_phase(phase: str, rollouts: RolloutMetrics) -> None:
    rollouts.refresh([rolling(phase)])
    assert {p: value("rollout_phase", **SHAPES, phase=p) for p in PHASES} == {p: p == phase for p in PHASES}


def test_burn_rates_that_nobody_knows_are_absent(rollouts: RolloutMetrics) -> None:
    rollouts.refresh([rolling(budget={"shortBurnRate": 2.5})])
    assert value("error_budget_burn_rate", **SHAPES, window="short") == 2.5
    assert value("error_budget_burn_rate", **SHAPES, window="long") is None


def test_a_suspension_counts_until_it_ends(rollouts: RolloutMetrics) -> None:
    suspensions = [
        {"name": "shapes", "model": "shapes-1", "until": "2026-11-23T02:00:00Z"},
        {"name": "shapes", "model": "shapes-2"},
    ]
    rollouts.refresh([pool(status={"suspensions": suspensions})])
    assert value("suspended", **SHAPES, model="shapes-1") is None
    assert value("suspended", **SHAPES, model="shapes-2") == 1


def test_what_has_ended_is_gone(rollouts: RolloutMetrics) -> None:
    rollouts.refresh([rolling(budget={"shortBurnRate": 2.5})])
    rollouts.refresh([pool()])
    assert value("rollout_weight_percent", **SHAPES, model="shapes-2") is None
    assert value("rollout_phase", **SHAPES, phase="Analyzing") is None
    assert value("error_budget_burn_rate", **SHAPES, window="short") is None


def test_a_rollout_is_counted_once_when_it_ends(rollouts: RolloutMetrics) -> None:
    rollouts.refresh([ended()])
    for _ in range(2):
        rollouts.refresh([ended("Promoted", "Aborted", "Promoted")])
    assert value("rollouts_total", **WHERE, verdict="Promoted") == 2
    assert value("rollouts_total", **WHERE, verdict="Aborted") == 1


def test_a_history_from_before_is_not_counted_again(rollouts: RolloutMetrics) -> None:
    rollouts.refresh([ended("Promoted")])
    rollouts.refresh([ended("Promoted", "Aborted")])
    assert value("rollouts_total", **WHERE, verdict="Promoted") is None
    assert value("rollouts_total", **WHERE, verdict="Aborted") == 1


def test_the_counts_of_a_pool_go_with_it(rollouts: RolloutMetrics) -> None:
    rollouts.refresh([ended()])
    rollouts.refresh([ended("Promoted"), replace(pool(), name="other")])
    rollouts.refresh([replace(pool(), name="other")])
    assert value("rollouts_total", **WHERE, verdict="Promoted") is None
