"""What a picture asks of its pipeline, and how far it is."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from imagefleet_runtime.worker.engine.modes import NotTextToImageError
from imagefleet_runtime.worker.engine.picture import MASK_FEATHER, Picture, WithheldError
from imagefleet_runtime.worker.images import NotFiniteError
from imagefleet_runtime.worker.messages import Draw
from PIL import Image

SIZE = 16


class Pipe:
    """Draws grey in three steps, and notes what it was asked."""

    scheduler = None

    def __init__(self, flagged: list[bool] | None = None) -> None:
        self.flagged = flagged
        self.asked: dict[str, Any] = {}
        self.done: list[float] = []
        self.picture: Picture | None = None

    def __call__(
        self,
        prompt: str,
        num_inference_steps: int,
        guidance_scale: float,
        generator: Any,
        callback_on_step_end: Any,
        image: Any = None,
        strength: Any = None,
        negative_prompt: Any = None,
    ) -> Any:
        self.asked = {name: value for name, value in locals().items() if name != "self"}
        self.num_timesteps = 3
        for step in range(self.num_timesteps):
            callback_on_step_end(self, step, 0, {"latents": None})
            assert self.picture is not None
            self.done.append(self.picture.done)
        return SimpleNamespace(images=np.full((1, SIZE, SIZE, 3), 0.5), nsfw_content_detected=self.flagged)


def png(colour: int, mode: str = "RGB", size: int = SIZE) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (size, size), (colour,) * 3 if mode == "RGB" else colour).save(stream, "PNG")
    return stream.getvalue()


def a_picture(pipe: Any, **fields: Any) -> Picture:
    draw = Draw(
        **{
            "id": 1,
            "prompt": "a circle",
            "negative_prompt": None,
            "width": SIZE,
            "height": SIZE,
            "steps": 4,
            "guidance_scale": 2.0,
            "seed": 7,
            "output_format": "png",
            "output_compression": None,
            **fields,
        }
    )
    picture = Picture(draw, pipe, lambda _index, _pixels: None)
    pipe.picture = picture
    return picture


def test_a_pipeline_is_asked_only_what_it_takes() -> None:
    pipe = Pipe()
    a_picture(pipe).work()
    assert (pipe.asked["prompt"], pipe.asked["num_inference_steps"], pipe.asked["guidance_scale"]) == (
        "a circle",
        4,
        2.0,
    )
    assert (pipe.asked["image"], pipe.asked["strength"], pipe.asked["negative_prompt"]) == (None, None, None)
    assert pipe.asked["generator"].initial_seed() == 7


def test_a_picture_to_begin_from_is_brought_to_size() -> None:
    pipe = Pipe()
    a_picture(pipe, image=png(9, size=30), strength=0.5, negative_prompt="blue").work()
    assert pipe.asked["image"].size == (SIZE, SIZE)
    assert (pipe.asked["strength"], pipe.asked["negative_prompt"]) == (0.5, "blue")


def test_progress_counts_the_steps_that_are_really_drawn() -> None:
    """Three here, of the four that were asked for: a drawing that begins from a picture skips the first."""
    pipe = Pipe()
    picture = a_picture(pipe, image=png(9), strength=0.8)
    assert picture.done == 0
    picture.work()
    assert pipe.done == pytest.approx([1 / 3, 2 / 3, 1])


def test_phases_follow_each_other() -> None:
    picture = a_picture(Pipe())
    picture.began_steps()
    picture.began_steps()  # the second of two steps
    picture.work()
    picture.mark("encode")
    picture.mark("end")
    assert [phase.name for phase in picture.phases()] == ["text_encode", "denoise", "decode", "encode"]


def test_what_a_safety_checker_withheld_is_an_error_not_a_black_picture() -> None:
    with pytest.raises(WithheldError, match="safety checker withheld the picture"):
        a_picture(Pipe(flagged=[True])).work()
    assert a_picture(Pipe(flagged=[False])).work().shape == (SIZE, SIZE, 3)


def test_a_pipeline_that_returns_no_images_is_refused() -> None:
    class Sound:
        def __call__(self, prompt: str) -> Any:
            return SimpleNamespace(audios=[prompt])

    with pytest.raises(NotTextToImageError, match="Sound does not return images"):
        a_picture(Sound()).work()


def test_nan_is_an_error() -> None:
    with pytest.raises(NotFiniteError):
        a_picture(Pipe()).finish(np.full((SIZE, SIZE, 3), np.nan, dtype=np.float32))


def test_what_a_mask_keeps_is_the_given_picture_and_edges_are_soft() -> None:
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (SIZE // 2, 0, SIZE, SIZE))
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    picture = a_picture(Pipe(), image=png(10), mask=stream.getvalue())
    pixels = picture.finish(np.full((SIZE, SIZE, 3), 1.0, dtype=np.float32))
    row = pixels[0, :, 0].tolist()
    kept, drawn = SIZE // 2 - MASK_FEATHER, SIZE // 2 + MASK_FEATHER
    assert set(row[:kept]) == {10}
    assert set(row[drawn:]) == {255}
    assert row == sorted(row)
    assert len(set(row)) > 2
