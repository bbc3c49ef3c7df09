"""Calls of a denoiser put together and taken apart again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_runtime.worker.engine import merge
from imagefleet_runtime.worker.engine.merge import LAYOUTS

UNET = LAYOUTS["UNet2DConditionModel"]
FLUX = LAYOUTS["FluxTransformer2DModel"]
Z_IMAGE = LAYOUTS["ZImageTransformer2DModel"]


def unet_call(rows: int = 2, timestep: float = 1.0, **changes: Any) -> dict[str, Any]:
    return {
        "sample": torch.full((rows, 4, 8, 8), timestep),
        "timestep": torch.tensor(timestep),
        "encoder_hidden_states": torch.full((rows, 77, 3), timestep),
        "added_cond_kwargs": {"time_ids": torch.full((rows, 6), timestep)},
        "cross_attention_kwargs": None,
        "return_dict": False,
        **changes,
    }


@dataclass
class Output(dict[str, Any]):
    """Like diffusers' outputs: a dictionary whose keys are its fields."""

    sample: torch.Tensor

    def __post_init__(self) -> None:
        self["sample"] = self.sample


@pytest.mark.parametrize(
    ("one", "other", "merges"),
    [
        ({}, {}, True),
        ({"rows": 2}, {"rows": 1}, True),  # guided and not
        ({"timestep": 1.0}, {"timestep": 999.0}, True),  # at different steps
        ({}, {"sample": torch.zeros(2, 4, 8, 16)}, False),  # another size
        ({}, {"encoder_hidden_states": torch.zeros(2, 154, 3)}, False),  # longer prompts
        ({}, {"encoder_hidden_states": torch.zeros(2, 77, 3, dtype=torch.float16)}, False),
        ({}, {"return_dict": True}, False),
        ({}, {"extra": 1}, False),
        ({}, {"added_cond_kwargs": {}}, False),
        (
            {"down": (torch.zeros(2, 1), torch.zeros(2, 2))},
            {"down": (torch.zeros(2, 1), torch.zeros(2, 2))},
            True,
        ),
        ({"down": (torch.zeros(2, 1), torch.zeros(2, 2))}, {"down": (torch.zeros(2, 1),)}, False),
        ({"guide": object()}, {"guide": object()}, False),  # nobody knows what it means
        ({"weights": torch.zeros(7)}, {"weights": torch.zeros(7)}, False),  # not by rows
    ],
)
def test_calls_merge_where_all_but_their_rows_is_alike(
    one: dict[str, Any], other: dict[str, Any], merges: bool
) -> None:
    signatures = [merge.signature(UNET, unet_call(**changes)) for changes in (one, other)]
    assert (signatures[0] == signatures[1]) == merges


def test_a_call_that_holds_something_unknown_equals_not_even_itself() -> None:
    call = unet_call(guide=object())
    assert merge.signature(UNET, call) != merge.signature(UNET, call)


@settings(deadline=None)
@given(rows=st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_what_is_merged_comes_apart_as_it_was(rows: list[int]) -> None:
    calls = [unet_call(count, float(number)) for number, count in enumerate(rows)]
    merged = merge.merge(UNET, calls)
    assert merged["sample"].shape == (sum(rows), 4, 8, 8)
    assert merged["timestep"].tolist() == [
        number for number, count in enumerate(rows) for _row in range(count)
    ]
    assert merged["return_dict"] is False
    for name in ("sample", "encoder_hidden_states"):
        parts = merge.split(UNET, merged[name], rows)
        assert all(torch.equal(part, call[name]) for part, call in zip(parts, calls, strict=True))
    (times,) = zip(*merge.split(UNET, (merged["added_cond_kwargs"]["time_ids"],), rows), strict=True)
    assert all(
        torch.equal(part, call["added_cond_kwargs"]["time_ids"])
        for part, call in zip(times, calls, strict=True)
    )


def test_answers_come_apart_whatever_their_form() -> None:
    answer = torch.arange(3.0)[:, None]
    rows = [2, 1]
    tensors = [answer[:2], answer[2:]]
    assert all(map(torch.equal, merge.split(UNET, answer, rows), tensors))
    for number, (residuals, middle) in enumerate(merge.split(UNET, ([answer, answer], answer), rows)):
        assert isinstance(residuals, list)
        assert all(torch.equal(one, tensors[number]) for one in [*residuals, middle])
    for number, output in enumerate(merge.split(UNET, Output(answer), rows)):
        assert isinstance(output, Output)
        assert torch.equal(output.sample, tensors[number])


def test_what_depends_on_the_size_alone_is_given_once() -> None:
    ids = torch.arange(12.0).reshape(4, 3)
    calls = [
        {"hidden_states": torch.zeros(1, 4, 8), "timestep": torch.zeros(1), "img_ids": ids}
        for _call in range(2)
    ]
    assert merge.signature(FLUX, calls[0]) == merge.signature(FLUX, calls[1])
    merged = merge.merge(FLUX, calls)
    assert merged["img_ids"] is ids
    assert merged["timestep"].shape == (2,)


def test_lists_of_one_element_a_row_are_put_one_behind_the_other() -> None:
    calls: list[dict[str, Any]] = [
        {"x": [torch.full((4, 1, 8, 8), 1.0)], "t": torch.zeros(1), "cap_feats": [torch.zeros(5, 3)]},
        {
            "x": [torch.full((4, 1, 8, 8), float(n)) for n in (2, 3)],
            "t": torch.ones(2),
            "cap_feats": [torch.zeros(9, 3)] * 2,
        },
    ]
    assert merge.signature(Z_IMAGE, calls[0]) == merge.signature(Z_IMAGE, calls[1])
    merged = merge.merge(Z_IMAGE, calls)
    assert [len(words) for words in merged["cap_feats"]] == [5, 9, 9]
    first, second = merge.split(Z_IMAGE, (merged["x"],), [1, 2])
    assert [len(part) for (part,) in (first, second)] == [1, 2]
    assert torch.equal(second[0][1], calls[1]["x"][1])


def test_lists_that_are_not_by_row_merge_with_nothing() -> None:
    call = {"x": [torch.zeros(4, 1, 8, 8)], "t": torch.zeros(1), "cap_feats": [torch.zeros(5, 3)] * 2}
    assert merge.signature(Z_IMAGE, call) != merge.signature(Z_IMAGE, call)
