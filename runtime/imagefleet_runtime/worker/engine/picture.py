"""One picture, from its request to its pixels, through diffusers' own pipeline call."""

from __future__ import annotations

import functools
import inspect
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from imagefleet_runtime.worker.engine import previews
from imagefleet_runtime.worker.engine.modes import NotTextToImageError
from imagefleet_runtime.worker.engine.tape import Tape
from imagefleet_runtime.worker.images import to_pixels
from imagefleet_runtime.worker.messages import Draw, Phase

# Pixels over which what was drawn anew fades into what was kept.
MASK_FEATHER = 2


class WithheldError(Exception):
    """The pipeline's safety checker found something in the picture."""


class Picture:
    """``pipe``: a pipeline of this picture alone (see Pipeline). ``work`` runs in the drawing's greenlet."""

    def __init__(
        self, draw: Draw, pipe: Any, on_preview: Callable[[int, Any], None], tape: Tape | None = None
    ) -> None:
        self.draw = draw
        self.tape = Tape() if tape is None else tape
        self._pipe = pipe
        self._on_preview = on_preview
        owner: Any = type(pipe)
        self._parameters = parameters_of(owner)
        self._step = 0
        self._estimate = previews.CleanEstimate(pipe.scheduler) if draw.previews else None
        self._marks: list[tuple[str, int]] = [("text_encode", time.time_ns())]

    @property
    def steps_done(self) -> int:
        return self._step

    @property
    def done(self) -> float:
        """0 to 1, by steps."""
        return min(self._step / self._steps, 1.0)

    @property
    def _steps(self) -> int:
        """Steps in all: fewer than were asked for where the drawing begins from a picture, more with schedulers that
        call the model twice in a step. Known from the first step on."""
        return getattr(self._pipe, "num_timesteps", None) or self.draw.steps

    def mark(self, phase: str) -> None:
        """``phase`` begins now, and the one before it has ended."""
        self._marks.append((phase, time.time_ns()))

    def phases(self) -> tuple[Phase, ...]:
        """All that were marked; the last mark only ends the one before it."""
        ends = [when for _name, when in self._marks[1:]]
        return tuple(
            Phase(name, started, ended) for (name, started), ended in zip(self._marks, ends, strict=False)
        )

    def work(self) -> npt.NDArray[np.float32]:
        """What the pipeline draws: height x width x 3, in 0..1 or NaN. Raises NotTextToImageError, WithheldError,
        CancelledError, and whatever the pipeline raises."""
        arguments = {name: value for name, value in self._arguments().items() if name in self._parameters}
        output = self._pipe(**arguments)
        if not hasattr(output, "images"):
            raise NotTextToImageError(f"{type(self._pipe).__name__} does not return images")
        if any(getattr(output, "nsfw_content_detected", None) or ()):  # the picture is black then
            raise WithheldError("the model's own safety checker withheld the picture; ask for something else")
        return np.asarray(output.images[0])

    def finish(self, drawn: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """The picture's pixels, from what ``work`` gave. Apart from it, so that it can be done beside the drawing of
        other pictures. Raises NotFiniteError."""
        pixels = to_pixels(drawn)
        return pixels if self.draw.mask is None else self._keep_unmasked(pixels)

    def began_steps(self) -> None:
        """Called when the text is encoded and the first step waits."""
        if len(self._marks) == 1:
            self.mark("denoise")

    def _arguments(self) -> dict[str, Any]:
        """All that any pipeline takes; the caller picks what this one does. What a request asked for and the pipeline
        does not take was refused before (requests.check_supported)."""
        draw = self.draw
        arguments: dict[str, Any] = {
            "prompt": draw.prompt,
            "width": draw.width,
            "height": draw.height,
            "num_inference_steps": draw.steps,
            "guidance_scale": draw.guidance_scale,
            # Drawn on the CPU, so that a seed gives the same noise on every kind of device.
            "generator": torch.Generator("cpu").manual_seed(draw.seed),
            "output_type": "np",
            "callback_on_step_end": self._after_step,
        }
        if draw.negative_prompt:
            arguments["negative_prompt"] = draw.negative_prompt
        if draw.image is not None:
            arguments["image"] = self._opened(draw.image, "RGB")
        if draw.strength is not None:
            arguments["strength"] = draw.strength
        if draw.mask is not None:
            arguments["mask_image"] = self._opened(draw.mask, "L")
        if draw.control_image is not None:
            name = "control_image" if "control_image" in self._parameters else "image"
            arguments[name] = self._opened(draw.control_image, "RGB")
            arguments["controlnet_conditioning_scale"] = draw.control_scale
        return arguments

    def _opened(self, encoded: bytes, mode: str) -> Image.Image:
        picture = Image.open(io.BytesIO(encoded)).convert(mode)
        size = (self.draw.width, self.draw.height)
        return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)

    def _after_step(self, _pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._step += 1
        if self._estimate is not None:
            number = previews.preview_steps(self.draw.previews, self._steps).get(self._step)
            # Those of steps that another engine drew, it sent.
            if number is not None and not self.tape.catching_up:
                self._preview(number, self._estimate, tensors["latents"])
        if self._step == self._steps:
            self.mark("decode")
        return tensors

    def _preview(self, number: int, estimate: previews.CleanEstimate, latents: torch.Tensor) -> None:
        clean = estimate.latents()
        shown = latents if clean is None else clean.to(latents.dtype)
        pixels = previews.decode(self._pipe, shown, self.draw.height, self.draw.width)
        if pixels is not None:
            self._on_preview(number, pixels)

    def _keep_unmasked(self, drawn: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """``drawn`` where the mask is white, and the given picture, untouched by the VAE, elsewhere."""
        assert self.draw.image is not None
        assert self.draw.mask is not None
        mask = self._opened(self.draw.mask, "L").filter(ImageFilter.BoxBlur(MASK_FEATHER))
        kept = self._opened(self.draw.image, "RGB")
        return np.asarray(Image.composite(Image.fromarray(drawn), kept, mask))


@functools.cache
def parameters_of(pipeline: Any) -> frozenset[str]:
    """The arguments that a call of ``pipeline`` takes."""
    return frozenset(inspect.signature(pipeline.__call__).parameters)
