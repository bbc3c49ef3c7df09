"""Measure whether a picture shows what its prompt says. No learned part: the same picture always scores the same.

1. The background is what lies along the border; what differs from it and hangs together is a thing.
2. A thing's colour is the palette's nearest colour for most of its inner pixels.
3. Its shape is the template that covers it best (intersection over union), drawn with the thing's area and centre.
4. Relations compare centres; sizes compare areas.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from shapes.captions import UnknownPromptError, parse
from shapes.drawing import RADII, SIDE, Floats, Placed, cover
from shapes.scenes import PALETTE, SHAPES, Scene, Shape, Thing

__all__ = ["Score", "Seen", "UnknownPromptError", "look", "parse", "score"]

Mask = npt.NDArray[np.bool_]

DIFFERENT = 50.0  # half the least distance between two colours of the palette
MIN_AREA = 20  # pixels; the smallest thing that is ever drawn covers 85
PASS = 0.6  # what a part needs for the picture to be correct
MIN_FIT = 0.7  # intersection over union with the template
SIZE_LIMIT = (RADII["small"][1] + RADII["large"][0]) / 2  # pixels, between small and large


@dataclass(frozen=True)
class Score:
    """Each part in 0..1; `total` is their mean, `correct` says that each part alone is good enough."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        """The mean of the parts."""
        return sum(self.parts.values()) / len(self.parts)

    @property
    def correct(self) -> bool:
        """Whether the picture shows the whole prompt."""
        return min(self.parts.values()) >= PASS


@dataclass(frozen=True)
class Found:
    """A thing in a picture: the share of its inner pixels of each colour, and how well each shape fits it."""

    x: float
    y: float
    area: float
    colours: dict[str, float]
    fits: dict[Shape, float]

    def colour(self, name: str) -> float:
        """Share of the thing that has the colour."""
        return self.colours.get(name, 0.0)

    def shape(self, name: Shape) -> float:
        """1 where the shape fits best and well; else how well it fits, and too little to pass."""
        fit = self.fits[name]
        return 1.0 if fit == max(self.fits.values()) and fit >= MIN_FIT else min(fit, 0.5)

    def size(self, thing: Thing) -> float:
        """Whether the thing is as large as asked: its radius, were it the shape that was asked for."""
        radius = (self.area / _unit(thing.shape).area) ** 0.5
        return float((radius < SIZE_LIMIT) == (thing.size == "small"))


@dataclass(frozen=True)
class Seen:
    """What a picture shows: its things, and the share of the rest of its pixels that has each colour."""

    things: tuple[Found, ...]
    background: dict[str, float]


def score(image: Image.Image | npt.NDArray[np.uint8], prompt: str | Scene) -> Score:
    """Score a picture of any size (height, width, 3 in 0..255) against a prompt.

    Raises UnknownPromptError for prompts that `parse` does not understand.
    """
    scene = parse(prompt) if isinstance(prompt, str) else prompt
    seen = look(image)
    parts = {
        "background": seen.background.get(scene.background, 0.0),
        "count": 1 / (1 + abs(len(seen.things) - len(scene.things))),
    }
    return Score(parts | _best_match(scene, seen.things))


def look(image: Image.Image | npt.NDArray[np.uint8]) -> Seen:
    """What a picture of any size (height, width, 3 in 0..255) shows, whatever was asked for."""
    pixels = _pixels(image)
    border = np.concatenate(
        [pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), *pixels[:, [0, 1, -2, -1]]]
    )
    background = np.median(border, axis=0)
    different = np.linalg.norm(pixels - background, axis=-1) > DIFFERENT
    masks = [mask for mask in _components(different) if mask.sum() >= MIN_AREA]
    found = tuple(_measure(pixels, background, mask) for mask in masks)
    outside = ~_grow(np.any(masks, axis=0)) if masks else np.ones((SIDE, SIDE), bool)
    return Seen(found, _colour_shares(pixels[outside]))


def _best_match(scene: Scene, found: Sequence[Found]) -> dict[str, float]:
    """The parts of the things and their relation, for the pairing of asked and found things that scores best."""
    padded: list[Found | None] = [*found, *([None] * len(scene.things))]
    pairings = itertools.permutations(padded, len(scene.things))
    scored = (_parts(scene, pairing) for pairing in pairings)
    return max(scored, key=lambda parts: sum(parts.values()))


def _parts(scene: Scene, pairing: Sequence[Found | None]) -> dict[str, float]:
    parts: dict[str, float] = {}
    for number, (thing, found) in enumerate(zip(scene.things, pairing, strict=True), start=1):
        parts[f"colour {number}"] = found.colour(thing.colour) if found else 0.0
        parts[f"shape {number}"] = found.shape(thing.shape) if found else 0.0
        if thing.size:
            parts[f"size {number}"] = found.size(thing) if found else 0.0
    if scene.relation is not None:
        parts["relation"] = _relation(scene.relation, *pairing)
    return parts


def _relation(relation: str, first: Found | None, second: Found | None) -> float:
    """1 where the line between the two centres runs mostly in the direction that was asked for."""
    if first is None or second is None:
        return 0.0
    x, y = second.x - first.x, second.y - first.y
    return float(
        {"left of": x > abs(y), "right of": -x > abs(y), "above": y > abs(x), "below": -y > abs(x)}[relation]
    )


def _measure(pixels: Floats, background: Floats, mask: Mask) -> Found:
    inner = mask & ~_grow(~mask)
    inside = pixels[inner if inner.any() else mask]
    shares = _colour_shares(inside)
    # How far each pixel lies on the way from the background's colour to the thing's: what the thing covers of it.
    way = np.median(inside, axis=0) - background
    covered = np.clip((pixels - background) @ way / max(float(way @ way), 1.0), 0, 1) * _grow(mask)
    area = float(covered.sum())
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    x, y = float((covered * columns).sum() / area), float((covered * rows).sum() / area)
    fits = {shape: _fit(shape, covered, x, y, area) for shape in SHAPES}
    return Found(x, y, area, shares, fits)


def _fit(shape: Shape, covered: Floats, x: float, y: float, area: float) -> float:
    unit = _unit(shape)
    radius = (area / unit.area) ** 0.5
    template = cover(shape, Placed(x, y - unit.drop * radius, radius))
    return float(np.minimum(covered, template).sum() / np.maximum(covered, template).sum())


@dataclass(frozen=True)
class _Unit:
    """Of a shape with radius 1: its area, and how far its centre of mass lies below its centre."""

    area: float
    drop: float


@functools.cache
def _unit(shape: Shape) -> _Unit:
    radius = SIDE * 0.4
    covered = cover(shape, Placed(SIDE / 2, SIDE / 2, radius))
    rows = np.arange(SIDE) + 0.5 - SIDE / 2
    area = float(covered.sum())
    return _Unit(area / radius**2, float((covered.sum(axis=1) * rows).sum()) / area / radius)


def _pixels(image: Image.Image | npt.NDArray[np.uint8]) -> Floats:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture = picture.convert("RGB")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture, np.float32)


def _colour_shares(pixels: Floats) -> dict[str, float]:
    """Share of the pixels (n, 3) whose nearest colour of the palette is each one."""
    palette = np.array(list(PALETTE.values()), np.float32)
    nearest = np.linalg.norm(pixels[:, None] - palette, axis=-1).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(palette))
    return {name: float(count) / max(len(pixels), 1) for name, count in zip(PALETTE, counts, strict=True)}


def _grow(mask: Mask) -> Mask:
    """The mask and every pixel that touches it, also by a corner."""
    grown = mask.copy()
    for axis in (0, 1):
        before = grown.copy()
        for step in (-1, 1):
            moved = np.roll(before, step, axis)
            moved[(slice(None),) * axis + (0 if step == 1 else -1,)] = False
            grown |= moved
    return grown


def _components(mask: Mask) -> Iterable[Mask]:
    """The parts of the mask that hang together by sides or corners."""
    left = mask.copy()
    while left.any():
        part = np.zeros_like(mask)
        part[np.unravel_index(left.argmax(), left.shape)] = True
        while (grown := _grow(part) & mask).sum() > part.sum():
            part = grown
        left &= ~part
        yield part
