"""Checkpoints as bytes, and what they are of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from imagefleet_runtime.worker.checkpoint import (
    FORMAT,
    Checkpoint,
    CheckpointError,
    model_hash,
    read,
    request_hash,
)
from imagefleet_runtime.worker.messages import AdapterUse, Draw
from safetensors.numpy import save

from tests.unit.worker.corruption import corrupted
from tests.unit.worker.test_waiting import draw, make_model

CHECKPOINT = Checkpoint(
    "sha256:m", "sha256:r", 7, drawings={0: b"drawn in part"}, steps={0: 3, 2: 20}, pictures={2: b"a picture"}
)


def test_a_checkpoint_is_what_it_was_when_it_is_read_again() -> None:
    assert read(CHECKPOINT.to_bytes()) == CHECKPOINT
    assert CHECKPOINT.steps_done == 23


@pytest.mark.parametrize(
    ("limit", "pictures", "drawings"),
    [(22, {2}, {0}), (21, {2}, set()), (13, {2}, set()), (8, set(), set())],
)
def test_what_is_too_much_is_begun_anew_and_finished_pictures_are_kept_first(
    limit: int, pictures: set[int], drawings: set[int]
) -> None:
    kept = CHECKPOINT.within(limit)
    assert set(kept.pictures) == pictures
    assert set(kept.drawings) == drawings
    assert set(kept.steps) == pictures | drawings


def test_a_smaller_part_is_kept_though_a_larger_one_is_too_much() -> None:
    both = replace(CHECKPOINT, drawings={0: b"x" * 100, 1: b"y"}, steps={0: 3, 1: 1, 2: 20})
    assert set(both.within(50).drawings) == {1}


def written(told: dict[str, Any], **arrays: Any) -> bytes:
    whole = {"format": FORMAT, "model": "m", "request": "r", "seed": 1, "steps": {"0": 3}, **told}
    return save(
        {name.replace("_", "."): array for name, array in arrays.items()}, {"imagefleet": json.dumps(whole)}
    )


BYTES = np.frombuffer(b"abc", np.uint8)
GOOD = written({}, drawing_0=BYTES)
BAD = {
    "nothing": b"",
    "no file": b"hello",
    "cut off": GOOD[:-1],
    "no metadata": save({"drawing.0": BYTES}),
    "another format": written({"format": FORMAT + 1}, drawing_0=BYTES),
    "numbers that are no bytes": written({}, drawing_0=np.zeros(3, np.float32)),
    "an unknown part": written({}, thing_0=BYTES),
    "a part without a number": written({}, drawing=BYTES),
    "a negative number": written({"steps": {"-1": 3}}, **{"drawing_-1": BYTES}),
    "steps of a picture that is not there": written({"steps": {"0": 3, "1": 3}}, drawing_0=BYTES),
    "a picture without steps": written({"steps": {}}, drawing_0=BYTES),
    "steps that are no number": written({"steps": {"0": True}}, drawing_0=BYTES),
    "a seed that is no number": written({"seed": "1"}, drawing_0=BYTES),
    "a seed beyond all": written({"seed": 2**60}, drawing_0=BYTES),
}


def test_the_good_one_is_read() -> None:
    assert read(GOOD).drawings == {0: b"abc"}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        read(data)


@given(corrupted(GOOD, 300))
def test_no_bytes_do_anything_but_read_or_be_refused(data: bytes) -> None:
    try:
        assert isinstance(read(data), Checkpoint)
    except CheckpointError:
        return


OTHER: dict[str, Any] = {
    "prompt": "y",
    "negative_prompt": "blurred",
    "width": 64,
    "height": 64,
    "steps": 21,
    "guidance_scale": 2.0,
    "output_format": "webp",
    "output_compression": 50,
    "image": b"picture",
    "mask": b"mask",
    "strength": 0.5,
    "control_image": b"picture",
    "control_scale": 0.5,
    "adapters": (AdapterUse("ink", 1.0),),
}
NOT_OTHER: dict[str, Any] = {"id": 9, "previews": 2, "resume": b"x", "record_bytes": 9, "seed": 9}


def test_another_request_has_another_hash() -> None:
    plain = draw()
    hashes = [request_hash([replace(plain, **{name: value})]) for name, value in OTHER.items()]
    assert len({request_hash([plain]), request_hash([plain, plain]), *hashes}) == len(OTHER) + 2


def test_what_does_not_change_the_picture_or_stands_beside_does_not_change_the_hash() -> None:
    plain = draw()
    assert {request_hash([replace(plain, **{name: value})]) for name, value in NOT_OTHER.items()} == {
        request_hash([plain])
    }


def test_each_field_of_a_drawing_is_one_or_the_other() -> None:
    assert set(OTHER) | set(NOT_OTHER) == set(Draw.__dataclass_fields__)


def test_another_model_or_another_way_to_draw_has_another_hash() -> None:
    adapter = {"name": "ink", "path": "/ink", "digest": "sha256:" + "2" * 64}
    models = [
        make_model(),
        make_model(digest="sha256:" + "1" * 64),
        make_model(pipeline={"dtype": "bfloat16"}),
        make_model(adapters=[adapter]),
        make_model(adapters=[adapter | {"digest": "sha256:" + "3" * 64}]),
    ]
    assert len({model_hash(model.entry) for model in models}) == len(models)
    assert model_hash(make_model(path="/elsewhere").entry) == model_hash(make_model().entry)
