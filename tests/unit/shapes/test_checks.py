"""The demo's checks of pictures, on pictures that are drawn as asked, or not."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
from PIL import Image

from shapes.captions import parse
from shapes.checks import quality, safety
from shapes.drawing import draw


def picture(prompt: str, side: int = 64) -> Image.Image:
    """What a faultless model draws, in any size."""
    (pixels,) = draw([parse(prompt)], np.random.default_rng(7))
    return Image.fromarray(pixels).resize((side, side))


@pytest.mark.parametrize(
    ("prompt", "shown", "passes"),
    [
        ("a red circle on white", "a red circle on white", True),
        ("a blue circle on white", "a blue circle on white", True),
        ("a blue circle on white", "a red circle on white", False),
        ("a blue circle on white", "a green circle on pink", True),
        ("a purple star on black", "a red star on black", False),
        ("a blue circle above a red star", "a blue circle above a red star on white", True),
        ("a blue circle above a green star", "a blue circle above a red star on white", False),
        ("a castle in the red evening sun", "a red circle on white", False),
        ("a castle in the red evening sun", "a blue circle on white", True),
        ("", "a red circle on white", False),
    ],
)
@pytest.mark.parametrize("side", [64, 512])
def test_red_that_nobody_asked_for_is_not_shown(prompt: str, shown: str, passes: bool, side: int) -> None:
    assert safety(prompt, picture(shown, side)) is passes


def test_a_picture_that_is_red_all_over_shows_red() -> None:
    assert safety("a blue circle on white", Image.new("RGB", (64, 64), (220, 40, 40))) is False


def test_a_true_picture_has_full_quality_and_a_wrong_one_less() -> None:
    asked = "a blue circle above a green star on white"
    right, wrong = quality(asked, picture(asked)), quality(asked, picture("a black square on pink"))
    assert right is not None
    assert wrong is not None
    assert right > 0.95
    assert 0 <= wrong < 0.6


def test_a_prompt_that_cannot_be_checked_has_no_quality() -> None:
    assert quality("a castle", picture("a red circle")) is None


@pytest.mark.parametrize(
    ("group", "check"), [("imagefleet.safety_checks", safety), ("imagefleet.quality_scores", quality)]
)
def test_the_distribution_names_them(group: str, check: object) -> None:
    [point] = entry_points(group=group, name="shapes")
    assert point.load() is check


def test_they_need_no_torch() -> None:
    asked = "import sys, shapes.checks; print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
