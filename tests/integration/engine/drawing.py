"""Requests to an engine, and how they are run to their end."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from imagefleet_runtime.worker.checkpoint import LIMIT_BYTES
from imagefleet_runtime.worker.engine import options
from imagefleet_runtime.worker.engine.hub import SharedModule
from imagefleet_runtime.worker.engine.pipeline import Pipeline
from imagefleet_runtime.worker.messages import Draw, Load, Options, Warmth
from PIL import Image

Floats = npt.NDArray[np.float32]


def order(folder: Path, **fields: Any) -> Load:
    """Load ``folder``. ``fields``: of Load, or of Options."""
    chosen = {name: fields.pop(name) for name in list(fields) if name in Options.__dataclass_fields__}
    warmth = Warmth(sizes=((64, 64),), steps=2, guidance_scale=5.0, max_batch=1, memory_bytes=None)
    return Load(
        **{"path": str(folder), "options": Options(**chosen), "threads": 1, "warmth": warmth, **fields}
    )


def load(folder: Path, **fields: Any) -> Pipeline:
    return Pipeline.load(order(folder, **fields), lambda _seconds: None)


def request(**fields: Any) -> Draw:
    defaults: dict[str, Any] = {
        "id": 1,
        "prompt": "a red circle",
        "negative_prompt": None,
        "width": 64,
        "height": 64,
        "steps": 2,
        "guidance_scale": 5.0,
        "seed": 1,
        "output_format": "png",
        "output_compression": None,
    }
    return Draw(**{**defaults, **fields})


@torch.inference_mode()  # as in an engine's process; so below
def run(pipeline: Pipeline, draws: Iterable[Draw]) -> dict[int, Floats | Exception]:
    """Draw all ``draws`` side by side; each one's picture or error, by its id."""
    for draw in draws:
        pipeline.start(draw, lambda _index, _pixels: None)
    return finish(pipeline)


@torch.inference_mode()
def finish(pipeline: Pipeline) -> dict[int, Floats | Exception]:
    ended: dict[int, Floats | Exception] = {}
    while True:
        found = pipeline.hub.round()
        for one, result in [*found.results, *found.errors]:
            ended[one.id] = result
        if not len(pipeline.hub):
            return ended


def draw_one(pipeline: Pipeline, draw: Draw) -> Floats:
    """Raises what the drawing raises."""
    found = run(pipeline, [draw])[draw.id]
    if isinstance(found, Exception):
        raise found
    return found


def difference(one: Floats | Exception, other: Floats | Exception) -> float:
    """The largest of two pictures, in pixel values of 0..1. Raises what either is, where that is an error."""
    for drawn in (one, other):
        if isinstance(drawn, Exception):
            raise drawn
    assert isinstance(one, np.ndarray)
    assert isinstance(other, np.ndarray)
    return float(np.abs(one - other).max())


def denoiser_of(pipeline: Pipeline) -> SharedModule:
    return next(shared for shared in pipeline.shared if shared.module is options.denoiser(pipeline.pipe))


def count_rows(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the rows of each call of the denoiser."""
    shared, rows = denoiser_of(pipeline), list[int]()
    forward, layout = shared.forward, shared.layout
    assert layout is not None

    def counted(**arguments: Any) -> Any:
        rows.append(len(arguments[layout.primary]))
        return forward(**arguments)

    monkeypatch.setattr(shared, "forward", counted)
    return rows


def picture(width: int = 64, height: int = 64) -> bytes:
    """A PNG of colours that change from corner to corner."""
    down, along = np.mgrid[0:height, 0:width]
    channels = (along / width, down / height, 1 - along / width)
    pixels = (np.stack(channels, axis=-1) * 255).astype(np.uint8)
    return _png(Image.fromarray(pixels))


def mask(width: int = 64, height: int = 64) -> bytes:
    """A PNG whose right half is white."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    return _png(Image.fromarray(pixels))


def opened(encoded: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@torch.inference_mode()
def interrupt(pipeline: Pipeline, draw: Draw, rounds: int, company: Iterable[Draw] = ()) -> Draw:
    """``draw``, begun beside ``company`` and stopped after so many rounds; as it is to be gone on with."""
    picture = pipeline.start(replace(draw, record_bytes=LIMIT_BYTES), lambda _index, _pixels: None)
    for other in company:
        pipeline.start(other, lambda _index, _pixels: None)
    for _ in range(rounds):
        pipeline.hub.round()
    assert picture.tape.whole
    resume = picture.tape.to_bytes()
    pipeline.hub.cancel(draw.id)
    finish(pipeline)
    return replace(draw, resume=resume)
