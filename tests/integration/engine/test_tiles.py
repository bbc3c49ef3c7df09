"""Pictures beyond a model's native size: drawn in overlapping windows, without seams."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

    from tests.integration.engine.bare import Bare

SAME = 1e-4
FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3")
# The tiny models' native side, in pixels.
NATIVE = 64


def _gradient(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean change from each column to the next: width - 1 values."""
    changes: npt.NDArray[np.float32] = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2))
    return changes


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_leave_no_seams(engine: Callable[[str], Pipeline], family: str) -> None:
    """Across the columns where a window begins or ends pixels change no more than elsewhere."""
    from imagefleet_runtime.worker.engine import tiles
    from tests.integration.engine.drawing import draw_one, request

    factor = 8
    windows = tiles.plan(NATIVE // factor, 4 * NATIVE // factor, NATIVE // factor)
    assert windows is not None
    inside = {left * factor for _top, left in windows.corners} | {(left + windows.width) * factor for _top, left in windows.corners}
    borders = sorted(border for border in inside if 0 < border < 4 * NATIVE)
    assert borders
    changes = np.mean(
        [_gradient(draw_one(engine(family), request(width=4 * NATIVE, seed=seed, steps=4))) for seed in range(4)], axis=0
    )
    # The VAE's upsampling has a pattern of its own, with the same period everywhere: compare with columns in phase.
    elsewhere = [column for column in range(factor, 4 * NATIVE, factor) if column not in borders]
    at_borders = changes[[border - 1 for border in borders]].mean()
    in_phase = changes[[column - 1 for column in elsewhere]]
    assert at_borders < in_phase.mean() + 2 * in_phase.std()


def test_a_local_denoiser_draws_the_same_in_windows_as_in_one_piece(
    engine: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denoiser that sees one pixel at a time cannot tell windows from the whole."""
    from imagefleet_runtime.worker.engine import options, tiles
    from tests.integration.engine.drawing import draw_one, request

    pipeline = engine("stable_diffusion")
    shared = next(one for one in pipeline.shared if one.module is options.denoiser(pipeline.pipe))
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
    assert np.abs(in_windows - draw_one(pipeline, draw)).max() < SAME


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_of_several_drawings_share_calls_and_give_the_same_pictures(
    engine: Callable[[str], Pipeline], family: str
) -> None:
    from tests.integration.engine.drawing import draw_one, mask, picture, request, run

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
        assert np.abs(drawn[draw.id] - draw_one(engine(family), draw)).max() < SAME


def test_calls_are_merged_up_to_a_limit(engine: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    from imagefleet_runtime.worker.engine import hub, options
    from tests.integration.engine.drawing import draw_one, request

    pipeline = engine("stable_diffusion")
    whole = draw_one(pipeline, request(width=3 * NATIVE))
    shared = next(one for one in pipeline.shared if one.module is options.denoiser(pipeline.pipe))
    rows, forward = [], shared.forward
    monkeypatch.setattr(shared, "forward", lambda **call: (rows.append(len(call["sample"])), forward(**call))[1])
    monkeypatch.setattr(hub, "MAX_MERGED", 2)
    drawn = draw_one(pipeline, request(width=3 * NATIVE))
    assert np.abs(drawn - whole).max() < SAME
    assert set(rows) == {4, 2}  # five windows of two rows: two, two and one


@pytest.mark.parametrize("size", [(96, 64), (96, 96)])
def test_somewhat_larger_pictures_are_drawn_in_one_piece(
    engine: Callable[[str], Pipeline], bare: Callable[[str], Bare], size: tuple[int, int]
) -> None:
    from tests.integration.engine.drawing import draw_one, request

    draw = request(width=size[0], height=size[1])
    assert np.abs(draw_one(engine("stable_diffusion"), draw) - bare("stable_diffusion").draw(draw)).max() < SAME


def test_the_vae_codes_large_pictures_in_tiles_and_others_in_one_piece(folder: Callable[[str], Any]) -> None:
    from imagefleet_runtime.worker.engine import vae
    from tests.integration.engine.bare import Bare

    import torch

    coder = Bare(folder("stable_diffusion")).pipe.vae
    small, large = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 24)
    whole = coder.decode(large).sample
    vae.tile_large(coder, 8, pixels=NATIVE * NATIVE)
    seen = []
    tiled_decode = coder.tiled_decode
    coder.tiled_decode = lambda *arguments, **keywords: (seen.append(1), tiled_decode(*arguments, **keywords))[1]
    coder.decode(small)
    assert not seen
    tiled = coder.decode(large).sample
    assert seen
    assert tiled.shape == whole.shape
    assert coder.encode(torch.zeros(1, 3, 64, 192)).latent_dist.mean.shape == large.shape
    vae.tile_large(None, 8)  # a pipeline in pixel space has none
