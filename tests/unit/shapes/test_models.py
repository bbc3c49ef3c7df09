"""The shipped weights: what they draw, and what they accept. Edits with them are drawn in tests/e2e."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

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
    drawn = pictures(pipe, PROMPTS, seed=11, steps=10)
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
