"""What unmodified diffusers draws: the reference that engines are compared with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from imagefleet_runtime.worker.messages import Draw
from PIL import Image

# The classes that a user of diffusers would pick, by the class of the folder and by what is asked for.
IMAGE_TO_IMAGE = {
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3Img2ImgPipeline",
    "FluxPipeline": "FluxImg2ImgPipeline",
    "Flux2KleinPipeline": "Flux2KleinPipeline",
    "ZImagePipeline": "ZImageImg2ImgPipeline",
}
INPAINTING = {
    "StableDiffusionInpaintPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3InpaintPipeline",
    "FluxPipeline": "FluxInpaintPipeline",
    "Flux2KleinPipeline": "Flux2KleinInpaintPipeline",
    "ZImagePipeline": "ZImageInpaintPipeline",
}


class Bare:
    def __init__(self, folder: Path) -> None:
        self.pipe: Any = diffusers.DiffusionPipeline.from_pretrained(
            str(folder), local_files_only=True, safety_checker=None
        )
        self.pipe.set_progress_bar_config(disable=True)
        self._made: dict[str, Any] = {type(self.pipe).__name__: self.pipe}
        self._drawn: dict[Draw, npt.NDArray[np.float32]] = {}

    def draw(self, draw: Draw) -> npt.NDArray[np.float32]:
        """Height x width x 3, in 0..1."""
        if draw not in self._drawn:
            self._drawn[draw] = self._call(draw)
        return self._drawn[draw]

    def _call(self, draw: Draw) -> npt.NDArray[np.float32]:
        arguments: dict[str, Any] = {
            "prompt": draw.prompt,
            "num_inference_steps": draw.steps,
            "guidance_scale": draw.guidance_scale,
            "generator": torch.Generator("cpu").manual_seed(draw.seed),
            "output_type": "np",
            "width": draw.width,
            "height": draw.height,
        }
        pipe = self.pipe
        if draw.image is not None:
            chosen = IMAGE_TO_IMAGE if draw.mask is None else INPAINTING
            name = chosen[type(pipe).__name__]
            pipe = self._as(name)
            arguments["image"] = _opened(draw.image, draw)
            if draw.strength is not None and name != "Flux2KleinPipeline":
                arguments["strength"] = draw.strength
            if name in ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"):
                del arguments["width"], arguments["height"]  # the picture's
        if draw.mask is not None:
            arguments["mask_image"] = _opened(draw.mask, draw)
        if draw.control_image is not None:
            arguments["image"] = _opened(draw.control_image, draw)
            arguments["controlnet_conditioning_scale"] = draw.control_scale
        if draw.negative_prompt is not None:
            arguments["negative_prompt"] = draw.negative_prompt
        drawn: npt.NDArray[np.float32] = pipe(**arguments).images[0]
        return drawn

    def _as(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = getattr(diffusers, name).from_pipe(self.pipe)
            self._made[name].set_progress_bar_config(disable=True)
        return self._made[name]


def _opened(encoded: bytes, draw: Draw) -> Image.Image:
    picture = Image.open(io.BytesIO(encoded))
    assert picture.size == (draw.width, draw.height)
    return picture
