"""From scenes to captions and back, and the words that captions are made of."""

from __future__ import annotations

import re

import numpy as np

from shapes.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Relation, Scene, Shape, Size, Thing

DEFAULT_BACKGROUND = "white"
OPENINGS = ("", "", "a picture of ", "a drawing of ", "an image of ")
WORDS = tuple(
    sorted(
        {*COLOURS, *BACKGROUNDS, *SHAPES, "small", "large", "a", "on", "to", "the", "background"}
        | {word for text in (*RELATIONS, *OPENINGS) for word in text.split()}
    )
)

_THING = re.compile(rf"\b(?:(small|large) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
_RELATION = re.compile(rf"\b({'|'.join(RELATIONS)})\b")
_BACKGROUND = re.compile(rf"\bon (?:(?:a|the) )?({'|'.join(BACKGROUNDS)})\b(?! (?:{'|'.join(SHAPES)})\b)")
_SIZES: dict[str, Size] = {"": "", "small": "small", "large": "large"}
_BY_SHAPE: dict[str, Shape] = {shape: shape for shape in SHAPES}
_BY_RELATION: dict[str, Relation] = {relation: relation for relation in RELATIONS}


class UnknownPromptError(ValueError):
    """The prompt names nothing that these pictures can show."""


def plain(scene: Scene) -> str:
    """The shortest full caption: "a red circle above a blue square on white"."""
    return f"{_things(scene, scene.relation)} on {scene.background}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of several phrasings; a white background is sometimes left out."""
    relation = scene.relation
    phrase = f"to the {relation}" if relation in ("left of", "right of") and rng.random() < 0.5 else relation
    endings = [f" on {scene.background}", f" on a {scene.background} background"]
    if scene.background == DEFAULT_BACKGROUND:
        endings.append("")
    opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
    return opening + _things(scene, phrase) + endings[int(rng.integers(len(endings)))]


def parse(prompt: str) -> Scene:
    """The scene that a prompt asks for, in a phrasing near the captions'; white where no background is named.

    Raises UnknownPromptError where no coloured shape is named, more than two are, or two stand in no known relation.
    """
    text = " ".join(prompt.lower().replace(",", " ").replace(".", " ").split())
    things = tuple(
        Thing(colour, _BY_SHAPE[shape], _SIZES[size or ""]) for size, colour, shape in _THING.findall(text)
    )
    background = _BACKGROUND.search(text)
    relation = _RELATION.search(text)
    if len(things) not in (1, 2):
        raise UnknownPromptError(
            f"name one or two of the shapes {', '.join(SHAPES)}, each with one of the colours {', '.join(COLOURS)}: "
            f"{len(things)} found"
        )
    if len(things) == 2 and relation is None:
        raise UnknownPromptError(f"say how the two shapes stand: {', '.join(RELATIONS)}")
    return Scene(
        background.group(1) if background else DEFAULT_BACKGROUND,
        things,
        _BY_RELATION[relation.group(1)] if relation and len(things) == 2 else None,
    )


def _things(scene: Scene, relation: str | None) -> str:
    words = [_thing(thing) for thing in scene.things]
    return words[0] if relation is None else f"{words[0]} {relation} {words[1]}"


def _thing(thing: Thing) -> str:
    return f"a {thing.size} {thing.colour} {thing.shape}".replace("  ", " ")
