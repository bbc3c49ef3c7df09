from dataclasses import replace
from typing import Any

import pytest
from imagefleet_runtime.worker.health import Health
from imagefleet_runtime.worker.nvml import Device, Nvml, scaled, visible

from tests.unit.worker.nvml_fakes import FakeNvml

FULL = Device(0, "NVIDIA H200", 0.63, 10, 100, 61.0, 412.0)
SLICE = Device(1, "NVIDIA H200 MIG 1g.18gb", None, 10, 100, None, None)


def test_each_device_is_reported_with_what_nvml_gives() -> None:
    full, part = Nvml(FakeNvml(), {}).devices()
    assert (replace(full, health=Health()), part) == (FULL, SLICE)
    assert full.health.remapped_rows == {"corrected": 2, "uncorrected": 1}


def test_what_was_not_measured_is_absent_from_the_report() -> None:
    assert SLICE.as_json() == {
        "index": 1,
        "name": "NVIDIA H200 MIG 1g.18gb",
        "accelerator": "NVIDIA-H200-MIG-1g.18gb",
        "memoryUsedBytes": 10,
        "memoryTotalBytes": 100,
    }


def test_without_nvml_there_are_no_devices() -> None:
    assert Nvml(FakeNvml(present=False), {}).devices() == []


def test_a_lost_device_is_reported_with_its_fault_and_no_figures() -> None:
    library = FakeNvml()
    nvml = Nvml(library, {})
    library.lost = True
    full, _ = nvml.devices()
    assert full.as_json() == {
        "index": 0,
        "name": "NVIDIA H200",
        "accelerator": "NVIDIA-H200",
        "fault": "it is lost: NVML does not find it any more",
    }
    assert nvml.fault() == "device 0 (NVIDIA H200): it is lost: NVML does not find it any more"


def test_a_device_without_a_fault_says_nothing_of_it() -> None:
    nvml = Nvml(FakeNvml(), {})
    assert "fault" not in nvml.devices()[0].as_json()
    assert nvml.fault() is None


def test_only_the_first_device_counts_since_engines_use_no_other() -> None:
    library = FakeNvml()
    nvml = Nvml(library, {"CUDA_VISIBLE_DEVICES": "1,0"})
    library.xids = [79]
    assert nvml.devices()[1].health.fault is not None
    assert nvml.fault() is None


def test_without_nvml_there_is_no_fault() -> None:
    assert Nvml(FakeNvml(present=False), {}).fault() is None


def test_only_visible_devices_are_reported_numbered_as_cuda_does() -> None:
    [device] = Nvml(FakeNvml(), {"CUDA_VISIBLE_DEVICES": "1"}).devices()
    assert (device.index, device.name) == (0, "NVIDIA H200 MIG 1g.18gb")


def test_a_slice_is_found_by_its_own_uuid() -> None:
    [device] = Nvml(FakeNvml(), {"NVIDIA_VISIBLE_DEVICES": "MIG-1"}).devices()
    assert device.name == "NVIDIA H200 MIG 1g.18gb"


@pytest.mark.parametrize(
    ("env", "want"),
    [
        ({}, ["GPU-aaa", "GPU-bbb"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, ["GPU-bbb", "GPU-aaa"]),
        ({"CUDA_VISIBLE_DEVICES": "0,7,1"}, ["GPU-aaa"]),  # CUDA stops at the first bad one
        ({"CUDA_VISIBLE_DEVICES": "GPU-b"}, ["GPU-bbb"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, []),  # not unique
        ({"CUDA_VISIBLE_DEVICES": "MIG-1"}, ["MIG-1"]),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, ["GPU-aaa", "GPU-bbb"]),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, ["GPU-aaa", "GPU-bbb"]),  # CDI lets devices in by itself
        ({"NVIDIA_VISIBLE_DEVICES": "3"}, ["GPU-aaa", "GPU-bbb"]),  # an index of the host's
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-bbb"}, ["GPU-bbb"]),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-bbb", "CUDA_VISIBLE_DEVICES": "0"}, ["GPU-aaa"]),
    ],
    ids=str,
)
def test_visible_devices(env: dict[str, str], want: list[str]) -> None:
    assert visible(["GPU-aaa", "GPU-bbb"], env) == want


@pytest.mark.parametrize("value", [None, -1, 2**32 - 1, 2**64 - 1, -5, float("nan")])
def test_sentinels_and_impossible_values_are_no_opinion(value: Any) -> None:
    assert scaled(value, 0.001) is None
    assert scaled(250, 0.01, most=1.0) is None
