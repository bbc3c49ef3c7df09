import re
from pathlib import Path

from imagefleet_runtime.worker.metrics import Metrics, ModelGauges
from imagefleet_runtime.worker.nvml import Device
from prometheus_client import generate_latest

DOCS = Path(__file__).parents[3] / "docs/worker.md"
MODEL = ModelGauges(
    "shapes", True, {"interactive": 1, "batch": 3}, {"interactive": 2, "batch": 0}, 2.0, 0.5, 7, 9, 1.5
)
DEVICE = Device(0, "NVIDIA H200", 0.5, 1, 2, 60.0, 400.0)


def metrics_of(*models: ModelGauges) -> Metrics:
    return Metrics("team-a", "images", lambda: models, lambda: [DEVICE])


def record_all(metrics: Metrics) -> None:
    metrics.answered("shapes", "ok")
    metrics.refused("shapes", "queue_full")
    metrics.cancelled("shapes", "caller_left")
    metrics.checked("shapes", False)
    metrics.scored("shapes", 0.9)
    metrics.looked("shapes", "safety", 0.01)
    metrics.stepped("shapes", 4, 0.1)
    metrics.drawn("shapes", 0.5)
    metrics.completed("shapes", 0.5, 0.1)
    metrics.crashed("shapes")
    metrics.evicted("shapes")
    metrics.loaded("shapes", 3.0, {"fetch": 1.0, "warm": 2.0})
    metrics.fetched("shapes", 100)


def lines(metrics: Metrics) -> list[str]:
    text = generate_latest(metrics.registry).decode()
    return [line for line in text.splitlines() if line.startswith("imagefleet_")]


def test_the_documented_metrics_are_those_there_are() -> None:
    types = re.findall(r"# TYPE (imagefleet_\w+)", generate_latest(metrics_of(MODEL).registry).decode())
    documented = re.findall(r"`(imagefleet_worker_\w+)`", DOCS.read_text())
    assert sorted(documented) == sorted(name for name in types if not name.endswith("_created"))


def test_every_series_names_its_pool_and_its_model_or_device() -> None:
    metrics = metrics_of(MODEL)
    record_all(metrics)
    for line in lines(metrics):
        assert 'namespace="team-a"' in line
        assert 'pool="images"' in line
        assert 'model="shapes"' in line or 'accelerator="NVIDIA-H200"' in line


def test_a_model_that_left_has_no_series() -> None:
    metrics = metrics_of()
    metrics.answered("shapes", "ok")
    metrics.answered("", "model_not_allowed")
    record_all(metrics)
    metrics.forget("shapes")
    assert not [line for line in lines(metrics) if "shapes" in line]
    assert [line for line in lines(metrics) if "model_not_allowed" in line]


def test_requests_are_counted_by_priority() -> None:
    labels = 'model="shapes",namespace="team-a",pool="images",priority='
    shown = lines(metrics_of(MODEL))
    assert f'imagefleet_worker_queue_length{{{labels}"batch"}} 3.0' in shown
    assert f'imagefleet_worker_running{{{labels}"interactive"}} 2.0' in shown


def test_a_load_is_timed_by_stage() -> None:
    metrics = metrics_of(MODEL)
    record_all(metrics)
    labels = 'model="shapes",namespace="team-a",pool="images",stage="warm"'
    assert f"imagefleet_worker_load_stage_seconds_sum{{{labels}}} 2.0" in lines(metrics)
