"""What the supervisor knows of one model that its policy names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from imagefleet_runtime.worker import calibration
from imagefleet_runtime.worker.demand import Demand
from imagefleet_runtime.worker.files import Files
from imagefleet_runtime.worker.footprint import Footprint
from imagefleet_runtime.worker.handle import EngineHandle
from imagefleet_runtime.worker.messages import Capabilities, Loaded, SizeProfile
from imagefleet_runtime.worker.planning import UNKNOWN_LOAD_SECONDS, State
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.scheduling import Speed
from imagefleet_runtime.worker.source import Source
from imagefleet_runtime.worker.throughput import StepTimes


@dataclass
class Model:
    """Mutable; only the supervisor's loop touches it. Times are the loop's monotonic seconds."""

    entry: ModelPolicy
    state: State = State.ABSENT
    reason: str = ""
    message: str = ""
    stage: str = ""  # while Loading: one of the contract's
    files: Files | None = None  # from when it is wanted on; None while Absent or Failed
    engine: EngineHandle | None = None  # while Loading (from its fork on) and Resident
    capabilities: Capabilities | None = None  # of the last successful load; so are the next eight
    source: Source | None = None
    profiles: tuple[SizeProfile, ...] = ()
    steps: StepTimes = field(default_factory=lambda: StepTimes(()))
    footprint: Footprint = field(default_factory=lambda: Footprint(None, ()))
    rate: float | None = None  # seconds per megapixel-step, alone on the accelerator
    load_seconds: float | None = None
    load_stages: dict[str, float] = field(default_factory=dict)  # seconds of each
    loaded_ns: int | None = None  # when the last load had ended, in Unix nanoseconds
    peak_bytes: int | None = None  # the most that its engine has held
    load_started: float | None = None  # while it is brought up: Loading, once its files are there
    retry_at: float | None = None  # while Failed
    failed_source: object = None  # what the folder looked like when it was refused (source.signature)
    failures: int = 0  # failed loads in a row
    crashes: list[float] = field(default_factory=list)
    restarts: int = 0  # engine crashes since the worker started
    last_used: float = 0.0
    loaded_at: float = -math.inf  # when the last load had ended
    demand: Demand = field(default_factory=Demand)
    begins_until: float = (
        math.inf
    )  # requests that laid claim to it later are not begun: others wait for its room
    withdrawn: bool = False  # no longer in the policy: finishes what it has, then goes
    stopped: bool = False  # the load that is under way is to end
    in_host_memory: bool = False  # its files were read, as its policy asks by `preload`
    outdated: bool = False  # the policy names other files or options by now: the engine is to be replaced

    @property
    def name(self) -> str:
        return self.entry.model

    @property
    def pinned(self) -> bool:
        """Whether it is to be loaded though nobody asks for it."""
        return self.entry.pinned and not self.withdrawn and not self.entry.suspended

    @property
    def serving(self) -> bool:
        return self.state is State.RESIDENT and not self.outdated

    @property
    def known_rate(self) -> float | None:
        """Seconds per megapixel-step: measured here, else as the operator last heard."""
        return self.entry.secondsPerMegapixelStep if self.rate is None else self.rate

    @property
    def expected_load_seconds(self) -> float:
        """Seconds of a load: measured here, else as the operator last heard, else a guess."""
        known = self.entry.loadSeconds if self.load_seconds is None else self.load_seconds
        return UNKNOWN_LOAD_SECONDS if known is None else known

    def loaded(self, loaded: Loaded) -> None:
        """Take over what an engine measured while it loaded."""
        self.capabilities = loaded.capabilities
        self.profiles = loaded.profiles
        self.steps = StepTimes(loaded.profiles)
        self.footprint = Footprint(loaded.weights_bytes, loaded.profiles)
        self.note_peak(
            max((peak for profile in loaded.profiles for _, peak in profile.peak_bytes), default=None)
        )
        self.rate = None
        if loaded.profiles:
            default, defaults = loaded.profiles[0], self.entry.defaults
            units = calibration.work_units(default.width, default.height, 1, 1, defaults.guidanceScale)
            self.rate = calibration.initial_rate(default, units, defaults.steps)

    def note_peak(self, peak_bytes: int | None) -> None:
        if peak_bytes is not None:
            self.peak_bytes = max(peak_bytes, self.peak_bytes or 0)

    @property
    def memory_bytes(self) -> int | None:
        """The least that it needs: the most that one picture takes of the sizes that were measured at load."""
        peaks = [self.footprint.peak(profile.width, profile.height, 1) for profile in self.profiles]
        return max((peak for peak in peaks if peak is not None), default=None)

    @property
    def memory_estimate(self) -> int:
        """Bytes that it needs: the larger of what was measured here and what is declared, by which the operator places;
        else the size of its files, else 0 (not known yet)."""
        known = [size for size in (self.memory_bytes, self.entry.memoryBytes) if size is not None]
        return max(known) if known else (self.source.bytes if self.source is not None else 0)

    def speed(self, width: int, height: int, memory_limit: int) -> Speed:
        """How fast pictures of this size are drawn together, and how many: as many as gain and fit."""
        batches = self.capabilities is not None and self.capabilities.batches
        best = self.steps.best_batch(width, height) if batches else 1
        cap = self.footprint.most_together(width, height, best, memory_limit)
        return Speed(cap, lambda batch: self.steps.slowdown(width, height, batch))

    def load_remaining(self, now: float) -> float | None:
        """Seconds until it can serve: 0 when it does, None where nobody has measured a load, or a fetch has just begun.

        A load's seconds are those from its files on: to fetch them is needed once, and takes what the network takes.
        """
        if self.state is State.RESIDENT:
            return 0.0
        expected = self.entry.loadSeconds if self.load_seconds is None else self.load_seconds
        if expected is None:
            return None
        if self.load_started is not None:
            return max(expected - (now - self.load_started), 0.0)
        fetch = self.files.remaining_seconds(now) if self.files is not None else 0.0
        return None if fetch is None else expected + fetch

    def forget_measurements(self) -> None:
        """After its files or options changed nothing that was measured holds."""
        self.capabilities = self.source = self.rate = self.load_seconds = self.peak_bytes = None
        self.profiles = ()
        self.steps = StepTimes(())
        self.footprint = Footprint(None, ())
        self.load_stages = {}
        self.failures = 0
        self.crashes.clear()

    def as_json(
        self, now: float, queued: int, running: int, work_seconds: float, memory_limit: int
    ) -> dict[str, Any]:
        remaining = self.load_remaining(now)
        can = self.capabilities
        fields = {
            "model": self.name,
            "state": self.state.value,
            "pinned": self.entry.pinned and not self.withdrawn,
            "inHostMemory": self.in_host_memory or None,
            "reason": self.reason,
            "message": self.message,
            "digest": self.source.digest if self.source else None,
            "className": can.class_name if can else None,
            "bytes": self.source.bytes if self.source else None,
            "memoryBytes": self.memory_bytes,
            "secondsPerMegapixelStep": self.rate,
            "loadSeconds": self.load_seconds,
            "loadRemainingSeconds": remaining if self.state is not State.FAILED else None,
            "queued": queued,
            "running": running,
            "workSeconds": work_seconds,
            "restarts": self.restarts,
            "modes": list(self.entry.modes(can.modes)) if can else None,
            "controlNet": can.control_net if can else None,
            "adapters": list(can.adapters) if can else None,
            "stage": self.stage,
            "fetchedBytes": self.files.there_bytes if self.files and self.files.remote else None,
            "fetchTotalBytes": self.files.total_bytes if self.files else None,
            "loadStages": dict(self.load_stages) or None,
            "sizes": [self._size_json(profile, memory_limit) for profile in self.profiles] or None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _size_json(self, profile: SizeProfile, memory_limit: int) -> dict[str, Any]:
        width, height = profile.width, profile.height
        fields = {
            "size": f"{width}x{height}",
            "maxBatch": self.speed(width, height, memory_limit).cap,
            "secondsPerStep": self.steps.seconds(width, height, 1),
            "peakBytes": self.footprint.peak(width, height, 1),
        }
        return {name: value for name, value in fields.items() if value is not None}
