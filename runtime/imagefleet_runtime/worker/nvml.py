"""What NVML says of the accelerators that this worker can see. What it does not say is absent, never zero."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pynvml

from imagefleet_runtime.worker.health import SENTINELS, Health, HealthReader, Value, ask, whole

MAX_CELSIUS = 200


@dataclass(frozen=True)
class Device:
    """One accelerator. None: not measured."""

    index: int
    name: str
    utilization: float | None = None  # 0 to 1: the part of the last sample period in which some kernel ran
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    health: Health = field(default_factory=Health)

    @property
    def accelerator(self) -> str:
        """The name as node labels spell it (``nvidia.com/gpu.product``): "NVIDIA H200" is NVIDIA-H200."""
        return self.name.replace(" ", "-")

    def as_json(self) -> dict[str, Any]:
        fields = {
            "index": self.index,
            "name": self.name,
            "accelerator": self.accelerator,
            "utilization": self.utilization,
            "memoryUsedBytes": self.memory_used_bytes,
            "memoryTotalBytes": self.memory_total_bytes,
            "temperatureCelsius": self.temperature_celsius,
            "powerWatts": self.power_watts,
            "fault": self.health.fault,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class _Known:
    """A device that was there when the worker started. NVML's handles outlive the device's loss."""

    index: int
    name: str
    handle: Any
    health: HealthReader


class Nvml:
    """Reads devices through ``library`` (pynvml, or a fake with its functions). Without NVML there are none.

    Any thread may call.
    """

    def __init__(self, library: Any = pynvml, env: Mapping[str, str] = os.environ) -> None:
        self._nvml = library
        self._env = env
        self._lock = threading.Lock()  # faults are counted, each once
        self._known: list[_Known] = []
        try:
            library.nvmlInit()
        except library.NVMLError:
            return
        for index, handle in enumerate(self._handles()):
            name = self._text(library.nvmlDeviceGetName, handle) if handle is not None else None
            if name is not None:
                self._known.append(_Known(index, name, handle, HealthReader(library, handle)))

    def devices(self) -> list[Device]:
        with self._lock:
            return [self._read(known) for known in self._known]

    def fault(self) -> str | None:
        """Why nothing should be drawn on the first device, the one that engines use; None: nothing is known."""
        if not self._known:
            return None
        first = self._known[0]
        with self._lock:
            fault = first.health.read().fault
        return fault and f"device {first.index} ({first.name}): {fault}"

    def _handles(self) -> list[Any]:
        count = self._ask(self._nvml.nvmlDeviceGetCount) or 0
        handles = [self._ask(partial(self._nvml.nvmlDeviceGetHandleByIndex, index)) for index in range(count)]
        known = {
            self._text(self._nvml.nvmlDeviceGetUUID, handle): handle
            for handle in handles
            if handle is not None
        }
        wanted = visible(list(known), self._env)
        # A MIG slice is found by its own UUID only.
        return [known.get(uuid) or self._by_uuid(uuid) for uuid in wanted]

    def _by_uuid(self, uuid: str) -> Any:
        return self._ask(lambda: self._nvml.nvmlDeviceGetHandleByUUID(uuid))

    def _read(self, known: _Known) -> Device:
        nvml, handle = self._nvml, known.handle
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        rates = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        heat = self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        milliwatts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return Device(
            index=known.index,
            name=known.name,
            utilization=scaled(rates and rates.gpu, 0.01, most=1.0),
            memory_used_bytes=whole(memory and memory.used),
            memory_total_bytes=whole(memory and memory.total),
            temperature_celsius=scaled(heat, 1.0, most=MAX_CELSIUS),
            power_watts=scaled(milliwatts, 0.001),
            health=known.health.read(),
        )

    def _ask(self, question: Callable[[], Value]) -> Value | None:
        return ask(self._nvml, question)

    def _text(self, question: Callable[[Any], str | bytes], handle: Any) -> str | None:
        answer = self._ask(lambda: question(handle))
        return answer.decode() if isinstance(answer, bytes) else answer


def visible(uuids: list[str | None], env: Mapping[str, str]) -> list[str]:
    """Which of the devices ``uuids`` (in NVML's order) this process may use, in the order in which CUDA numbers them.

    ``CUDA_VISIBLE_DEVICES`` lists indices or UUIDs (a unique beginning is enough), up to the first bad one; empty
    means none. ``NVIDIA_VISIBLE_DEVICES`` counts only where it lists UUIDs: its indices are the host's, and in a
    container NVML shows only what was let in.
    """
    present = [uuid for uuid in uuids if uuid]
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return _cuda_visible(present, listed)
    named = [part.strip() for part in env.get("NVIDIA_VISIBLE_DEVICES", "").split(",")]
    chosen = [part for part in named if part in present or part.startswith("MIG-")]
    return chosen or present


def _cuda_visible(present: list[str], listed: str) -> list[str]:
    chosen: list[str] = []
    for part in (part.strip() for part in listed.split(",")):
        if part.isdigit() and int(part) < len(present):
            chosen.append(present[int(part)])
        elif part.startswith("MIG-"):
            chosen.append(part)
        else:
            found = [uuid for uuid in present if part and uuid.startswith(part)]
            if len(found) != 1:
                break
            chosen.append(found[0])
    return chosen


def scaled(value: float | None, factor: float, most: float = math.inf) -> float | None:
    """``value`` times ``factor``; None for a sentinel and for what cannot be (negative, over ``most``)."""
    if value is None or value in SENTINELS or not 0 <= value * factor <= most:
        return None
    return round(value * factor, 3)
