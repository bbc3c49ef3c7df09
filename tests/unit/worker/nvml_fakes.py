"""NVML with two devices; the second, a slice of a MIG device, supports little."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class FakeNvmlError(Exception):
    def __init__(self, text: str, value: int = 3) -> None:
        super().__init__(text)
        self.value = value  # 3: not supported


class FakeNvml:
    NVMLError = FakeNvmlError
    NVML_SUCCESS = 0
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_TEMPERATURE_GPU = 0
    NVML_SINGLE_BIT_ECC, NVML_DOUBLE_BIT_ECC = 0, 1
    NVML_VOLATILE_ECC, NVML_AGGREGATE_ECC = 0, 1
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230
    nvmlEventTypeXidCriticalError = 8  # noqa: N815
    nvmlClocksEventReasonSwPowerCap = 0x4  # noqa: N815
    nvmlClocksEventReasonHwSlowdown = 0x8  # noqa: N815
    nvmlClocksEventReasonSwThermalSlowdown = 0x20  # noqa: N815
    nvmlClocksEventReasonHwThermalSlowdown = 0x40  # noqa: N815
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80  # noqa: N815

    def __init__(self, present: bool = True) -> None:
        self.present = present
        self.lost = False
        self.ecc = {(0, 0): 3, (1, 0): 0, (0, 1): 2**64 - 1, (1, 1): 1}  # kind, scope
        self.rows: tuple[int, int, int, int] | None = (2, 1, 0, 0)
        self.pages_pending = 0
        self.recovery_action = 0
        self.reasons = 0x4
        self.xids: list[int] = []
        self.registered: list[tuple[str, int]] = []

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
        return "NVIDIA H200" if handle == "full" else b"NVIDIA H200 MIG 1g.18gb"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        self._check(handle)
        return SimpleNamespace(used=10, total=100)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        self._check(handle, whole=True)
        return SimpleNamespace(gpu=63)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        self._check(handle, whole=True)
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        self._check(handle)
        return 412_000 if handle == "full" else 2**32 - 1

    def nvmlDeviceGetTotalEccErrors(self, handle: str, kind: int, scope: int) -> int:  # noqa: N802
        self._check(handle, whole=True)
        return self.ecc[kind, scope]

    def nvmlDeviceGetRemappedRows(self, handle: str) -> tuple[int, int, int, int]:  # noqa: N802
        self._check(handle, whole=True)
        if self.rows is None:
            raise FakeNvmlError("not supported")
        return self.rows

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: str) -> int:  # noqa: N802
        self._check(handle, whole=True)
        return self.pages_pending

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> Any:  # noqa: N802
        self._check(handle)
        returned = 0 if handle == "full" else 3
        return [SimpleNamespace(nvmlReturn=returned, value=SimpleNamespace(uiVal=self.recovery_action))]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        self._check(handle, whole=True)
        return self.reasons

    def nvmlEventSetCreate(self) -> str:  # noqa: N802
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: str, kinds: int, events: str) -> None:  # noqa: N802
        self._check(handle, whole=True)
        self.registered.append((handle, kinds))

    def nvmlEventSetWait_v2(self, events: str, milliseconds: int) -> Any:  # noqa: N802
        assert milliseconds == 0, "a wait would hold up who asks"
        if not self.xids:
            raise FakeNvmlError("timeout", 10)
        return SimpleNamespace(eventData=self.xids.pop(0))

    def _check(self, handle: str, whole: bool = False) -> None:
        """``whole``: what a slice does not support."""
        if self.lost:
            raise FakeNvmlError("GPU is lost", self.NVML_ERROR_GPU_IS_LOST)
        if whole and handle == "slice":
            raise FakeNvmlError("not supported")
