import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapes.drawing import JITTER, RADII, SIDE, Placed, cover, draw, layout, render
from shapes.scenes import PALETTE, RELATIONS, SHAPES, SIZES, Relation, Scene, Shape, Size, Thing

SEEDS = st.integers(0, 2**32 - 1)


@given(seed=SEEDS, size=st.sampled_from(SIZES))
def test_a_single_thing_has_its_size_and_lies_inside_the_picture(seed: int, size: Size) -> None:
    (place,) = layout(Scene("white", (Thing("red", "star", size),)), np.random.default_rng(seed))
    low, high = RADII[size]
    assert low <= place.radius <= high
    for centre in (place.x, place.y):
        assert abs(centre - SIDE / 2) <= JITTER
        assert place.radius + 2 < centre < SIDE - place.radius - 2


@given(seed=SEEDS, relation=st.sampled_from(RELATIONS))
def test_two_things_stand_as_asked_and_never_touch(seed: int, relation: Relation) -> None:
    scene = Scene("white", (Thing("red", "circle"), Thing("blue", "square")), relation)
    first, second = layout(scene, np.random.default_rng(seed))
    x, y = second.x - first.x, second.y - first.y
    along, across = (x, y) if relation in ("left of", "right of") else (y, x)
    assert (along > 0) == (relation in ("left of", "above"))
    assert abs(across) < abs(along)
    assert abs(along) > first.radius + second.radius


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_its_centre_and_nothing_beyond_its_radius(shape: Shape) -> None:
    covered = cover(shape, Placed(32, 32, 16))
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    assert covered[31:33, 31:33].min() == 1
    assert covered[np.hypot(rows - 32, columns - 32) > 16 * 1.3].max() == 0


def test_edges_are_smooth() -> None:
    covered = cover("circle", Placed(32, 32, 16))
    assert ((covered > 0.05) & (covered < 0.95)).sum() > 50
    assert covered.sum() == pytest.approx(np.pi * 16**2, rel=0.01)


def test_pictures_show_the_colours_of_the_palette() -> None:
    scene = Scene("pink", (Thing("green", "square"), Thing("black", "circle")), "left of")
    (picture,) = render([scene], [(Placed(16, 32, 10), Placed(48, 32, 10))])
    assert picture.shape == (SIDE, SIDE, 3)
    assert tuple(picture[0, 0]) == PALETTE["pink"]
    assert tuple(picture[32, 16]) == PALETTE["green"]
    assert tuple(picture[32, 48]) == PALETTE["black"]


def test_the_same_seed_draws_the_same_pictures() -> None:
    scenes = [Scene("white", (Thing("red", shape),)) for shape in SHAPES]
    first, again = (draw(scenes, np.random.default_rng(3)) for _ in range(2))
    assert (first == again).all()
