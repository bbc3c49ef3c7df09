"""How much memory there is for models, and how much a process holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class MemoryTotal:
    bytes: int
    source: Literal["nvml", "cgroup", "host"]


def memory_total(
    device_bytes: int | None, cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")
) -> MemoryTotal:
    """The memory that models share: the accelerator's where there is one (``device_bytes``), else the pod's limit,
    else the host's."""
    if device_bytes is not None:
        return MemoryTotal(device_bytes, "nvml")
    host = _kilobytes(meminfo.read_text(), "MemTotal") or 0
    limit = _cgroup_limit(cgroup)
    # Without a limit, cgroup v1 gives a number near 2 ** 63.
    return MemoryTotal(limit, "cgroup") if limit is not None and limit < host else MemoryTotal(host, "host")


def _cgroup_limit(cgroup: Path) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroup / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def private_bytes(rollup: Path = Path("/proc/self/smaps_rollup")) -> int | None:
    """Memory that this process shares with no other. None where the kernel does not say.

    Unlike the resident size this leaves out the libraries, which all engines share with the importer.
    """
    try:
        text = rollup.read_text()
    except OSError:
        return None
    parts = [_kilobytes(text, "Private_Clean"), _kilobytes(text, "Private_Dirty")]
    return None if None in parts else sum(part or 0 for part in parts)


def resident_bytes(*, peak: bool = False, status: Path = Path("/proc/self/status")) -> int | None:
    """Memory of this process that is in RAM now, or at its ``peak``. None where the kernel does not say."""
    try:
        return _kilobytes(status.read_text(), "VmHWM" if peak else "VmRSS")
    except OSError:
        return None


def _kilobytes(text: str, name: str) -> int | None:
    """The value of a line such as ``MemTotal:  24672480 kB``, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
