import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapes.captions import UnknownPromptError, caption, parse, plain
from shapes.scenes import Scene, Thing, sample

RED_CIRCLE, BLUE_SQUARE = Thing("red", "circle"), Thing("blue", "square")


@given(seed=st.integers(0, 2**32 - 1), things=st.sampled_from([1, 2]), test=st.booleans())
def test_every_caption_says_what_its_scene_is(seed: int, things: int, test: bool) -> None:
    rng = np.random.default_rng(seed)
    scene = sample(rng, things, test=test)
    assert parse(plain(scene)) == scene
    assert parse(caption(scene, rng)) == scene


@pytest.mark.parametrize(
    ("prompt", "want"),
    [
        ("a red circle", Scene("white", (RED_CIRCLE,))),
        ("A Red Circle, on pink.", Scene("pink", (RED_CIRCLE,))),
        ("red circle on a black background", Scene("black", (RED_CIRCLE,))),
        ("a large red circle on gray", Scene("gray", (Thing("red", "circle", "large"),))),
        ("a red circle above a blue square on white", Scene("white", (RED_CIRCLE, BLUE_SQUARE), "above")),
        (
            "a picture of a red circle to the left of a blue square",
            Scene("white", (RED_CIRCLE, BLUE_SQUARE), "left of"),
        ),
        ("a white star on the black background", Scene("black", (Thing("white", "star"),))),
    ],
)
def test_prompts_are_understood_in_any_phrasing_near_the_captions(prompt: str, want: Scene) -> None:
    assert parse(prompt) == want


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a photo of a cat", "0 found"),
        ("", "0 found"),
        ("a circle on white", "0 found"),
        ("a red circle and a blue square", "say how the two shapes stand"),
        ("a red circle above a blue square above a green star", "3 found"),
    ],
)
def test_a_prompt_that_says_too_little_or_too_much_is_refused_with_what_is_missing(
    prompt: str, says: str
) -> None:
    with pytest.raises(UnknownPromptError, match=says):
        parse(prompt)


def test_one_scene_is_told_in_several_ways() -> None:
    rng = np.random.default_rng(0)
    scene = Scene("white", (RED_CIRCLE, BLUE_SQUARE), "left of")
    told = {caption(scene, rng) for _ in range(100)}
    assert {
        "a red circle left of a blue square",
        "a red circle to the left of a blue square on white",
    } <= told
