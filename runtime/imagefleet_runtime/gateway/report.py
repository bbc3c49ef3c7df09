"""The body of `GET /v1/gateway`: what the operator reads."""

import msgspec

from .figures import Figures
from .metrics import Metrics
from .spending import Spending

_encoder = msgspec.json.Encoder()


def report(pod: str, metrics: Metrics, figures: Figures, spending: Spending, now: float) -> bytes:
    """JSON in the form that docs/contract.md gives."""
    models = [
        {"namespace": namespace, "pool": pool, "model": model} | demand.report(now)
        for (namespace, pool, model), demand in metrics.demands()
    ]
    counted = {"started": spending.started, "tenants": spending.report()}
    return _encoder.encode({"pod": pod, "models": models, "names": figures.report()} | counted)
