"""Requests that are interrupted, as checkpoints, and requests that go on from one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from imagefleet_runtime.worker import checkpoint, errors
from imagefleet_runtime.worker.checkpoint import Checkpoint
from imagefleet_runtime.worker.messages import Draw, Drawn
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.requests import steps_drawn
from imagefleet_runtime.worker.waiting import Job


def check(given: Checkpoint, entry: ModelPolicy, drawings: Sequence[Draw]) -> None:
    """Whether ``drawings`` of the model ``entry`` can go on from ``given``. Raises ApiError (checkpoint_unusable)."""
    numbers = given.steps.keys()
    steps = _steps(drawings[0])
    checks = (
        (
            given.model != checkpoint.model_hash(entry),
            "is of another model, or of another version of the worker",
        ),
        (given.request != checkpoint.request_hash(drawings), "is of a request with other parameters"),
        (given.seed != drawings[0].seed, "is of another seed"),
        (not numbers <= set(range(len(drawings))), "holds pictures that were not asked for"),
        (len(given.pictures) == len(drawings), "leaves nothing to draw"),
        (not all(0 < done <= steps for done in given.steps.values()), "has more steps than were asked for"),
        (not all(_shows(image, drawings[0]) for image in given.pictures.values()), "holds a broken picture"),
    )
    for wrong, why in checks:
        if wrong:
            raise errors.checkpoint_unusable(f"the checkpoint {why}: leave it out")


def _shows(image: bytes, draw: Draw) -> bool:
    """Whether ``image`` is a picture as ``draw`` asks for one; its header alone is read."""
    try:
        with Image.open(io.BytesIO(image), formats=[draw.output_format.upper()]) as opened:
            return opened.size == (draw.width, draw.height)
    except Exception:  # Pillow raises whatever a broken file makes its decoders trip over
        return False


def _steps(draw: Draw) -> int:
    return steps_drawn(draw.steps, draw.strength)


def take_over(job: Job, given: Checkpoint) -> None:
    """Have ``job``, of which nothing was begun, go on from ``given``."""
    for number, image in given.pictures.items():
        part = job.parts[number]
        # Drawn elsewhere: it took nothing of this device.
        part.drawn = Drawn(
            id=0, image=image, seconds=0.0, work_seconds=0.0, shared_seconds=0.0, phases=(), peak_bytes=None
        )
        part.steps_before = given.steps[number]
    for number, data in given.drawings.items():
        part = job.parts[number]
        part.order = replace(part.order, resume=data)
        part.steps_before = given.steps[number]
        part.done = part.done_before = part.steps_before / _steps(part.order)


def checkpoint_of(job: Job) -> Checkpoint | None:
    """All that was drawn of ``job``, here and before; None where that is nothing."""
    drawings: dict[int, bytes] = {}
    steps: dict[int, int] = {}
    pictures: dict[int, bytes] = {}
    for part in job.parts:
        if part.drawn is not None:
            pictures[part.index], steps[part.index] = part.drawn.image, _steps(part.order)
        elif part.interrupted is not None:
            drawings[part.index], steps[part.index] = part.interrupted.data, part.interrupted.steps
        elif part.order.resume is not None:
            drawings[part.index], steps[part.index] = part.order.resume, part.steps_before
    if not steps:
        return None
    model = checkpoint.model_hash(job.model.entry)
    request = checkpoint.request_hash(job.drawings)
    whole = Checkpoint(model, request, job.drawings[0].seed, drawings, steps, pictures)
    return whole.within(checkpoint.LIMIT_BYTES)


def interrupted(job: Job) -> errors.InterruptedRequestError:
    """The answer to ``job``, of which no picture is being drawn any more."""
    kept = checkpoint_of(job)
    if kept is None:
        return errors.InterruptedRequestError(None, 0)
    return errors.InterruptedRequestError(checkpoint.encoded(kept.to_bytes()), kept.steps_done)
