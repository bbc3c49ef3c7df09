"""What engines make of the folders of several families: their modes, and that each does what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.engine.limits import FAMILIES, OTHER, SAME

if TYPE_CHECKING:
    from imagefleet_runtime.worker.engine.pipeline import Pipeline

    from tests.integration.engine.bare import Bare

ALL = ("text-to-image", "image-to-image", "inpainting")


@pytest.mark.parametrize(
    ("folder_name", "class_name", "modes", "multiple", "negative_prompt", "batches"),
    [
        ("stable_diffusion", "StableDiffusionPipeline", ALL, 8, True, True),
        ("stable_diffusion_xl", "StableDiffusionXLPipeline", ALL, 8, True, True),
        ("stable_diffusion_3", "StableDiffusion3Pipeline", ALL, 16, True, True),
        ("flux", "FluxPipeline", ALL, 16, False, True),
        ("flux_2_klein", "Flux2KleinPipeline", ALL, 16, False, True),
        ("z_image", "ZImagePipeline", ALL, 16, True, True),
        ("plain_model_saved_for_inpainting", "StableDiffusionPipeline", ALL, 8, True, True),
        ("control_net", "StableDiffusionPipeline", ALL, 8, True, True),
        ("inpainting", "StableDiffusionInpaintPipeline", ("inpainting",), 8, True, True),
        ("pixart", "PixArtSigmaPipeline", ("text-to-image",), 16, True, False),
    ],
)
def test_a_folder_is_described(
    engine: Callable[[str], Pipeline],
    folder_name: str,
    class_name: str,
    modes: tuple[str, ...],
    multiple: int,
    negative_prompt: bool,
    batches: bool,
) -> None:
    found = engine(folder_name).capabilities
    assert (found.class_name, found.modes, found.size_multiple) == (class_name, modes, multiple)
    assert (found.negative_prompt, found.batches) == (negative_prompt, batches)
    assert found.control_net == (folder_name == "control_net")


@pytest.mark.parametrize("family", FAMILIES)
def test_inpainting_leaves_what_the_mask_keeps_as_it_was(
    engine: Callable[[str], Pipeline], family: str
) -> None:
    from imagefleet_runtime.worker.engine import picture as pictures

    from tests.integration.engine.drawing import draw_one, mask, opened, picture, request

    given = picture()
    draw = request(image=given, mask=mask(), strength=1.0)
    pipeline = engine(family)
    drawn = draw_one(pipeline, draw)
    finished = pictures.Picture(draw, pipeline.pipe, lambda _index, _pixels: None).finish(drawn)
    kept = 32 - pictures.MASK_FEATHER  # columns
    assert (finished[:, :kept] == opened(given)[:, :kept]).all()
    assert (finished[:, kept:] != opened(given)[:, kept:]).any()


@pytest.mark.parametrize(
    "family", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "z_image"]
)
def test_a_negative_prompt_changes_the_picture(
    engine: Callable[[str], Pipeline], bare: Callable[[str], Bare], family: str
) -> None:
    from tests.integration.engine.drawing import difference, draw_one, request

    without = request(steps=4)
    negated = replace(without, negative_prompt="blurred and green")
    drawn = draw_one(engine(family), negated)
    assert difference(drawn, draw_one(engine(family), without)) > OTHER
    assert difference(drawn, bare(family).draw(negated)) < SAME


def test_control_images_guide_each_drawing_of_a_batch_on_its_own(
    engine: Callable[[str], Pipeline], bare: Callable[[str], Bare]
) -> None:
    from tests.integration.engine.drawing import difference, mask, picture, request, run

    draws = [
        request(id=1, control_image=picture(), steps=3),
        request(id=2, control_image=mask(), steps=3),
        request(id=3, control_image=picture(), control_scale=0.5, steps=3),
        request(id=4, steps=3),
    ]
    drawn = run(engine("control_net"), draws)
    for draw in draws[:3]:
        assert difference(drawn[draw.id], bare("control_net").draw(draw)) < SAME
    for other in (2, 3, 4):
        assert difference(drawn[1], drawn[other]) > OTHER


def test_control_images_guide_what_is_drawn_over_a_picture(engine: Callable[[str], Pipeline]) -> None:
    from tests.integration.engine.drawing import difference, mask, picture, request, run

    plain = request(image=picture(), strength=0.7, steps=4)
    draws = [
        plain,
        replace(plain, id=2, control_image=mask()),
        replace(plain, id=3, mask=mask()),
        replace(plain, id=4, mask=mask(), control_image=mask()),
    ]
    drawn = run(engine("control_net"), draws)
    assert difference(drawn[1], drawn[2]) > OTHER
    assert difference(drawn[3], drawn[4]) > OTHER


def test_an_inpainting_model_draws_what_bare_diffusers_does(
    engine: Callable[[str], Pipeline], bare: Callable[[str], Bare]
) -> None:
    from tests.integration.engine.drawing import difference, mask, picture, request, run

    draws = [
        request(id=number, image=picture(), mask=mask(), strength=1.0, steps=number + 1) for number in (1, 2)
    ]
    drawn = run(engine("inpainting"), draws)
    for draw in draws:
        assert difference(drawn[draw.id], bare("inpainting").draw(draw)) < SAME


def test_a_family_whose_denoiser_is_not_known_draws_one_request_at_a_time(
    engine: Callable[[str], Pipeline], bare: Callable[[str], Bare]
) -> None:
    from tests.integration.engine.drawing import difference, draw_one, request

    draw = request()
    drawn = draw_one(engine("pixart"), draw)
    assert difference(drawn, bare("pixart").draw(draw)) < SAME


def test_a_pipeline_that_draws_nan_fails_instead_of_giving_a_black_picture(
    engine: Callable[[str], Pipeline],
) -> None:
    from imagefleet_runtime.worker.engine.picture import Picture
    from imagefleet_runtime.worker.images import NotFiniteError

    from tests.integration.engine.drawing import draw_one, request

    pipeline, draw = engine("broken"), request()
    drawn = draw_one(pipeline, draw)
    with pytest.raises(NotFiniteError):
        Picture(draw, pipeline.pipe, lambda _index, _pixels: None).finish(drawn)


@pytest.mark.parametrize(
    "class_name", ["NoSuchPipeline", "AutoencoderKL", "logging", "DanceDiffusionPipeline"]
)
def test_a_class_that_draws_no_picture_from_a_text_is_refused(
    folder: Callable[[str], Path], class_name: str
) -> None:
    from imagefleet_runtime.worker.engine.modes import NotTextToImageError

    from tests.integration.engine.drawing import load

    with pytest.raises(NotTextToImageError, match=r"has no pipeline|takes no prompt"):
        load(folder("stable_diffusion"), class_name=class_name)
