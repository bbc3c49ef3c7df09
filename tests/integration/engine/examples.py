"""How hypothesis chooses examples that are costly."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

A_FEW = settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
"""Not shrunk: every attempt draws many pictures."""
