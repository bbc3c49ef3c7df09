"""Windows over latents that are larger than a model's own."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_runtime.worker.engine import tiles
from imagefleet_runtime.worker.engine.merge import LAYOUTS


@pytest.mark.parametrize(
    ("height", "width", "native", "corners"),
    [
        (8, 8, 8, None),
        (12, 12, 8, None),  # 1.5 times: in one piece
        (16, 8, 8, ((0, 0), (4, 0), (8, 0))),
        (13, 8, 8, ((0, 0), (2, 0), (5, 0))),
        (16, 16, 8, tuple((top, left) for top in (0, 4, 8) for left in (0, 4, 8))),
        (4, 24, 8, ((0, 0), (0, 4), (0, 8), (0, 12), (0, 16))),
    ],
)
def test_windows_are_laid(
    height: int, width: int, native: int, corners: tuple[tuple[int, int], ...] | None
) -> None:
    windows = tiles.plan(height, width, native)
    assert (windows.corners if windows else None) == corners


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), native=st.integers(2, 24))
def test_windows_cover_everything_and_overlap(height: int, width: int, native: int) -> None:
    windows = tiles.plan(height, width, native)
    if windows is None:
        assert max(height, width) <= 1.5 * native
        return
    covered = torch.zeros(height, width)
    for top, left in windows.corners:
        assert 0 <= top <= height - windows.height
        assert 0 <= left <= width - windows.width
        covered[top : top + windows.height, left : left + windows.width] += 1
    assert covered.min() >= 1
    lefts = sorted({left for _top, left in windows.corners})
    assert all(after - before <= max(windows.width / 2 + 1, 1) for before, after in itertools.pairwise(lefts))


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_weights_fall_to_the_edges_and_are_never_zero(height: int, width: int) -> None:
    share = tiles.weights(height, width)
    assert share.shape == (height, width)
    assert share.min() >= 1
    assert share[0, 0] == share.min()
    assert share[height // 2, width // 2] == share.max()


@settings(deadline=None)
@given(width=st.integers(13, 60))
def test_what_is_cut_and_joined_is_what_it_was(width: int) -> None:
    windows = tiles.plan(8, width, 8)
    assert windows is not None
    latents = torch.randn(2, 4, 8, width)
    words = torch.zeros(2, 77, 3)
    calls = tiles.cut(
        windows, LAYOUTS["UNet2DConditionModel"], {"sample": latents, "encoder_hidden_states": words}
    )
    assert len(calls) == len(windows.corners)
    assert all(call["encoder_hidden_states"] is words for call in calls)
    assert torch.allclose(tiles.join(windows, [call["sample"] for call in calls]), latents, atol=1e-5)
    (joined,) = tiles.join(windows, [(call["sample"],) for call in calls])
    assert torch.allclose(joined, latents, atol=1e-5)


def test_places_are_the_weighted_mean_of_their_windows() -> None:
    windows = tiles.plan(1, 6, 3)
    assert windows is not None
    assert [left for _top, left in windows.corners] == [0, 1, 2, 3]
    answers = [torch.full((1, 1, 1, 3), float(number)) for number in range(4)]
    # Column 2 is the last of window 0 (weight 1), the middle of window 1 (2) and the first of window 2 (1).
    assert tiles.join(windows, answers)[0, 0, 0].tolist() == pytest.approx([0, 1 / 3, 1, 2, 8 / 3, 3])
