"""Whether an accelerator can be trusted: what NVML counts and reports of its faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Value = TypeVar("Value")
# NVML_VALUE_NOT_AVAILABLE as a signed and an unsigned whole number of 32 and 64 bits.
SENTINELS = frozenset({-1, 2**32 - 1, 2**64 - 1})

# Faults that only a reset of the device mends, from NVIDIA's list of Xid errors. Those that one application causes to
# itself (13, 31, 43, 45), and contained memory errors (63, 94), are counted only.
FATAL_XIDS = {
    48: "a memory error that could not be corrected",
    62: "its micro-controller halted",
    64: "a bad row of memory could not be replaced",
    79: "it has fallen off the bus",
    95: "an uncontained memory error",
    119: "its system processor does not answer",
    120: "its system processor failed",
    140: "a memory error that was not recovered",
    143: "it could not be initialized",
}
# What NVML says must be done before the device can be used again (nvmlDeviceGpuRecoveryAction_t).
RECOVERY_ACTIONS = {
    1: "reset it",
    2: "reboot the node",
    4: "drain and reset it",
    6: "reset its bus",
    7: "reboot",
}
# Far more than can have come between two looks.
MOST_EVENTS = 1000


@dataclass(frozen=True)
class Health:
    """None, or missing in a mapping: the library does not say."""

    lost: bool = False
    ecc_errors: Mapping[tuple[str, str], int] = field(default_factory=dict)  # by kind and scope
    remapped_rows: Mapping[str, int] = field(default_factory=dict)  # of memory, by the kind of error
    repair_pending: bool | None = None  # bad memory is to be replaced at the next reset
    repair_failed: bool | None = None
    recovery_action: str | None = None
    throttled: Mapping[str, bool] = field(default_factory=dict)  # by reason
    xids: Mapping[int, int] | None = None  # how often each came since the worker started

    @property
    def fault(self) -> str | None:
        """Why nothing should be drawn on the device; None: nothing is known against it."""
        fatal = [xid for xid in self.xids or () if xid in FATAL_XIDS]
        checks = (
            (self.lost, "it is lost: NVML does not find it any more"),
            (fatal, "; ".join(f"Xid {xid}: {FATAL_XIDS[xid]}" for xid in fatal)),
            (self.recovery_action, f"NVML asks to {self.recovery_action}"),
            (self.repair_failed, "bad memory could not be replaced"),
            (self.repair_pending, "bad memory is to be replaced: reset the device"),
        )
        return next((why for wrong, why in checks if wrong), None)


class HealthReader:
    """Of one device, for as long as the worker lives: the library reports each Xid once."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._nvml = library
        self._handle = handle
        self._xids: Counter[int] = Counter()
        self._events = self._ask(self._listen)

    def read(self) -> Health:
        self._hear()
        nvml, handle = self._nvml, self._handle
        rows = self._ask(lambda: nvml.nvmlDeviceGetRemappedRows(handle))
        pending, failed = (bool(rows[2]), bool(rows[3])) if rows else (self._pages_pending(), None)
        return Health(
            lost=self._lost(),
            ecc_errors=self._ecc_errors(),
            remapped_rows={"corrected": rows[0], "uncorrected": rows[1]} if rows else {},
            repair_pending=pending,
            repair_failed=failed,
            recovery_action=self._recovery_action(),
            throttled=self._throttled(),
            xids=dict(self._xids) if self._events is not None else None,
        )

    def _listen(self) -> Any:
        events = self._nvml.nvmlEventSetCreate()
        self._nvml.nvmlDeviceRegisterEvents(self._handle, self._nvml.nvmlEventTypeXidCriticalError, events)
        return events

    def _hear(self) -> None:
        """Count the Xids that came since the last time. They wait in the event set: no thread is needed."""
        for _ in range(MOST_EVENTS if self._events is not None else 0):
            event = self._ask(lambda: self._nvml.nvmlEventSetWait_v2(self._events, 0))
            if event is None:  # none (any more): a timeout
                return
            self._xids[int(event.eventData)] += 1

    def _lost(self) -> bool:
        try:
            self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        except self._nvml.NVMLError as error:
            return bool(error.value == self._nvml.NVML_ERROR_GPU_IS_LOST)
        return False

    def _ecc_errors(self) -> dict[tuple[str, str], int]:
        nvml = self._nvml
        kinds = {"corrected": nvml.NVML_SINGLE_BIT_ECC, "uncorrected": nvml.NVML_DOUBLE_BIT_ECC}
        scopes = {"volatile": nvml.NVML_VOLATILE_ECC, "aggregate": nvml.NVML_AGGREGATE_ECC}
        counts = {}
        for kind, of_kind in kinds.items():
            for scope, of_scope in scopes.items():
                count = self._count(nvml.nvmlDeviceGetTotalEccErrors, of_kind, of_scope)
                if count is not None:
                    counts[kind, scope] = count
        return counts

    def _pages_pending(self) -> bool | None:
        """Devices before Ampere retire whole pages."""
        pending = self._count(self._nvml.nvmlDeviceGetRetiredPagesPendingStatus)
        return None if pending is None else bool(pending)

    def _recovery_action(self) -> str | None:
        nvml = self._nvml
        values = self._ask(
            lambda: nvml.nvmlDeviceGetFieldValues(self._handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
        )
        if not values or values[0].nvmlReturn != nvml.NVML_SUCCESS:
            return None
        return RECOVERY_ACTIONS.get(values[0].value.uiVal)

    def _throttled(self) -> dict[str, bool]:
        nvml = self._nvml
        reasons = self._count(nvml.nvmlDeviceGetCurrentClocksEventReasons)
        if reasons is None:
            return {}
        bits = {
            "power_cap": nvml.nvmlClocksEventReasonSwPowerCap,
            "power_brake": nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
            "software_thermal": nvml.nvmlClocksEventReasonSwThermalSlowdown,
            "hardware_thermal": nvml.nvmlClocksEventReasonHwThermalSlowdown,
            "hardware": nvml.nvmlClocksEventReasonHwSlowdown,
        }
        return {reason: bool(reasons & bit) for reason, bit in bits.items()}

    def _count(self, question: Callable[..., int], *arguments: Any) -> int | None:
        return whole(self._ask(lambda: question(self._handle, *arguments)))

    def _ask(self, question: Callable[[], Value]) -> Value | None:
        return ask(self._nvml, question)


def ask(library: Any, question: Callable[[], Value]) -> Value | None:
    """None for what this device or driver does not support, and for a device that has been lost."""
    try:
        return question()
    except library.NVMLError:
        return None


def whole(value: int | None) -> int | None:
    """``value``; None for a sentinel."""
    return None if value is None or value in SENTINELS or value < 0 else int(value)
