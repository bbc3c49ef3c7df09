"""Partial pictures: what the finished one will look like, as far as the model knows at some step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

# Latents are shrunk until the decoded preview's longer side is at most so many pixels: a preview must be cheap.
MAX_SIDE = 512


def preview_steps(previews: int, steps: int) -> dict[int, int]:
    """The step (from 1) of each preview, and its number: at equal distances, and none at the end.

    Worked example: 2 previews of 20 steps come after steps 7 and 13. Steps too few for all give fewer previews.
    """
    places = (round((index + 1) * steps / (previews + 1)) for index in range(previews))
    chosen = sorted({place for place in places if 0 < place < steps})
    return {step: index for index, step in enumerate(chosen)}


class CleanEstimate:
    """Listens to a scheduler's steps, and says what it thinks the noiseless latents are.

    ``scheduler``: of one drawing alone. Its ``step`` is replaced by one that notes what passes.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._step: Callable[..., Any] = scheduler.step
        self._latents: torch.Tensor | None = None
        scheduler.step = self._noting_step

    def _noting_step(self, model_output: Any, timestep: Any, sample: Any, *rest: Any, **keywords: Any) -> Any:
        answer = self._step(model_output, timestep, sample, *rest, **keywords)
        self._latents = self._estimate(model_output, sample, answer)
        return answer

    def latents(self) -> torch.Tensor | None:
        """The estimate after the last step; None where this scheduler gives none."""
        return self._latents

    def _estimate(self, model_output: Any, sample: Any, answer: Any) -> torch.Tensor | None:
        scheduler = self._scheduler
        if isinstance(answer, tuple) and len(answer) > 1 and isinstance(answer[1], torch.Tensor):
            return answer[1]  # DDIM, Euler and others return it beside the next sample
        outputs = getattr(scheduler, "model_outputs", None)
        if outputs and str(getattr(scheduler.config, "algorithm_type", "")).endswith("dpmsolver++"):
            return outputs[-1] if isinstance(outputs[-1], torch.Tensor) else None
        index = getattr(scheduler, "step_index", None)
        if type(scheduler).__name__.startswith("FlowMatch") and index:
            # x_t = (1 - sigma) x_0 + sigma noise, and the model predicts noise - x_0.
            sigma = scheduler.sigmas[index - 1].to(sample)
            return sample - sigma * model_output  # type: ignore[no-any-return]
        return None


def decode(pipe: Any, latents: torch.Tensor, height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """``latents`` of ``pipe``, packed as it packs them, as height x width x 3 bytes, at most MAX_SIDE a side.

    None where the pipeline's latents are of no known form, or hold NaN.
    """
    image = _image_latents(pipe, latents, height, width)
    if image is None:
        return None
    shrink = max(height, width) / MAX_SIDE
    if shrink > 1:
        image = functional.interpolate(image, scale_factor=1 / shrink, mode="area")
    pixels = pipe.vae.decode(image.to(pipe.vae.dtype), return_dict=False)[0][0]
    scaled = (pixels.float() / 2 + 0.5).clamp(0, 1) * 255
    if not torch.isfinite(scaled).all():
        return None
    drawn: npt.NDArray[np.uint8] = scaled.round().byte().permute(1, 2, 0).cpu().numpy()
    return drawn


def _image_latents(pipe: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor | None:
    """``latents`` as the VAE's decoder takes them: 1 x channels x height x width."""
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return None
    if hasattr(vae, "bn"):
        return _normalised_patches(pipe, latents, height, width)
    if latents.ndim == 3 and hasattr(pipe, "_unpack_latents"):
        latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    if latents.ndim != 4 or not hasattr(vae.config, "scaling_factor"):
        return None
    scaled: torch.Tensor = latents / vae.config.scaling_factor
    return scaled + (getattr(vae.config, "shift_factor", None) or 0.0)


def _normalised_patches(pipe: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """FLUX.2's latents: patches of two by two, normalised, one behind the other."""
    bn, side = pipe.vae.bn, pipe.vae_scale_factor * 2
    rows, columns = height // side, width // side
    patches = latents[:, : rows * columns].transpose(1, 2).reshape(len(latents), -1, rows, columns)
    spread = torch.sqrt(bn.running_var.view(1, -1, 1, 1).to(patches) + pipe.vae.config.batch_norm_eps)
    unpatched: torch.Tensor = pipe._unpatchify_latents(
        patches * spread + bn.running_mean.view(1, -1, 1, 1).to(patches)
    )
    return unpatched
