"""Pictures beyond the model's native size: overlapping windows of the latents, averaged at each step.

MultiDiffusion (Bar-Tal et al., 2023, https://arxiv.org/abs/2302.08113): each step's prediction is the weighted mean of
the predictions for the windows that cover a place. The weights fall to the window's edges, so that no seam is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from imagefleet_runtime.worker.engine.merge import Layout

# A picture is tiled where a side is over so many times the native one: models draw somewhat larger pictures well, and
# better in one piece.
TOLERANCE = 1.5
# Neighbouring windows share at least this part of their side.
OVERLAP = 0.5


@dataclass(frozen=True)
class Windows:
    """``corners``: (top, left) of each window of ``height`` x ``width``; all in latent pixels, as is ``whole``."""

    whole: tuple[int, int]
    height: int
    width: int
    corners: tuple[tuple[int, int], ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


def plan(height: int, width: int, native: int) -> Windows | None:
    """Windows for latents of ``height`` x ``width``; None where the model draws them in one piece.

    Worked example: 16 x 8 latents of a model whose native side is 8: the height is over 1.5 x 8, so windows of 8 x 8 at
    tops 0, 4 and 8.
    """
    if max(height, width) <= TOLERANCE * native:
        return None
    tall, wide = min(height, native), min(width, native)
    corners = tuple((top, left) for top in _starts(height, tall) for left in _starts(width, wide))
    return Windows((height, width), tall, wide, corners)


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin so that they cover ``length`` evenly and overlap by OVERLAP at least."""
    room = length - window
    if room == 0:
        return [0]
    count = -(-room // max(int(window * (1 - OVERLAP)), 1))
    return [round(index * room / count) for index in range(count + 1)]


def weights(height: int, width: int) -> torch.Tensor:
    """``height`` x ``width``, largest in the middle and never 0: a triangle in each direction."""

    def ramp(length: int) -> torch.Tensor:
        places = torch.arange(length, dtype=torch.float32)
        return torch.minimum(places + 1, length - places)

    return ramp(height)[:, None] * ramp(width)[None, :]


def cut(windows: Windows, layout: Layout, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """One call for each window, with its part of the primary argument."""
    primary = arguments[layout.primary]
    return [
        {
            **arguments,
            layout.primary: primary[..., top : top + windows.height, left : left + windows.width],
        }
        for top, left in windows.corners
    ]


def join(windows: Windows, answers: list[Any]) -> Any:
    """The weighted mean of the windows' predictions: rows x channels x height x width."""
    first = answers[0]
    if not isinstance(first, torch.Tensor):
        return type(first)(join(windows, list(parts)) for parts in zip(*answers, strict=True))
    share = weights(windows.height, windows.width).to(first)
    height, width = windows.whole
    total = first.new_zeros(*first.shape[:2], height, width)
    weight = first.new_zeros(height, width)
    for (top, left), answer in zip(windows.corners, answers, strict=True):
        area = (..., slice(top, top + windows.height), slice(left, left + windows.width))
        total[area] += answer * share
        weight[area] += share
    return total / weight
