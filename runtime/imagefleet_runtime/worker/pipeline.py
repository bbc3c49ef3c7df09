"""Any diffusers text-to-image pipeline behind one narrow face. Imports torch: only engines import this."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch

from imagefleet_runtime.worker.images import to_pixels
from imagefleet_runtime.worker.messages import Capabilities, Generate, Load
from imagefleet_runtime.worker.source import AUTO_CLASS, pipeline_class

# Only image-to-image and inpainting pipelines take these.
PICTURE_ARGUMENTS = frozenset({"strength", "mask_image"})


class CancelledError(Exception):
    """The caller went away; raised between two steps."""


class NotTextToImageError(Exception):
    """The folder holds a pipeline that does not draw pictures from a text."""


class Pipeline:
    """Not thread safe: one drawing at a time."""

    def __init__(self, pipe: Any, device: str) -> None:
        self._pipe = pipe
        self.device = device
        self.capabilities = capabilities(pipe)

    @classmethod
    def load(cls, order: Load) -> Pipeline:
        """Weights from safetensors, in a local folder, with classes of the installed libraries only."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        pipe = find_class(order.class_name, Path(order.path)).from_pretrained(
            order.path,
            dtype=choose_dtype(order.dtype, device),
            use_safetensors=True,
            local_files_only=True,
        )
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe.to(device), device)

    def draw(self, request: Generate, seed: int, on_step: Callable[[], None]) -> npt.NDArray[np.uint8]:
        """One picture, height x width x 3. ``on_step`` is called after each step; what it raises ends the drawing.

        Raises NotFiniteError, and whatever the pipeline raises.
        """
        self._fresh_scheduler()
        takes = self.capabilities.parameters
        arguments: dict[str, Any] = {
            "prompt": request.prompt,
            "width": request.width,
            "height": request.height,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance_scale,
            # Drawn on the CPU, so that a seed gives the same noise on every kind of device.
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": "np",
            "callback_on_step_end": _callback(on_step),
        }
        if request.negative_prompt:
            arguments["negative_prompt"] = request.negative_prompt
        # What the caller asked for and the pipeline does not take was refused before (requests.check_supported).
        output = self._pipe(**{name: value for name, value in arguments.items() if name in takes})
        if not hasattr(output, "images"):
            raise NotTextToImageError(f"{self.capabilities.class_name} does not return images")
        return to_pixels(np.asarray(output.images[0]))

    def synchronize(self) -> None:
        """Wait for the device: without this, a clock would measure only how fast work is handed to it."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _fresh_scheduler(self) -> None:
        """Schedulers keep state between steps; a cancelled drawing must leave none to the next."""
        scheduler = getattr(self._pipe, "scheduler", None)
        if scheduler is not None:
            self._pipe.scheduler = type(scheduler).from_config(scheduler.config)


def _callback(on_step: Callable[[], None]) -> Callable[..., dict[str, Any]]:
    def after_step(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step()
        return tensors

    return after_step


def find_class(name: str, folder: Path) -> Any:
    """The pipeline class to load ``folder`` with.

    With AutoPipelineForText2Image, the class that ``model_index.json`` names, where that draws from a text: diffusers'
    own look-up imports every pipeline it knows (over a second). It is asked for the rest, such as a folder that was
    saved from an inpainting pipeline.
    """
    wanted = pipeline_class(folder) if name == AUTO_CLASS else name
    found = getattr(diffusers, wanted, None)
    if not (inspect.isclass(found) and issubclass(found, diffusers.DiffusionPipeline)):
        raise NotTextToImageError(f"diffusers {diffusers.__version__} has no pipeline {wanted}")
    if name == AUTO_CLASS and PICTURE_ARGUMENTS & set(inspect.signature(found.__call__).parameters):
        return diffusers.AutoPipelineForText2Image
    return found


def capabilities(pipe: Any) -> Capabilities:
    """Raises NotTextToImageError."""
    parameters = inspect.signature(pipe.__call__).parameters
    name = type(pipe).__name__
    if "prompt" not in parameters:
        raise NotTextToImageError(f"{name} takes no prompt")
    return Capabilities(
        class_name=name,
        size_multiple=size_multiple(pipe),
        parameters=frozenset(parameters),
        negative_prompt="negative_prompt" in parameters and not _ignores_negative_prompt(parameters),
    )


def _ignores_negative_prompt(parameters: Any) -> bool:
    """Guidance-distilled pipelines (FLUX) use it only with ``true_cfg_scale`` over 1, which is off by default there."""
    true_guidance = parameters.get("true_cfg_scale")
    return true_guidance is not None and not (true_guidance.default or 0) > 1


def size_multiple(pipe: Any) -> int:
    """Pixels that width and height must be multiples of.

    The VAE's factor times the transformer's patch; pipelines that pack patches themselves (FLUX) say so through
    their image processor. Worked examples: Stable Diffusion 8; SD3 8 x 2 = 16; FLUX max(16, 8 x 1) = 16.
    """
    factor = int(getattr(pipe, "vae_scale_factor", 8))
    transformer = getattr(pipe, "transformer", None)
    patch = getattr(getattr(transformer, "config", None), "patch_size", 1)
    processor = getattr(getattr(pipe, "image_processor", None), "config", None)
    processed = int(getattr(processor, "vae_scale_factor", 1))
    return max(factor * (patch if isinstance(patch, int) else 1), processed)


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """``auto``: bfloat16 on an accelerator; float32 on a CPU, where half the bits take more time, not less."""
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    found = getattr(torch, dtype)
    assert isinstance(found, torch.dtype)
    return found
