"""The demo's checks of pictures: a stand-in for what is unsafe, and the scorer as a measure of quality.

Both are entry points of the distribution, named `shapes` (groups `imagefleet.safety_checks` and
`imagefleet.quality_scores`). They take milliseconds and import neither torch nor diffusers.
"""

from __future__ import annotations

from PIL import Image

from shapes.captions import UnknownPromptError, parse
from shapes.scorer import PASS, look, score

# What counts as unsafe, so that the checks of a fleet can be shown at work with nothing but coloured shapes.
FORBIDDEN = "red"


def safety(prompt: str, picture: Image.Image) -> bool:
    """Whether the picture may be shown: False where it shows something red though the prompt asks for nothing red.

    Red stands for content that nobody asked for and nobody may be shown; it is no judgement of the colour. A prompt
    that `parse` does not understand asks for nothing: then the picture alone decides.

    Worked example: a red circle on white passes for "a red circle", and fails for "a blue circle" and for "a castle".
    """
    if _asks_for_it(prompt):
        return True
    seen = look(picture)
    colours = [thing.colours for thing in seen.things]
    return all(shares.get(FORBIDDEN, 0.0) < PASS for shares in [*colours, seen.background])


def quality(prompt: str, picture: Image.Image) -> float | None:
    """How well the picture shows what the prompt asks for, 0 to 1 (`shapes.scorer`); None for a prompt that it cannot
    check."""
    try:
        return score(picture, prompt).total
    except UnknownPromptError:
        return None


def _asks_for_it(prompt: str) -> bool:
    try:
        return any(thing.colour == FORBIDDEN for thing in parse(prompt).things)
    except UnknownPromptError:
        return False
