"""What the supervisor knows of one model that its policy names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imagefleet_runtime.worker.handle import EngineHandle
from imagefleet_runtime.worker.messages import Capabilities
from imagefleet_runtime.worker.planning import State
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.source import Source


@dataclass
class Model:
    """Mutable; only the supervisor's loop touches it. Times are the loop's monotonic seconds."""

    entry: ModelPolicy
    state: State = State.ABSENT
    reason: str = ""
    message: str = ""
    engine: EngineHandle | None = None  # while Loading (from its fork on) and Resident
    capabilities: Capabilities | None = None  # of the last successful load; so are the next four
    source: Source | None = None
    rate: float | None = None  # seconds per megapixel-step
    memory_bytes: int | None = None
    load_seconds: float | None = None
    load_started: float | None = None  # while Loading
    retry_at: float | None = None  # while Failed
    failed_source: object = None  # what the folder looked like when it was refused (source.signature)
    failures: int = 0  # failed loads in a row
    crashes: list[float] = field(default_factory=list)
    restarts: int = 0  # engine crashes since the worker started
    last_used: float = 0.0
    withdrawn: bool = False  # no longer in the policy: finishes what it has, then goes
    outdated: bool = (
        False  # the policy names other files or another class by now: the engine is to be replaced
    )

    @property
    def name(self) -> str:
        return self.entry.model

    @property
    def serving(self) -> bool:
        return self.state is State.RESIDENT and not self.outdated

    @property
    def known_rate(self) -> float | None:
        """Seconds per megapixel-step: measured here, else as the operator last heard."""
        return self.entry.secondsPerMegapixelStep if self.rate is None else self.rate

    @property
    def memory_estimate(self) -> int:
        """Bytes that it needs: measured here, else declared, else the size of its files, else 0 (not known yet)."""
        for known in (self.memory_bytes, self.entry.memoryBytes):
            if known is not None:
                return known
        return self.source.bytes if self.source is not None else 0

    def load_remaining(self, now: float) -> float | None:
        """Seconds until it can serve: 0 when it does, None where nobody has measured a load."""
        if self.state is State.RESIDENT:
            return 0.0
        expected = self.entry.loadSeconds if self.load_seconds is None else self.load_seconds
        if expected is None or self.load_started is None:
            return expected
        return max(expected - (now - self.load_started), 0.0)

    def forget_measurements(self) -> None:
        """After its files or class changed nothing that was measured holds."""
        self.capabilities = self.source = self.rate = self.memory_bytes = self.load_seconds = None
        self.failures = 0
        self.crashes.clear()

    def as_json(self, now: float, queued: int, running: int, work_seconds: float) -> dict[str, Any]:
        remaining = self.load_remaining(now)
        fields = {
            "model": self.name,
            "state": self.state.value,
            "pinned": self.entry.pinned and not self.withdrawn,
            "reason": self.reason,
            "message": self.message,
            "digest": self.source.digest if self.source else None,
            "className": self.capabilities.class_name if self.capabilities else None,
            "bytes": self.source.bytes if self.source else None,
            "memoryBytes": self.memory_bytes,
            "secondsPerMegapixelStep": self.rate,
            "loadSeconds": self.load_seconds,
            "loadRemainingSeconds": remaining if self.state is not State.FAILED else None,
            "queued": queued,
            "running": running,
            "workSeconds": work_seconds,
            "restarts": self.restarts,
        }
        return {name: value for name, value in fields.items() if value is not None}
