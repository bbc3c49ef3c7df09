"""Partial pictures: their number, and that they come closer and closer to the finished one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.integration.engine.limits import FAMILIES

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline


def _draw(pipeline: Pipeline, **fields: Any) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]:
    """The previews and the picture of a request, as bytes."""
    from imagefleet_runtime.worker.images import to_pixels

    from tests.integration.engine.drawing import finish, request

    seen: dict[int, Any] = {}
    draw = request(**fields)
    pipeline.start(draw, lambda index, pixels: seen.update({index: pixels}))
    drawn = finish(pipeline)[draw.id]
    assert not isinstance(drawn, Exception)
    assert list(seen) == list(range(len(seen)))
    return list(seen.values()), to_pixels(drawn)


def _distance(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_preview_is_closer_to_the_picture_than_the_one_before(
    engine: Callable[[str], Pipeline], family: str
) -> None:
    previews, picture = _draw(engine(family), previews=3, steps=12, width=96)
    assert [preview.shape for preview in previews] == [picture.shape] * 3
    distances = [_distance(preview, picture) for preview in previews]
    assert distances == sorted(distances, reverse=True)
    other, _picture = _draw(engine(family), previews=1, steps=12, width=96, seed=8)
    assert distances[-1] < _distance(other[0], picture)


@pytest.mark.parametrize(
    ("previews", "steps", "expected"), [(0, 6, 0), (1, 6, 1), (3, 6, 3), (3, 2, 1), (2, 1, 0)]
)
def test_there_are_as_many_as_were_asked_for_and_steps_allow(
    engine: Callable[[str], Pipeline], previews: int, steps: int, expected: int
) -> None:
    found, _picture = _draw(engine("stable_diffusion"), previews=previews, steps=steps)
    assert len(found) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_drawn_over_a_picture_has_previews_too(
    engine: Callable[[str], Pipeline], family: str
) -> None:
    from tests.integration.engine.drawing import mask, picture

    for fields in ({"strength": 0.5}, {"mask": mask(), "strength": 1.0}):
        previews, drawn = _draw(engine(family), previews=2, steps=8, image=picture(), **fields)
        assert [preview.shape for preview in previews] == [drawn.shape] * 2


def test_previews_change_nothing(engine: Callable[[str], Pipeline]) -> None:
    (_previews, seen), (_none, unseen) = (_draw(engine("flux"), previews=count, steps=6) for count in (3, 0))
    assert np.array_equal(seen, unseen)


def test_previews_of_large_pictures_are_small(
    engine: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    from imagefleet_runtime.worker.engine import previews

    monkeypatch.setattr(previews, "MAX_SIDE", 64)
    found, picture = _draw(engine("stable_diffusion"), previews=1, width=128, height=64)
    assert picture.shape == (64, 128, 3)
    assert found[0].shape == (32, 64, 3)
