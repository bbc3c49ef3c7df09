"""What the supervisor and its engine processes say to each other, over a pipe that only they hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """The first message to a new engine."""

    path: str
    class_name: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class Generate:
    """Draw ``n`` pictures, image i with seed ``seed + i``. None: leave it to the pipeline."""

    prompt: str
    negative_prompt: str | None
    n: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    output_format: str
    output_compression: int | None


@dataclass(frozen=True)
class Calibrate:
    """Draw the default picture with few steps and say how long each part took."""

    width: int
    height: int
    steps: int
    guidance_scale: float


@dataclass(frozen=True)
class Cancel:
    """Stop drawing at the next step. Without effect when nothing is being drawn."""


@dataclass(frozen=True)
class Capabilities:
    """What a loaded pipeline can do."""

    class_name: str
    size_multiple: int  # pixels: width and height must be multiples of it
    parameters: frozenset[str]  # the arguments that a call of it takes
    negative_prompt: bool  # whether it can honour one


@dataclass(frozen=True)
class Loaded:
    capabilities: Capabilities


@dataclass(frozen=True)
class LoadFailed:
    reason: str
    message: str


@dataclass(frozen=True)
class Timing:
    """How long one drawing took: in all, and from the end of its first step to the end of its last (None: one
    step only, or a pipeline that does not report steps)."""

    total_seconds: float
    steps: int
    between_steps_seconds: float | None


@dataclass(frozen=True)
class Calibrated:
    timing: Timing
    memory_bytes: int | None  # None: could not be measured


@dataclass(frozen=True)
class Progress:
    """``done`` of 1 (all images of the request)."""

    done: float


@dataclass(frozen=True)
class Done:
    images: tuple[bytes, ...]
    seconds: float  # drawing, without encoding


@dataclass(frozen=True)
class Failed:
    """A drawing failed; the engine lives on unless the pipe says otherwise."""

    code: str
    message: str


@dataclass(frozen=True)
class Cancelled:
    pass
