"""Numbers of workers as metrics."""

from imagefleet_operator import scaling_metrics
from imagefleet_operator.plan.capacity_types import Load, ModelLoad
from prometheus_client import REGISTRY

from tests.unit.operator.make import pool

STATUS = {"scaling": {"desiredReplicas": 3, "active": 3, "warm": 1, "leaving": 2, "startSeconds": 12.0}}
WHERE = {"namespace": "ns", "pool": "thumbs"}


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"imagefleet_scaling_{name}", {**WHERE, **labels})


def test_the_metrics_say_what_the_status_and_gateways_do() -> None:
    load = Load({"m": ModelLoad(held_seconds=4.5)}, age=1.0)
    scaling_metrics.refresh([pool(status=STATUS)], lambda *_: load)
    assert [value("replicas", role=role) for role in scaling_metrics.ROLES] == [3, 1, 2]
    assert (value("desired_replicas"), value("start_seconds"), value("held_work_seconds")) == (3, 12.0, 4.5)


def test_without_opinion_and_without_a_pool_there_is_nothing() -> None:
    scaling_metrics.refresh([pool(status=STATUS)], lambda *_: Load())
    assert value("held_work_seconds") is None
    scaling_metrics.refresh([pool()], lambda *_: Load(age=0.0))
    assert value("desired_replicas") is None
