"""The operator's page lists what the operator says."""

from pathlib import Path

import pytest
from imagefleet_operator import metrics, rollout_metrics, scaling_metrics
from imagefleet_operator.budget_metrics import BudgetMetrics
from imagefleet_operator.plan.conditions import REASONS
from prometheus_client.metrics import MetricWrapperBase

PAGE = Path("docs/operator.md").read_text()


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_is_explained(reason: str) -> None:
    assert f"| `{reason}` | {REASONS[reason]} |" in PAGE


def test_every_metric_is_listed() -> None:
    defined = [one for module in (metrics, rollout_metrics, scaling_metrics) for one in vars(module).values()]
    ours = {family.name for one in defined if isinstance(one, MetricWrapperBase) for family in one.collect()}
    ours |= {family.name for family in BudgetMetrics(list).describe()}
    assert ours
    assert not [name for name in ours if f"`{name}`" not in PAGE and f"`{name}_total`" not in PAGE]
