"""A seed gives the same picture alone or in any batch, and it is the one that unmodified diffusers draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.messages import Draw

from tests.integration.engine.examples import A_FEW
from tests.integration.engine.limits import FAMILIES, OTHER, SAME

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

    from tests.integration.engine.bare import Bare

PROMPTS = ("a red circle", "a big blue square above a small green circle on white", "")

Find = Callable[[str], Any]


@dataclass(frozen=True)
class Visit:
    """A drawing that joins at a round and, where ``stays`` is not None, is cancelled so many rounds later."""

    draw: Draw
    joins: int
    stays: int | None


def _draws() -> st.SearchStrategy[Draw]:
    from tests.integration.engine.drawing import mask, picture, request

    modes = st.sampled_from(
        [
            {},
            {"image": picture(), "strength": 0.6},
            {"image": picture(), "mask": mask(), "strength": 1.0},
        ]
    )
    text_to_image = st.just({"width": 80})  # another size: never in one batch with the others
    return st.builds(
        lambda mode, **fields: request(**fields, **mode),
        mode=modes | text_to_image,
        prompt=st.sampled_from(PROMPTS),
        steps=st.integers(2, 6),
        guidance_scale=st.sampled_from([1.0, 4.0]),
        seed=st.integers(1, 3),
    )


def _visits() -> st.SearchStrategy[list[Visit]]:
    visit = st.builds(
        Visit, draw=_draws(), joins=st.integers(0, 5), stays=st.none() | st.none() | st.integers(0, 4)
    )
    return st.lists(visit, min_size=2, max_size=6).map(
        lambda visits: [
            replace(visit, draw=replace(visit.draw, id=number)) for number, visit in enumerate(visits)
        ]
    )


class _Play:
    """Runs visits to their end."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.drawn: dict[int, Any] = {}
        self.cancelled: set[int] = set()

    def run(self, visits: list[Visit]) -> None:
        for number in range(max(visit.joins + (visit.stays or 0) for visit in visits) + 1):
            self._turn(visits, number)
        while len(self._pipeline.hub):
            self._collect(self._pipeline.hub.round())

    def _turn(self, visits: list[Visit], number: int) -> None:
        for visit in visits:
            if visit.joins == number:
                self._pipeline.start(visit.draw, lambda _index, _pixels: None)
            if visit.stays is not None and visit.joins + visit.stays == number:
                self._pipeline.hub.cancel(visit.draw.id)
        self._collect(self._pipeline.hub.round())

    def _collect(self, ended: Any) -> None:
        from imagefleet_runtime.worker.engine.hub import CancelledError

        self.drawn.update({drawing.id: pixels for drawing, pixels in ended.results})
        for drawing, error in ended.errors:
            assert isinstance(error, CancelledError), error
            self.cancelled.add(drawing.id)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_schedule_gives_the_pictures_of_bare_diffusers(
    engine: Callable[[str], Pipeline], bare: Callable[[str], Bare], family: str
) -> None:
    import torch
    from imagefleet_runtime.worker.engine.lanes import Split

    from tests.integration.engine.drawing import difference

    pipeline, reference = engine(family), bare(family)

    @A_FEW
    @given(visits=_visits(), lanes=st.integers(1, 3))
    def check(visits: list[Visit], lanes: int) -> None:
        play = _Play(pipeline)
        pipeline.lanes.learn(0, Split(lanes, 1))
        with torch.inference_mode():
            play.run(visits)
        assert len(play.drawn) + len(play.cancelled) == len(visits)
        assert play.cancelled <= {visit.draw.id for visit in visits if visit.stays is not None}
        for visit in visits:
            if visit.draw.id in play.drawn:
                alone = reference.draw(replace(visit.draw, id=0))
                assert difference(play.drawn[visit.draw.id], alone) < SAME

    check()
    pipeline.lanes.learn(0, Split(1, 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_drawings_side_by_side_share_the_denoisers_calls(
    engine: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    from tests.integration.engine.drawing import count_rows, request, run

    pipeline = engine(family)
    rows = count_rows(pipeline, monkeypatch)
    steps = {1: 2, 2: 4, 3: 3}
    draws = [
        request(id=number, steps=count, prompt=PROMPTS[number - 1], guidance_scale=1.0)
        for number, count in steps.items()
    ]
    drawn = run(pipeline, draws)
    assert set(drawn) == set(steps)
    assert len(rows) == max(steps.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_request_asks_for_is_seen_in_its_picture(
    engine: Callable[[str], Pipeline], family: str
) -> None:
    """Else pictures mixed up between requests would not be found out."""
    from tests.integration.engine.drawing import difference, draw_one, request

    pipeline = engine(family)
    first = request(steps=4)
    changed: dict[str, Any] = {"prompt": PROMPTS[1], "seed": 2, "steps": 6}
    drawn = draw_one(pipeline, first)
    for name, value in changed.items():
        other = draw_one(pipeline, replace(first, **{name: value}))
        assert difference(drawn, other) > OTHER, name
