import re
from pathlib import Path

from imagefleet_runtime.worker.metrics import Metrics, ModelGauges
from imagefleet_runtime.worker.nvml import Device
from prometheus_client import generate_latest

DOCS = Path(__file__).parents[3] / "docs/worker.md"
MODEL = ModelGauges("shapes", True, 1, 1, 2.0, 0.5, 7)
DEVICE = Device(0, "NVIDIA H200", 0.5, 1, 2, 60.0, 400.0)


def metrics_of(*models: ModelGauges) -> Metrics:
    return Metrics("team-a", "images", lambda: models, lambda: [DEVICE])


def lines(metrics: Metrics) -> list[str]:
    text = generate_latest(metrics.registry).decode()
    return [line for line in text.splitlines() if line.startswith("imagefleet_")]


def test_the_documented_metrics_are_those_there_are() -> None:
    types = re.findall(r"# TYPE (imagefleet_\w+)", generate_latest(metrics_of(MODEL).registry).decode())
    documented = re.findall(r"`(imagefleet_worker_\w+)`", DOCS.read_text())
    assert sorted(documented) == sorted(name for name in types if not name.endswith("_created"))


def test_every_series_names_its_pool_and_its_model_or_device() -> None:
    metrics = metrics_of(MODEL)
    metrics.answered("shapes", "ok")
    metrics.drawn("shapes", 1, 0.5, 0.1)
    for line in lines(metrics):
        assert 'namespace="team-a"' in line
        assert 'pool="images"' in line
        assert 'model="shapes"' in line or 'accelerator="NVIDIA-H200"' in line


def test_a_model_that_left_has_no_series() -> None:
    metrics = metrics_of()
    metrics.answered("shapes", "ok")
    metrics.answered("", "model_not_allowed")
    metrics.crashed("shapes")
    metrics.loaded("shapes", 3.0)
    metrics.forget("shapes")
    assert not [line for line in lines(metrics) if "shapes" in line]
    assert [line for line in lines(metrics) if "model_not_allowed" in line]
