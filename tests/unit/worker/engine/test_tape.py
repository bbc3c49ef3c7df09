"""What a drawing was told, kept and given again; bytes that are no tape are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from imagefleet_runtime.worker.checkpoint import CheckpointError
from imagefleet_runtime.worker.engine.tape import MAX_ANSWERS, Answer, Tape, tape_of
from safetensors.torch import save

from tests.unit.worker.corruption import corrupted

LIMIT = 10_000


def tensor(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((2, 3), value, dtype=dtype)


def taped(*answers: Answer, limit: int = LIMIT) -> Tape:
    tape = Tape(limit)
    for answer in answers:
        tape.add(answer, guide=False)
    return tape


def again(tape: Tape, limit: int = LIMIT) -> Tape:
    return tape_of(tape.to_bytes(), limit, "cpu")


def recalled(tape: Tape) -> list[Answer]:
    answers = []
    while tape.knows(guide=False):
        answers.append(tape.recall(guide=False))
    return answers


def test_answers_come_back_in_order_and_form() -> None:
    given: list[Any] = [
        (tensor(1.0),),
        ([tensor(2.0, torch.bfloat16), tensor(3.0)], None),
        tensor(4.0, torch.float16),
    ]
    back = recalled(again(taped(*given)))
    assert torch.equal(back[0][0], given[0][0])
    assert [part.dtype for part in back[1][0]] == [torch.bfloat16, torch.float32]
    assert back[1][1] is None
    assert torch.equal(back[2], given[2])


def test_what_models_wrap_their_answers_in_comes_back() -> None:
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    [back] = recalled(again(taped(Transformer2DModelOutput(sample=tensor(1.0)))))
    assert torch.equal(back.sample, tensor(1.0))
    assert torch.equal(back[0], tensor(1.0))


def test_a_pipeline_that_changes_its_answers_in_place_does_not_change_the_tape() -> None:
    answer = tensor(1.0)
    tape = taped(answer)
    answer.zero_()
    second = again(tape)
    second.recall(guide=False).zero_()
    second.add(tensor(2.0), guide=False)
    assert [float(each[0, 0]) for each in recalled(again(second))] == [1.0, 2.0]


def test_it_catches_up_until_the_first_answer_that_was_not_given() -> None:
    tape = again(taped(tensor(1.0)))
    assert tape.catching_up
    recalled(tape)
    assert tape.catching_up
    tape.add(tensor(2.0), guide=False)
    assert not tape.catching_up


@pytest.mark.parametrize(
    ("tape", "want"),
    [
        (Tape(LIMIT), False),
        (taped(tensor(1.0)), True),
        (taped(tensor(1.0), limit=0), False),
        (taped(tensor(1.0), tensor(1.0), limit=47), False),  # 24 bytes each
        (taped(tensor(1.0), tensor(1.0), limit=48), True),
        (taped({"sample": tensor(1.0)}), False),
        (taped(tensor(1.0, torch.float64)), False),
        (again(taped(tensor(1.0))), True),
        (again(taped(tensor(1.0)), limit=0), False),
    ],
    ids=[
        "nothing yet",
        "answers",
        "not to be kept",
        "too much",
        "just enough",
        "an unknown form",
        "an unknown type",
        "as it was given",
        "given, and not to be kept",
    ],
)
def test_whether_a_drawing_can_go_on_elsewhere(tape: Tape, want: bool) -> None:
    assert tape.whole is want


def test_what_a_guide_said_is_kept_for_as_long_as_it_is_of_use() -> None:
    tape = again(taped(tensor(1.0), tensor(2.0)))
    assert not tape.knows(guide=True)
    tape.add("what it said", guide=True)
    assert tape.knows(guide=True)
    assert tape.recall(guide=True) == "what it said"
    recalled(tape)
    assert not tape.knows(guide=True), "the next denoiser's call is made, so its guide's is"


def test_an_answer_of_another_form_than_those_given_is_refused() -> None:
    for other in (torch.zeros(1, 3), tensor(1.0, torch.bfloat16), (tensor(1.0),), None):
        tape = again(taped(tensor(1.0)))
        recalled(tape)
        with pytest.raises(CheckpointError, match="another form"):
            tape.add(other, guide=False)


def written(forms: Any, **tensors: torch.Tensor) -> bytes:
    return save(tensors, {"answers": json.dumps(forms)})


GOOD = written(["0"], **{"0": tensor(1.0)})
BAD = {
    "nothing": b"",
    "no file": b"hello",
    "cut off": GOOD[:-1],
    "a header without end": (2**40).to_bytes(8, "little") + b"{}",
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
    "no metadata": save({"0": tensor(1.0)}),
    "forms that are no JSON": save({"0": tensor(1.0)}, {"answers": "["}),
    "no answers": written([]),
    "too many answers": written([None] * (MAX_ANSWERS + 1)),
    "a tensor that is not there": written(["1"], **{"0": tensor(1.0)}),
    "one tensor many times": written(["0"] * 100, **{"0": tensor(1.0)}),
    "numbers of another type": written(["0"], **{"0": torch.zeros(3, dtype=torch.int64)}),
    "an unknown kind": written([["dict", "0"]], **{"0": tensor(1.0)}),
    "lists in lists": written(
        [["list"] * 1 + [["list", ["list", ["list", ["list", "0"]]]]]], **{"0": tensor(1.0)}
    ),
    "very deep lists": save({"0": tensor(1.0)}, {"answers": "[" * 100_000 + "]" * 100_000}),
    "a wrapper of too much": written(
        [["Transformer2DModelOutput", "0", "1"]], **{"0": tensor(1.0), "1": tensor(1.0)}
    ),
    "a number for an answer": written([7], **{"0": tensor(1.0)}),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_tape_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        tape_of(data, LIMIT, "cpu")


@given(corrupted(GOOD, 200))
def test_no_bytes_do_anything_but_read_or_be_refused(data: bytes) -> None:
    try:
        tape = tape_of(data, LIMIT, "cpu")
    except CheckpointError:
        return
    assert len(recalled(tape)) == 1
