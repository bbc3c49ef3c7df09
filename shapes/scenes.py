"""What a picture shows: a background and one or two coloured shapes, and which of these are kept out of training."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

T = TypeVar("T")

Shape = Literal["circle", "square", "triangle", "star"]
Size = Literal["", "small", "large"]
Relation = Literal["left of", "right of", "above", "below"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
RELATIONS: tuple[Relation, ...] = get_args(Relation)
SIZES: tuple[Size, ...] = get_args(Size)

# Red, green, blue in 0..255. Any two are at least 100 apart, so that nearest-colour segmentation stays safe.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 70),
    "blue": (30, 90, 230),
    "yellow": (245, 205, 40),
    "purple": (160, 40, 200),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "gray": (150, 150, 150),
    "pink": (255, 150, 190),
}
COLOURS = ("red", "green", "blue", "yellow", "purple", "black", "white")
BACKGROUNDS = ("white", "black", "gray", "pink")

# One in so many pairs of things is never trained.
PAIR_HOLD_OUT = 8


@dataclass(frozen=True)
class Thing:
    """One shape. `size` is empty where the caption leaves it open."""

    colour: str
    shape: Shape
    size: Size = ""


@dataclass(frozen=True)
class Scene:
    """One thing, or two with how the first stands to the second (`relation` is None for one thing)."""

    background: str
    things: tuple[Thing, ...]
    relation: Relation | None = None


def one_thing_scenes() -> list[Scene]:
    """Every scene of one thing, without sizes."""
    return [
        Scene(background, (Thing(colour, shape),))
        for background, colour, shape in itertools.product(BACKGROUNDS, COLOURS, SHAPES)
        if colour != background
    ]


def held_out(scene: Scene) -> bool:
    """Whether the scene is for tests only: one of its colour-shape-background triples is, or its pair of things is.

    Of each shape on each background one colour is held out; every pair of colour, shape and background is trained.
    """
    if any(_triple_held_out(thing, scene.background) for thing in scene.things):
        return True
    pair = " ".join(f"{thing.colour} {thing.shape}" for thing in scene.things)
    digest = hashlib.sha256(f"{pair} {scene.relation}".encode()).digest()
    return scene.relation is not None and digest[0] % PAIR_HOLD_OUT == 0


def sample(rng: np.random.Generator, things: int, *, test: bool) -> Scene:
    """A random scene of one or two things: a held-out one for tests, any other for training."""
    while True:
        scene = _any_scene(rng, things)
        if held_out(scene) == test:
            return scene


def _any_scene(rng: np.random.Generator, things: int) -> Scene:
    background = _choice(rng, BACKGROUNDS)
    colours = [colour for colour in COLOURS if colour != background]
    drawn = [Thing(_choice(rng, colours), _choice(rng, SHAPES)) for _ in range(things)]
    if things == 1:
        thing = drawn[0]
        return Scene(background, (Thing(thing.colour, thing.shape, _choice(rng, SIZES)),))
    if drawn[0] == drawn[1]:
        return _any_scene(rng, things)
    return Scene(background, tuple(drawn), _choice(rng, RELATIONS))


def _choice(rng: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(rng.integers(len(values)))]


def _triple_held_out(thing: Thing, background: str) -> bool:
    place = COLOURS.index(thing.colour) + 2 * SHAPES.index(thing.shape) + 3 * BACKGROUNDS.index(background)
    return place % len(COLOURS) == 3
