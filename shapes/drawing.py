"""Draw scenes as 64x64 pictures, many at once, with anti-aliased edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shapes.scenes import PALETTE, Scene, Shape, Size

SIDE = 64

Floats = npt.NDArray[np.floating]

# Radii in pixels. What a caption leaves open lies between small and large.
RADII: dict[Size, tuple[float, float]] = {"small": (9, 11), "large": (22, 25), "": (15, 18)}
PAIR_RADII = (9, 11)
# Pixels. Things stand near the middle, or near their half's, so that a prompt decides nearly all of its picture. With
# free places most of the squared error is about where things are, and a small network is slow to learn what words mean.
JITTER = 3.0
OFFSET = 15.0  # of each of two things from the middle

_SQUARE = 0.88  # half side of a square over its radius: the circle's area, so that area alone tells nothing
_STAR_INNER = 0.45  # inner over outer radius of the five-pointed star


@dataclass(frozen=True)
class Placed:
    """Where a thing is drawn: centre and radius in pixels."""

    x: float
    y: float
    radius: float


def layout(scene: Scene, rng: np.random.Generator) -> tuple[Placed, ...]:
    """Random places for the scene's things that agree with its sizes and its relation; things never touch."""
    middle = SIDE / 2
    if scene.relation is None:
        radius = rng.uniform(*RADII[scene.things[0].size])
        x, y = middle + rng.uniform(-JITTER, JITTER, 2)
        return (Placed(float(x), float(y), radius),)
    along = [
        middle - OFFSET + rng.uniform(-JITTER, JITTER) / 2,
        middle + OFFSET + rng.uniform(-JITTER, JITTER) / 2,
    ]
    if scene.relation in ("right of", "below"):
        along.reverse()
    across = [middle + rng.uniform(-JITTER, JITTER) for _ in along]
    radii = [rng.uniform(*PAIR_RADII) for _ in along]
    if scene.relation in ("above", "below"):
        along, across = across, along
    return tuple(Placed(*place) for place in zip(along, across, radii, strict=True))


def draw(scenes: Sequence[Scene], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Pictures of the scenes at random places: (n, 64, 64, 3)."""
    return render(scenes, [layout(scene, rng) for scene in scenes])


def render(scenes: Sequence[Scene], places: Sequence[tuple[Placed, ...]]) -> npt.NDArray[np.uint8]:
    """Pictures of the scenes at the given places: (n, 64, 64, 3)."""
    backgrounds = np.array([PALETTE[scene.background] for scene in scenes], np.float32)
    pictures = np.broadcast_to(backgrounds[:, None, None, :], (len(scenes), SIDE, SIDE, 3)).copy()
    for index in range(2):
        rows = [row for row, scene in enumerate(scenes) if len(scene.things) > index]
        things = [scenes[row].things[index] for row in rows]
        for shape in sorted({thing.shape for thing in things}):
            chosen = [row for row, thing in zip(rows, things, strict=True) if thing.shape == shape]
            where = np.array([_values(places[row][index]) for row in chosen], np.float32)
            colours = np.array([PALETTE[scenes[row].things[index].colour] for row in chosen], np.float32)
            covered = _cover(shape, where)[..., None]
            pictures[chosen] += covered * (colours[:, None, None, :] - pictures[chosen])
    return np.rint(pictures).astype(np.uint8)


def cover(shape: Shape, place: Placed) -> Floats:
    """How much of each pixel a shape covers: (64, 64) in 0..1."""
    covered: Floats = _cover(shape, np.array([_values(place)], np.float32))[0]
    return covered


def _values(place: Placed) -> tuple[float, float, float]:
    return place.x, place.y, place.radius


def _cover(shape: Shape, where: Floats) -> Floats:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5
    radius = where[:, 2, None, None]
    distance = _distance(
        shape, (x - where[:, 0, None, None]) / radius, (y - where[:, 1, None, None]) / radius
    )
    return _antialias(distance * radius)


def _antialias(distance: Floats) -> Floats:
    """Coverage of a pixel whose centre lies `distance` pixels outside the edge."""
    covered: Floats = np.clip(0.5 - distance, 0, 1).astype(np.float32)
    return covered


def _distance(shape: Shape, x: Floats, y: Floats) -> Floats:
    """Signed distance to the edge of the unit shape (negative inside), y down; exact near straight edges."""
    distance: Floats
    if shape == "circle":
        distance = np.hypot(x, y) - 1
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - _SQUARE
    elif shape == "triangle":
        distance = np.maximum(y - 0.5, np.sqrt(3) / 2 * np.abs(x) - y / 2 - 0.5)
    else:
        distance = _star_distance(x, y)
    return distance


def _star_distance(x: Floats, y: Floats) -> Floats:
    """Fold the plane into half a point of the star, then measure to its one edge."""
    sector = 2 * np.pi / 5
    angle = np.arctan2(np.abs(x), -y)
    angle = np.abs((angle + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    inner_x, inner_y = _STAR_INNER * np.cos(sector / 2), _STAR_INNER * np.sin(sector / 2)
    length = np.hypot(1 - inner_x, inner_y)
    distance: Floats = (inner_y * (along - 1) + (1 - inner_x) * across) / length
    return distance
