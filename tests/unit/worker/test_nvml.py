from types import SimpleNamespace
from typing import Any

import pytest
from imagefleet_runtime.worker.nvml import Device, Nvml, scaled, visible, whole


class FakeNvmlError(Exception):
    pass


class FakeNvml:
    """NVML with two devices; the second, a slice of a MIG device, supports little."""

    NVMLError = FakeNvmlError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, present: bool = True) -> None:
        self.present = present
        self.lost = False

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.present:
            raise FakeNvmlError("library not found")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return ("full", "slice")[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid == "MIG-1":
            return "slice"
        raise FakeNvmlError("not found")

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return {"full": "GPU-aaa", "slice": "GPU-bbb"}[handle]

    def nvmlDeviceGetName(self, handle: str) -> str | bytes:  # noqa: N802
        if self.lost:
            raise FakeNvmlError("GPU is lost")
        return "NVIDIA H200" if handle == "full" else b"NVIDIA H200 MIG 1g.18gb"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=10, total=100)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        return self._unless_slice(handle, SimpleNamespace(gpu=63))

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return int(self._unless_slice(handle, 61))

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return 412_000 if handle == "full" else 2**32 - 1

    def _unless_slice(self, handle: str, value: Any) -> Any:
        if handle == "slice":
            raise FakeNvmlError("not supported")
        return value


FULL = Device(0, "NVIDIA H200", 0.63, 10, 100, 61.0, 412.0)
SLICE = Device(1, "NVIDIA H200 MIG 1g.18gb", None, 10, 100, None, None)


def test_each_device_is_reported_with_what_nvml_gives() -> None:
    assert Nvml(FakeNvml(), {}).devices() == [FULL, SLICE]


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


def test_a_lost_device_is_not_reported() -> None:
    library = FakeNvml()
    nvml = Nvml(library, {})
    library.lost = True
    assert nvml.devices() == []


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


@pytest.mark.parametrize("value", [None, -1, 2**64 - 1])
def test_sentinels_are_no_size(value: int | None) -> None:
    assert whole(value) is None
    assert whole(0) == 0
