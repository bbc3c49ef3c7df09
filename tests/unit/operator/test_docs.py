"""The operator's page lists what the operator says."""

from pathlib import Path

import pytest
from imagefleet_operator import metrics
from imagefleet_operator.plan.conditions import REASONS
from prometheus_client import REGISTRY

PAGE = Path("docs/operator.md").read_text()


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_is_explained(reason: str) -> None:
    assert f"| `{reason}` | {REASONS[reason]} |" in PAGE


def test_every_metric_is_listed() -> None:
    assert metrics.LEADER is not None
    names = {family.name for family in REGISTRY.collect() if family.name.startswith("imagefleet_")}
    ours = {
        name
        for name in names
        if name.startswith(("imagefleet_operator", "imagefleet_queue", "imagefleet_reconcile"))
    }
    assert ours
    assert not [name for name in ours if f"`{name}`" not in PAGE and f"`{name}_total`" not in PAGE]
