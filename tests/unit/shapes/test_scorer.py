from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from shapes.captions import plain
from shapes.drawing import Placed, draw, render
from shapes.scenes import SHAPES, Scene, Thing, sample
from shapes.scorer import UnknownPromptError, score

RED_CIRCLE, BLUE_SQUARE = Thing("red", "circle"), Thing("blue", "square")
ONE = Scene("white", (RED_CIRCLE,))
TWO = Scene("white", (RED_CIRCLE, BLUE_SQUARE), "above")
SMALL = Scene("white", (replace(RED_CIRCLE, size="small"),))

Picture = npt.NDArray[np.uint8]


def picture(scene: Scene, seed: int = 0) -> Picture:
    drawn: Picture = draw([scene], np.random.default_rng(seed))[0]
    return drawn


def true_pictures(count: int) -> list[tuple[Picture, Scene]]:
    rng = np.random.default_rng(1)
    scenes = [sample(rng, 1 + index % 2, test=bool(index % 3)) for index in range(count)]
    return list(zip(draw(scenes, rng), scenes, strict=True))


def test_true_pictures_are_right() -> None:
    pictures = true_pictures(200)
    right = [score(pixels, plain(scene)).correct for pixels, scene in pictures]
    assert sum(right) >= 0.99 * len(right)


def test_blur_and_noise_do_not_matter() -> None:
    pictures = true_pictures(100)
    noise = np.random.default_rng(0)
    right = 0
    for pixels, scene in pictures:
        rough = np.clip(pixels + noise.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        blurred = Image.fromarray(rough).filter(ImageFilter.GaussianBlur(0.8))
        right += score(blurred, scene).correct
    assert right >= 97


@pytest.mark.parametrize("side", [64, 128, 192])
def test_a_larger_picture_scores_the_same(side: int) -> None:
    large = Image.fromarray(picture(TWO)).resize((side, side), Image.Resampling.NEAREST)
    assert score(large, TWO).correct


@pytest.mark.parametrize(
    ("asked", "shown", "wrong"),
    [
        (ONE, Scene("pink", (RED_CIRCLE,)), {"background"}),
        (ONE, Scene("white", (replace(RED_CIRCLE, colour="green"),)), {"colour 1"}),
        (ONE, Scene("white", (replace(RED_CIRCLE, shape="square"),)), {"shape 1"}),
        (SMALL, Scene("white", (replace(RED_CIRCLE, size="large"),)), {"size 1"}),
        (replace(SMALL, things=(replace(RED_CIRCLE, size="large"),)), SMALL, {"size 1"}),
        (ONE, TWO, {"count"}),
        (TWO, replace(TWO, relation="below"), {"relation"}),
        (TWO, replace(TWO, relation="left of"), {"relation"}),
        (TWO, replace(TWO, things=(RED_CIRCLE, RED_CIRCLE)), {"colour 2", "shape 2"}),
        (TWO, ONE, {"count", "colour 2", "shape 2", "relation"}),
        (ONE, Scene("black", (Thing("yellow", "star"),)), {"background", "colour 1", "shape 1"}),
    ],
)
def test_what_is_wrong_with_a_picture_is_named(asked: Scene, shown: Scene, wrong: set[str]) -> None:
    result = score(picture(shown), plain(asked))
    assert {name for name, part in result.parts.items() if part < 0.6} == wrong
    assert not result.correct
    assert result.total < score(picture(asked), plain(asked)).total - 0.1


def test_swapped_colours_are_wrong() -> None:
    swapped = replace(TWO, things=(replace(RED_CIRCLE, colour="blue"), replace(BLUE_SQUARE, colour="red")))
    assert not score(picture(swapped), TWO).correct


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("other", SHAPES)
def test_shapes_are_told_apart_at_the_smallest_size(shape: str, other: str) -> None:
    things = {name: Scene("gray", (Thing("yellow", name),)) for name in SHAPES}
    (shown,) = render([things[shape]], [(Placed(30.3, 33.7, 8),)])  # type: ignore[index]
    assert score(shown, things[other]).correct == (shape == other)  # type: ignore[index]


@pytest.mark.parametrize("value", [0, 127, 255])
def test_an_empty_picture_scores_low(value: int) -> None:
    result = score(np.full((64, 64, 3), value, np.uint8), "a red circle on white")
    assert not result.correct
    assert result.total <= 0.5


def test_noise_scores_low() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    result = score(pixels, "a red circle above a blue square on white")
    assert not result.correct
    assert result.total < 0.4


def test_a_prompt_about_something_else_cannot_be_scored() -> None:
    with pytest.raises(UnknownPromptError):
        score(picture(ONE), "a photo of a cat")
