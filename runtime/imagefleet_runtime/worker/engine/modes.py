"""What a loaded pipeline can be asked for, and the diffusers pipeline class for each way of asking.

The classes of one family share all their parts, so that one set of weights serves every mode. diffusers' own look-up
(AutoPipeline) imports every pipeline there is, over a second; but names follow a rule, which is used here:
``StableDiffusionXL`` + ``ControlNet`` + ``Img2Img`` + ``Pipeline``.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import diffusers

from imagefleet_runtime.worker.messages import Capabilities, Mode
from imagefleet_runtime.worker.source import AUTO_CLASS, pipeline_class

# Text-to-image is the plain name.
INFIXES: dict[Mode, str] = {"text-to-image": "", "image-to-image": "Img2Img", "inpainting": "Inpaint"}
_NAME = re.compile(r"(?P<family>.*?)(ControlNet)?(Img2Img|Inpaint)?Pipeline")


class NotTextToImageError(Exception):
    """The folder holds a pipeline that does not draw pictures from a text."""


def find_class(name: str, folder: Path) -> Any:
    """The pipeline class to load ``folder`` with: ``name``, or what ``model_index.json`` says. Raises
    NotTextToImageError."""
    wanted = pipeline_class(folder) if name == AUTO_CLASS else name
    found = _class(wanted)
    if found is None:
        raise NotTextToImageError(f"diffusers {diffusers.__version__} has no pipeline {wanted}")
    if "prompt" not in inspect.signature(found.__call__).parameters:
        raise NotTextToImageError(f"{wanted} takes no prompt")
    return found


def _class(name: str) -> Any:
    found = getattr(diffusers, name, None)
    return found if inspect.isclass(found) and issubclass(found, diffusers.DiffusionPipeline) else None


class Modes:
    """The pipelines of one model, over the same parts. Made when first asked for."""

    def __init__(self, pipe: Any) -> None:
        self._loaded = pipe
        name = type(pipe).__name__
        match = _NAME.fullmatch(name)
        self._family = match["family"] if match else name
        self.control_net = getattr(pipe, "controlnet", None) is not None
        self._made: dict[type, Any] = {type(pipe): pipe}

    def available(self) -> tuple[Mode, ...]:
        return tuple(mode for mode in INFIXES if self.class_for(mode, control=False) is not None)

    def pipe(self, mode: Mode, *, control: bool) -> Any:
        """The pipeline for ``mode``. Raises NotTextToImageError where there is none."""
        found = self.class_for(mode, control=control)
        if found is None:
            guided = " with a control image" if control else ""
            raise NotTextToImageError(f"{type(self._loaded).__name__} cannot do {mode}{guided}")
        if found not in self._made:
            self._made[found] = _over_parts(found, self._loaded)
        return self._made[found]

    def class_for(self, mode: Mode, *, control: bool) -> Any:
        if mode != "inpainting" and not self._draws_from_noise():
            return None
        guided = "ControlNet" if control else ""
        named = _class(f"{self._family}{guided}{INFIXES[mode]}Pipeline")
        # Else the class itself: one may do several things (FLUX.2), or have a name that follows no rule.
        candidates = [named] if control else [named, type(self._loaded)]
        fitting = (
            found for found in candidates if found is not None and _missing(found, self._loaded) == set()
        )
        return next((found for found in fitting if _does(found, mode, control=control)), None)

    def _draws_from_noise(self) -> bool:
        """False for inpainting models, whose UNet wants the masked picture beside the noise."""
        unet, vae = getattr(self._loaded, "unet", None), getattr(self._loaded, "vae", None)
        if unet is None or vae is None:
            return True
        return bool(
            unet.config.in_channels == getattr(vae.config, "latent_channels", unet.config.in_channels)
        )


def _does(pipeline: Any, mode: Mode, *, control: bool) -> bool:
    """Whether the arguments of ``pipeline`` are those of ``mode``.

    A picture may be drawn over (``image`` and ``strength``) or looked at (``image`` alone: FLUX.2, Kontext); of the
    latter kind are pipelines that draw from a text as well.
    """
    takes = set(inspect.signature(pipeline.__call__).parameters)
    if control and not takes & {"image", "control_image"}:
        return False
    if mode == "inpainting":
        return "mask_image" in takes
    if "mask_image" in takes:
        return False
    return "strength" not in takes if mode == "text-to-image" else control or "image" in takes


def _missing(wanted: Any, pipe: Any) -> set[str]:
    """Parts that ``wanted`` cannot be made without and ``pipe`` does not have."""
    return {name for name in _required(wanted) if not hasattr(pipe, name)}


def _required(wanted: Any) -> set[str]:
    """The parts that ``wanted`` cannot be made without."""
    parameters = inspect.signature(wanted.__init__).parameters
    return {name for name, parameter in parameters.items() if parameter.default is parameter.empty} - {"self"}


def _over_parts(wanted: Any, pipe: Any) -> Any:
    """A pipeline of the class ``wanted`` over the parts of ``pipe``: nothing is copied."""
    known = {**dict(pipe.config), **pipe.components}
    parameters = set(inspect.signature(wanted.__init__).parameters) - {"self"}
    made = wanted(**{name: known[name] for name in parameters if name in known})
    made.set_progress_bar_config(disable=True)
    return made


def capabilities(modes: Modes, adapters: tuple[str, ...], *, batches: bool) -> Capabilities:
    """Raises NotTextToImageError where the pipeline can do nothing that is offered here."""
    available = modes.available()
    if not available:
        raise NotTextToImageError("the pipeline draws neither from a text nor from a picture")
    pipe = modes.pipe(available[0], control=False)
    parameters = inspect.signature(pipe.__call__).parameters
    return Capabilities(
        class_name=type(pipe).__name__,
        size_multiple=size_multiple(pipe),
        parameters=frozenset(parameters),
        negative_prompt="negative_prompt" in parameters and not _ignores_negative_prompt(parameters),
        modes=available,
        control_net=modes.control_net,
        adapters=adapters,
        batches=batches,
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
