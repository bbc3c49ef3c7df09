"""The shipped weights: what they draw, and what they accept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, StableDiffusionPipeline

from shapes import pipeline
from shapes.evaluate import pictures
from shapes.scorer import score

MODELS = Path("models")
VERSIONS = ("shapes-1", "shapes-2")
PROMPTS = (
    "a red circle on white",
    "a blue square",
    "a green triangle on gray",
    "a yellow star on black",
    "a large purple square on white",
    "a small black circle on pink",
    "a picture of a white circle on a black background",
    "a green circle on pink",
)


@pytest.fixture(scope="module")
def shapes_2() -> StableDiffusionPipeline:
    return pipeline.load(MODELS / "shapes-2")


def right(pipe: StableDiffusionPipeline) -> int:
    drawn = pictures(pipe, PROMPTS, seed=11)
    return sum(score(picture, prompt).correct for picture, prompt in zip(drawn, PROMPTS, strict=True))


def test_the_model_draws_what_it_is_told(shapes_2: StableDiffusionPipeline) -> None:
    assert right(shapes_2) >= 7


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plain_load_gives_float32_in_every_part(version: str) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / version)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}


def test_both_versions_are_small_safetensors_with_a_card_and_readable_by_all() -> None:
    files = [file for version in VERSIONS for file in (MODELS / version).rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors", ".md"}
    assert sum(file.stat().st_size for file in files) < 15e6
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in files)
    assert all((MODELS / version / "README.md").exists() for version in VERSIONS)


def test_unknown_words_are_no_error(shapes_2: StableDiffusionPipeline) -> None:
    (drawn,) = pictures(shapes_2, ["a photo of a zébra " + "and more " * 30], seed=0, steps=2)
    assert drawn.shape == (64, 64, 3)


def test_the_weights_also_serve_image_to_image_and_inpainting(shapes_2: StableDiffusionPipeline) -> None:
    (start,) = pictures(shapes_2, ["a red circle on white"], seed=0, steps=4)
    image = torch.from_numpy(start).permute(2, 0, 1)[None].float() / 255
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    common = {
        "prompt": "a blue square on white",
        "image": image,
        "output_type": "np",
        "num_inference_steps": 4,
    }
    variation = AutoPipelineForImage2Image.from_pipe(shapes_2)(**common, strength=0.5).images
    painted = AutoPipelineForInpainting.from_pipe(shapes_2)(
        **common, mask_image=mask, height=64, width=64
    ).images
    for result in (variation, painted):
        assert result.shape == (1, 64, 64, 3)
        assert np.isfinite(result).all()
