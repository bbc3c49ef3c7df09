"""Pictures beyond a model's native size: drawn in overlapping windows, without seams."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

from tests.integration.engine.limits import SAME

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

    from tests.integration.engine.bare import Bare

FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3")
# The tiny models' native side, in pixels.
NATIVE = 64


def _gradient(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean change from each column to the next: width - 1 values."""
    changes: npt.NDArray[np.float32] = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2))
    return changes


def _sees_its_window(**arguments: Any) -> Any:
    """A denoiser whose answer depends on the place in the window: the hardest case, a saw over the whole picture."""
    import torch

    sample = arguments["sample"]
    saw = torch.linspace(-1, 1, sample.shape[-1], device=sample.device)
    return (0.5 * sample + saw,)


def test_windows_leave_no_seams(engine: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels change no more across the columns where a window begins or ends than they do elsewhere."""
    from imagefleet_runtime.worker.engine import tiles

    from tests.integration.engine.drawing import denoiser_of, draw_one, request

    pipeline = engine("stable_diffusion")
    shared = denoiser_of(pipeline)
    monkeypatch.setattr(shared, "forward", _sees_its_window)
    factor, width = 8, 4 * NATIVE
    windows = tiles.plan(NATIVE // factor, width // factor, NATIVE // factor)
    assert windows is not None
    ends = {left for _top, left in windows.corners} | {left + windows.width for _top, left in windows.corners}
    borders = [column * factor for column in sorted(ends) if 0 < column * factor < width]
    # The decoder's own pattern has a period of eight pixels: compare with columns in phase, away from the ends.
    elsewhere = [column for column in range(NATIVE, width - NATIVE + 1, factor) if column not in borders]
    changes = np.mean(
        [_gradient(draw_one(pipeline, request(width=width, seed=seed, steps=4))) for seed in range(12)],
        axis=0,
    )
    across, usual = (np.mean([changes[column - 1] for column in columns]) for columns in (borders, elsewhere))
    assert across < 1.07 * usual


def test_a_local_denoiser_draws_the_same_in_windows_as_in_one_piece(
    engine: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denoiser that sees one pixel at a time cannot tell windows from the whole."""
    from imagefleet_runtime.worker.engine import tiles

    from tests.integration.engine.drawing import denoiser_of, difference, draw_one, request

    pipeline = engine("stable_diffusion")
    shared = denoiser_of(pipeline)
    sizes = set()

    def local(**arguments: Any) -> Any:
        sample = arguments["sample"]
        sizes.add(tuple(sample.shape[-2:]))
        return (sample.roll(1, dims=1) * 0.3 + sample.square().clamp(max=1),)

    monkeypatch.setattr(shared, "forward", local)
    draw = request(width=3 * NATIVE, height=2 * NATIVE, steps=3)
    in_windows = draw_one(pipeline, draw)
    assert sizes == {(NATIVE // 8, NATIVE // 8)}
    monkeypatch.setattr(tiles, "TOLERANCE", 1_000)
    assert difference(in_windows, draw_one(pipeline, draw)) < SAME


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_of_several_drawings_share_calls_and_give_the_same_pictures(
    engine: Callable[[str], Pipeline], family: str
) -> None:
    from tests.integration.engine.drawing import difference, draw_one, mask, picture, request, run

    size = {"width": 3 * NATIVE, "height": NATIVE}
    given = {"image": picture(**size), "mask": mask(**size), "strength": 1.0}
    draws = [
        request(id=1, steps=2, **size),
        request(id=2, steps=3, seed=5, **size),
        request(id=3, steps=2, guidance_scale=1.0, **size),
        request(id=4, steps=3, **given, **size),
    ]
    drawn = run(engine(family), draws)
    for draw in draws:
        assert difference(drawn[draw.id], draw_one(engine(family), draw)) < SAME


def test_calls_are_merged_up_to_a_limit(
    engine: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    from imagefleet_runtime.worker.engine import hub

    from tests.integration.engine.drawing import count_rows, difference, draw_one, request

    pipeline = engine("stable_diffusion")
    whole = draw_one(pipeline, request(width=3 * NATIVE))
    rows = count_rows(pipeline, monkeypatch)
    monkeypatch.setattr(hub, "MAX_MERGED", 2)
    drawn = draw_one(pipeline, request(width=3 * NATIVE))
    assert difference(drawn, whole) < SAME
    assert set(rows) == {4, 2}  # five windows of two rows: two, two and one


@pytest.mark.parametrize("size", [(96, 64), (96, 96)])
def test_somewhat_larger_pictures_are_drawn_in_one_piece(
    engine: Callable[[str], Pipeline], bare: Callable[[str], Bare], size: tuple[int, int]
) -> None:
    from tests.integration.engine.drawing import difference, draw_one, request

    draw = request(width=size[0], height=size[1])
    assert difference(draw_one(engine("stable_diffusion"), draw), bare("stable_diffusion").draw(draw)) < SAME


def test_the_vae_codes_large_pictures_in_tiles_and_others_in_one_piece(folder: Callable[[str], Any]) -> None:
    import torch
    from imagefleet_runtime.worker.engine import vae

    from tests.integration.engine.bare import Bare

    coder = Bare(folder("stable_diffusion")).pipe.vae
    small, large = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 24)
    whole = coder.decode(large).sample
    vae.tile_large(coder, 8, pixels=NATIVE * NATIVE)
    with mock.patch.object(coder, "tiled_decode", wraps=coder.tiled_decode) as tiled_decode:
        coder.decode(small)
        tiled_decode.assert_not_called()
        tiled = coder.decode(large).sample
        tiled_decode.assert_called_once()
    assert tiled.shape == whole.shape
    assert coder.encode(torch.zeros(1, 3, 64, 192)).latent_dist.mean.shape == large.shape
    vae.tile_large(None, 8)  # a pipeline in pixel space has none
