"""The most memory that this engine held within some time."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from imagefleet_runtime.worker.memory import private_bytes, resident_bytes

# Writing 5 sets the peak of the resident size (VmHWM) back to what it is now: proc_pid_clear_refs(5).
RESET_PEAK = "5"
# To tell shared from private memory the kernel walks all of it: 10 ms, too much for every picture. What is shared, the
# libraries, hardly changes.
SHARED_SECONDS = 30.0


class Meter:
    """On CUDA, what torch allocated; on a CPU, what the process shares with no other, beyond what it began with."""

    def __init__(self, device: str, process: Path = Path("/proc/self")) -> None:
        self._cuda = device == "cuda"
        self._process = process
        self._base = 0 if self._cuda else private_bytes()
        self._shared: int | None = None
        self._shared_at = -SHARED_SECONDS

    def now(self) -> int | None:
        """Bytes held now; None where that cannot be found out."""
        if self._cuda:
            return torch.cuda.memory_allocated()
        held = private_bytes()
        return None if held is None or self._base is None else max(held - self._base, 0)

    def reset(self, *, exact: bool = True) -> None:
        """Forget the peak so far. Not ``exact``: what is shared with other processes is read every SHARED_SECONDS."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        if exact or time.monotonic() - self._shared_at >= SHARED_SECONDS:
            resident, held = resident_bytes(), private_bytes()
            self._shared = None if resident is None or held is None else resident - held
            self._shared_at = time.monotonic()
        try:
            (self._process / "clear_refs").write_text(RESET_PEAK)
        except OSError:  # not allowed here: the peak is not known
            self._shared = None

    def peak(self) -> int | None:
        """The most bytes held since ``reset``; None where that cannot be found out."""
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        highest = resident_bytes(peak=True)
        if highest is None or self._shared is None or self._base is None:
            return None
        return max(highest - self._shared - self._base, 0)
