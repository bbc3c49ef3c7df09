from imagefleet_runtime.worker.device_metrics import DeviceMetrics
from imagefleet_runtime.worker.nvml import Nvml
from prometheus_client import CollectorRegistry

from tests.unit.worker.nvml_fakes import FakeNvml

PREFIX = "imagefleet_worker_accelerator_"


def value_of(library: FakeNvml, name: str, device: str = "0", **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(DeviceMetrics(("team-a", "images"), Nvml(library, {}).devices))
    accelerator = {"0": "NVIDIA-H200", "1": "NVIDIA-H200-MIG-1g.18gb"}[device]
    base = {"namespace": "team-a", "pool": "images", "device": device, "accelerator": accelerator}
    return registry.get_sample_value(PREFIX + name, {**base, **labels})


def test_what_is_measured_has_a_sample() -> None:
    library = FakeNvml()
    assert value_of(library, "temperature_celsius") == 61.0
    assert value_of(library, "utilization_ratio") == 0.63
    assert value_of(library, "ecc_errors_total", kind="corrected", scope="volatile") == 3
    assert value_of(library, "remapped_rows", kind="uncorrected") == 1
    assert value_of(library, "throttled", reason="power_cap") == 1
    assert value_of(library, "throttled", reason="hardware_thermal") == 0
    assert value_of(library, "repair_pending") == 0
    assert value_of(library, "fault") == 0


def test_what_is_not_supported_has_none() -> None:
    library = FakeNvml()
    assert value_of(library, "memory_used_bytes", "1") == 10
    assert value_of(library, "temperature_celsius", "1") is None
    assert value_of(library, "ecc_errors_total", "1", kind="corrected", scope="volatile") is None
    assert value_of(library, "repair_pending", "1") is None


def test_xids_are_counted_and_a_fault_is_told() -> None:
    library = FakeNvml()
    library.xids = [79, 31, 31]
    assert value_of(library, "xid_errors_total", xid="31") == 2
    library.xids = [79]
    assert value_of(library, "fault") == 1
