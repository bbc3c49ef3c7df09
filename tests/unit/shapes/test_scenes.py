import itertools
from collections import Counter

import numpy as np
import pytest

from shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    PALETTE,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    held_out,
    one_thing_scenes,
    sample,
)

TESTED = [scene for scene in one_thing_scenes() if held_out(scene)]


def test_some_of_the_single_things_are_held_out_and_most_are_trained() -> None:
    assert 0.1 < len(TESTED) / len(one_thing_scenes()) < 0.2


def test_every_colour_shape_and_background_is_tested() -> None:
    assert {scene.background for scene in TESTED} == set(BACKGROUNDS)
    assert {scene.things[0].colour for scene in TESTED} == set(COLOURS)
    assert {scene.things[0].shape for scene in TESTED} == set(SHAPES)


def test_what_is_held_out_can_be_put_together_from_what_is_trained() -> None:
    trained = [scene for scene in one_thing_scenes() if not held_out(scene)]
    for scene in TESTED:
        thing = scene.things[0]
        assert any(other.things[0] == thing for other in trained)
        assert any(
            (other.background, other.things[0].colour) == (scene.background, thing.colour)
            for other in trained
        )
        assert any(
            (other.background, other.things[0].shape) == (scene.background, thing.shape) for other in trained
        )


def test_a_size_or_a_second_thing_does_not_bring_a_held_out_thing_into_training() -> None:
    scene = TESTED[0]
    thing = scene.things[0]
    assert held_out(Scene(scene.background, (Thing(thing.colour, thing.shape, "small"),)))
    for colour, shape, relation in itertools.product(COLOURS, SHAPES, RELATIONS):
        assert held_out(Scene(scene.background, (Thing(colour, shape), thing), relation))


@pytest.mark.parametrize("things", [1, 2])
def test_training_and_test_samples_are_disjoint(things: int) -> None:
    rng = np.random.default_rng(0)
    trained = {sample(rng, things, test=False) for _ in range(2000)}
    tested = {sample(rng, things, test=True) for _ in range(500)}
    assert not trained & tested


def test_samples_are_drawable_scenes() -> None:
    rng = np.random.default_rng(0)
    relations: Counter[str | None] = Counter()
    for _ in range(500):
        scene = sample(rng, 2, test=False)
        relations[scene.relation] += 1
        assert len(set(scene.things)) == 2
        assert scene.background not in {thing.colour for thing in scene.things}
    assert set(relations) == set(RELATIONS)


def test_colours_are_far_enough_apart_to_be_told_by_the_nearest_one() -> None:
    for one, other in itertools.combinations(PALETTE.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) >= 100
