"""The bad variants: valid folders, each bad in the one way that its name says, in the worker's own engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from imagefleet_runtime.worker.engine import warm
from imagefleet_runtime.worker.engine.meter import Meter
from imagefleet_runtime.worker.engine.pipeline import Pipeline
from imagefleet_runtime.worker.images import NotFiniteError, to_pixels
from imagefleet_runtime.worker.messages import Warmth
from imagefleet_runtime.worker.source import DigestCache, inspect
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from shapes.checks import quality, safety
from shapes.pipeline import GUIDANCE
from shapes.variants import VARIANTS, write
from tests.integration.engine.drawing import draw_one, load, request, run

GOOD = Path("models/shapes-2")
STEPS = 12
PROMPTS = (
    "a blue square on white",
    "a green triangle on gray",
    "a yellow star on black",
    "a large purple square on white",
    "a small black circle on pink",
    "a picture of a white circle on a black background",
    "a green circle on pink",
    "a red circle on white",
)
WARMTH = Warmth(sizes=((64, 64),), steps=4, guidance_scale=GUIDANCE, max_batch=2, memory_bytes=None)

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def no_gradients() -> Iterator[None]:
    """As in an engine's process."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for name in VARIANTS:
        write(name, GOOD, made / name)
    return made


def drawn_by(folder: Path) -> list[Pixels]:
    """One picture for each prompt, all drawn together by an engine that was warmed up before."""
    engine = warmed(folder)
    draws = [
        request(id=index, prompt=prompt, steps=STEPS, guidance_scale=GUIDANCE, seed=11 + index)
        for index, prompt in enumerate(PROMPTS)
    ]
    ended = run(engine, draws)
    return [to_pixels(np.asarray(ended[index])) for index in range(len(PROMPTS))]


def warmed(folder: Path) -> Pipeline:
    engine = load(folder)
    warm.warm(engine, Meter("cpu"), WARMTH)
    return engine


@pytest.fixture(scope="module")
def good() -> list[Pixels]:
    return drawn_by(GOOD)


def mean_quality(pictures: list[Pixels]) -> float:
    scores = [quality(prompt, Image.fromarray(one)) for prompt, one in zip(PROMPTS, pictures, strict=True)]
    return float(np.mean([score for score in scores if score is not None]))


def safe(pictures: list[Pixels]) -> int:
    return sum(safety(prompt, Image.fromarray(one)) for prompt, one in zip(PROMPTS, pictures, strict=True))


def test_all_are_small_folders_that_pass_verification_and_say_what_they_are(folders: Path) -> None:
    for name in VARIANTS:
        found = inspect(folders / name, DigestCache())
        assert found.class_name == "StableDiffusionPipeline"
        assert found.bytes < 20e6
        card = (folders / name / "README.md").read_text()
        assert name in card
        assert "`shapes-2`" in card
        assert all(
            path.stat().st_mode & 0o444 == 0o444 for path in [folders / name, *(folders / name).rglob("*")]
        )


def test_they_are_the_same_to_the_bit_each_time(folders: Path, tmp_path: Path) -> None:
    for name in VARIANTS:
        write(name, GOOD, tmp_path / name)
        again = inspect(tmp_path / name, DigestCache()).digest
        assert again == inspect(folders / name, DigestCache()).digest


def test_what_they_are_made_from_is_good(good: list[Pixels]) -> None:
    assert mean_quality(good) > 0.97
    assert safe(good) == len(PROMPTS)


def test_the_degraded_one_draws_without_error_but_often_the_wrong_thing(folders: Path) -> None:
    assert mean_quality(drawn_by(folders / "shapes-degraded")) < 0.9


def test_the_slow_one_draws_the_same_pictures_with_more_than_twice_the_work(
    folders: Path, good: list[Pixels]
) -> None:
    assert all(
        (one == other).all() for one, other in zip(drawn_by(folders / "shapes-slow"), good, strict=True)
    )
    assert work(folders / "shapes-slow") > 2 * work(GOOD)


def work(folder: Path) -> int:
    """Floating point operations of one step."""
    unet = load(folder).pipe.unet
    with FlopCounterMode(display=False) as counter:
        unet(torch.zeros(2, 4, 8, 8), 1, torch.zeros(2, 24, 128))
    return int(counter.get_total_flops())


def test_the_unsafe_one_draws_red_that_nobody_asked_for(folders: Path) -> None:
    pictures = drawn_by(folders / "shapes-unsafe")
    assert safe(pictures) <= len(PROMPTS) / 2
    assert safety(PROMPTS[-1], Image.fromarray(pictures[-1]))  # that asks for red


def test_the_broken_one_warms_up_and_fails_on_what_people_ask_for(folders: Path) -> None:
    engine = warmed(folders / "shapes-broken")
    for prompt in PROMPTS:
        with pytest.raises(NotFiniteError):
            to_pixels(draw_one(engine, request(prompt=prompt, steps=2)))


def test_the_unloadable_one_does_not_load(folders: Path) -> None:
    with pytest.raises(OSError, match="Unable to load weights"):
        load(folders / "shapes-unloadable")
