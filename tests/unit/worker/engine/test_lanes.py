"""How calls are spread over threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.engine.lanes import Lanes, Split


@pytest.mark.parametrize(
    ("threads", "batch", "seconds", "choice", "splits"),
    [
        (8, 4, 0.1, True, [Split(1, 8), Split(4, 2), Split(1, 1)]),
        (8, 4, 1.0, True, [Split(1, 8), Split(4, 2)]),
        (2, 16, 0.1, True, [Split(1, 2), Split(2, 1), Split(1, 1)]),
        (2, 1, 0.1, True, [Split(1, 2), Split(1, 1)]),
        (3, 2, 1.0, True, [Split(1, 3), Split(2, 1)]),
        (1, 16, 0.1, True, [Split(1, 1)]),
        (8, 4, 0.1, False, [Split(1, 8)]),
    ],
)
def test_what_is_tried_for_a_batch(
    threads: int, batch: int, seconds: float, choice: bool, splits: list[Split]
) -> None:
    assert Lanes(threads, choice=choice).candidates(batch, seconds) == splits


def test_work_that_was_not_measured_is_done_as_the_most_below_it_that_was() -> None:
    lanes = Lanes(4, choice=True)
    assert lanes.choose(100) == Split(1, 4), "nothing is known"
    lanes.learn(100, Split(1, 1))
    lanes.learn(400, Split(4, 1))
    assert [lanes.choose(pixels) for pixels in (50, 100, 399, 400, 9000)] == [
        Split(1, 1),
        Split(1, 1),
        Split(1, 1),
        Split(4, 1),
        Split(4, 1),
    ]


@given(calls=st.lists(st.integers(), min_size=1, max_size=20), count=st.integers(1, 5))
def test_every_call_gets_its_own_answer(calls: list[int], count: int) -> None:
    parts: list[int] = []

    def draw(part: Sequence[int]) -> list[int]:
        parts.append(len(part))
        return [call * 2 for call in part]

    assert Lanes(4, choice=True).run(Split(count, 1), draw, calls) == [call * 2 for call in calls]
    assert len(parts) == min(count, len(calls))
    assert max(parts) - min(parts) <= 1


def test_lanes_run_side_by_side_in_the_mode_of_the_caller() -> None:
    meeting = threading.Barrier(3)

    def draw(part: Sequence[int]) -> list[tuple[bool, bool]]:
        meeting.wait(timeout=30)  # none passes before all have come
        return [(torch.is_inference_mode_enabled(), torch.is_grad_enabled()) for _call in part]

    lanes = Lanes(3, choice=True)
    with torch.inference_mode():
        assert lanes.run(Split(3, 1), draw, [1, 2, 3]) == [(True, False)] * 3
    with torch.no_grad():
        assert lanes.run(Split(3, 1), draw, [1, 2, 3]) == [(False, False)] * 3


@pytest.mark.parametrize("culprit", [1, 2])
def test_a_lane_that_fails_is_heard_of_when_all_have_ended(culprit: int) -> None:
    ended: list[int] = []

    def draw(part: Sequence[int]) -> list[int]:
        if culprit in part:
            raise ValueError("broken")
        ended.extend(part)
        return list(part)

    with pytest.raises(ValueError, match="broken"):
        Lanes(2, choice=True).run(Split(2, 1), draw, [1, 2])
    assert ended == [3 - culprit]
