"""What the supervisor and its engine processes say to each other, over a pipe that only they hold.

The supervisor sends Load once, and its other orders at any time after it; the engine draws all that it was given at
the same time, batched where that is possible, and answers each drawing by its ``id``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["text-to-image", "image-to-image", "inpainting"]


@dataclass(frozen=True)
class StepCache:
    """diffusers' step caching. ``threshold``: for FirstBlock alone; None: diffusers' default."""

    type: Literal["FirstBlock", "TaylorSeer", "PyramidAttention"]
    threshold: float | None = None


@dataclass(frozen=True)
class Options:
    """How the pipeline is loaded and made fast: ``spec.pipeline`` of the ImageModel."""

    class_name: str = "AutoPipelineForText2Image"
    dtype: str = "auto"
    quantization: str = "none"
    compile: str = "none"
    attention: str = "auto"
    step_cache: StepCache | None = None


@dataclass(frozen=True)
class Warmth:
    """What is drawn before a model serves: each of ``sizes`` (width, height; the default first), to be measured."""

    sizes: tuple[tuple[int, int], ...]
    steps: int
    guidance_scale: float
    max_batch: int  # never measured beyond it
    memory_bytes: int | None  # the most that this engine may use; None: not known


@dataclass(frozen=True)
class Load:
    """The first message to a new engine."""

    path: str
    options: Options
    threads: int
    warmth: Warmth
    adapters: dict[str, str] = field(default_factory=dict)  # name to folder
    cache_dir: str | None = None  # where compiled code is kept between engines; None: nowhere


@dataclass(frozen=True)
class AdapterUse:
    name: str
    scale: float


@dataclass(frozen=True)
class Draw:
    """Draw one picture. None: leave it to the pipeline. Pictures are encoded (PNG, JPEG or WebP)."""

    id: int
    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    output_format: str
    output_compression: int | None
    image: bytes | None = None
    mask: bytes | None = None
    strength: float | None = None
    control_image: bytes | None = None
    control_scale: float = 1.0
    adapters: tuple[AdapterUse, ...] = ()
    previews: int = 0  # how many partial pictures
    resume: bytes | None = None  # where it goes on from: ``Checkpoint.data`` of a drawing that was alike
    record_bytes: int = 0  # how much may be kept so that it can be interrupted; 0: it cannot be

    @property
    def mode(self) -> Mode:
        if self.image is None:
            return "text-to-image"
        return "image-to-image" if self.mask is None else "inpainting"


@dataclass(frozen=True)
class Cancel:
    """Stop this drawing at its next step. Without effect once it has ended."""

    id: int


@dataclass(frozen=True)
class Interrupt:
    """End this drawing at its next step with a Checkpoint, or Cancelled where it has not begun. One that cannot be
    interrupted is drawn to its end."""

    id: int


@dataclass(frozen=True)
class Pause:
    """Draw nothing of it from its next step on, until Continue. Answered with Paused, unless it has ended."""

    id: int


@dataclass(frozen=True)
class Continue:
    """Go on with a paused drawing."""

    id: int


@dataclass(frozen=True)
class Capabilities:
    """What a loaded pipeline can do."""

    class_name: str
    size_multiple: int  # pixels: width and height must be multiples of it
    parameters: frozenset[str]  # the arguments that a call of it takes
    negative_prompt: bool  # whether it can honour one
    modes: tuple[Mode, ...] = ("text-to-image",)
    control_net: bool = False
    adapters: tuple[str, ...] = ()
    batches: bool = False  # whether drawings can share a step


@dataclass(frozen=True)
class Stage:
    """A stage of loading has ended: ``weights``, ``options`` or ``warm``."""

    name: str
    seconds: float


@dataclass(frozen=True)
class SizeProfile:
    """What was measured for one size."""

    width: int
    height: int
    fixed_seconds: float  # of one drawing, outside of its steps: text encoder, VAE
    step_seconds: tuple[tuple[int, float], ...]  # batch, seconds of a step with so many drawings; ascending
    peak_bytes: tuple[
        tuple[int, int], ...
    ]  # batch, most memory that the engine held then; empty: not measured


@dataclass(frozen=True)
class Loaded:
    """The pipeline is loaded and warm. ``weights_bytes``: memory held at rest; None: could not be measured."""

    capabilities: Capabilities
    profiles: tuple[SizeProfile, ...]
    weights_bytes: int | None


@dataclass(frozen=True)
class LoadFailed:
    reason: str
    message: str


@dataclass(frozen=True)
class Step:
    """One step of the drawings ``done`` (id to the part of its work that is done, 0 to 1) took ``seconds``.

    The mean of ``rounds`` steps that followed each other: those that take little time are not told one by one.
    """

    done: dict[int, float]
    width: int
    height: int
    seconds: float
    rounds: int = 1


@dataclass(frozen=True)
class Preview:
    id: int
    index: int  # 0, 1 ...
    image: bytes


@dataclass(frozen=True)
class Phase:
    """A part of a drawing: ``text_encode``, ``denoise``, ``decode``, ``encode``. Times are Unix nanoseconds."""

    name: str
    started_ns: int
    ended_ns: int


@dataclass(frozen=True)
class Drawn:
    id: int
    image: bytes
    seconds: float  # from its start to the encoded picture, others' parts of shared steps included
    work_seconds: (
        float  # its own share of the device: each step's time divided by the drawings that shared it
    )
    shared_seconds: float  # of these, in steps: what company saves is in them alone
    phases: tuple[Phase, ...]
    peak_bytes: int | None  # most memory that the engine held meanwhile; None: not measured


@dataclass(frozen=True)
class Failed:
    """A drawing failed; the engine lives on unless the pipe says otherwise."""

    id: int
    code: str
    message: str


@dataclass(frozen=True)
class Cancelled:
    id: int


@dataclass(frozen=True)
class Checkpoint:
    """The drawing was interrupted after ``steps`` of its steps; ``data``: for ``Draw.resume``."""

    id: int
    steps: int
    data: bytes


@dataclass(frozen=True)
class Paused:
    id: int
