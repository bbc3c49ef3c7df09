"""How calls of one denoiser are put into one call, and its answer taken apart. Pure, on tensors.

A *row* is one sample of a batch: a drawing with classifier-free guidance usually has two.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Layout:
    """Where the rows are in the arguments of a denoiser's ``forward``.

    ``primary``: the argument whose length is the number of rows. ``per_row``: scalars that may be given once for all
    rows. ``shared``: tensors without rows, which depend on the picture's size alone. ``by_row``: lists hold one element
    for each row (else each element of a list holds all rows). ``tileable``: the primary argument is rows x channels x
    height x width, so that it can be cut into windows.
    """

    primary: str
    per_row: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    by_row: bool = False
    tileable: bool = False


# By class. One that is not here is called for one drawing at a time.
LAYOUTS = {
    "UNet2DConditionModel": Layout("sample", per_row=frozenset({"timestep"}), tileable=True),
    "ControlNetModel": Layout("sample", per_row=frozenset({"timestep"})),
    "SD3Transformer2DModel": Layout("hidden_states", tileable=True),
    "SD3ControlNetModel": Layout("hidden_states"),
    "FluxTransformer2DModel": Layout("hidden_states", shared=frozenset({"img_ids", "txt_ids"})),
    "FluxControlNetModel": Layout("hidden_states", shared=frozenset({"img_ids", "txt_ids"})),
    "Flux2Transformer2DModel": Layout("hidden_states"),
    "ZImageTransformer2DModel": Layout("x", by_row=True),
}

Arguments = dict[str, Any]


class Unmergeable:
    """Equal to nothing but itself: a call that holds one shares its batch with no other."""


def rows_of(layout: Layout, arguments: Arguments) -> int:
    return len(arguments[layout.primary])


def signature(layout: Layout, arguments: Arguments) -> Hashable:
    """Equal for calls that can be merged: same names, shapes but for the rows, and plain values."""
    rows = rows_of(layout, arguments)
    return tuple((name, _kind(layout, name, value, rows)) for name, value in sorted(arguments.items()))


def _kind(layout: Layout, name: str, value: Any, rows: int) -> Hashable:
    if isinstance(value, torch.Tensor):
        return _tensor_kind(layout, name, value, rows)
    if isinstance(value, dict):
        return tuple((key, _kind(layout, key, inner, rows)) for key, inner in sorted(value.items()))
    if isinstance(value, list | tuple):
        if layout.by_row:
            return "list" if len(value) == rows else Unmergeable()
        return tuple(_kind(layout, name, inner, rows) for inner in value)
    return value if value is None or isinstance(value, bool | int | float | str) else Unmergeable()


def _tensor_kind(layout: Layout, name: str, value: torch.Tensor, rows: int) -> Hashable:
    if name in layout.shared:
        return ("shared", tuple(value.shape), value.dtype)
    if name in layout.per_row and value.ndim == 0:
        return ((), value.dtype)
    if value.ndim and value.shape[0] == rows:
        return (tuple(value.shape[1:]), value.dtype)
    return Unmergeable()


def merge(layout: Layout, calls: Sequence[Arguments]) -> Arguments:
    """One call for all ``calls``, whose signatures are equal: their rows one after the other."""
    rows = [rows_of(layout, call) for call in calls]
    return {name: _join(layout, name, [call[name] for call in calls], rows) for name in calls[0]}


def _join(layout: Layout, name: str, values: list[Any], rows: list[int]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        if name in layout.shared:
            return first
        if name in layout.per_row:
            values = [
                value.expand(count) if value.ndim == 0 else value
                for value, count in zip(values, rows, strict=True)
            ]
        return torch.cat(values)
    if isinstance(first, dict):
        return {key: _join(layout, key, [value[key] for value in values], rows) for key in first}
    if isinstance(first, list | tuple):
        if layout.by_row:
            return [element for value in values for element in value]
        return type(first)(_join(layout, name, list(parts), rows) for parts in zip(*values, strict=True))
    return first


def split(layout: Layout, answer: Any, rows: Sequence[int]) -> list[Any]:
    """The answer to a merged call, taken apart again; ``rows``: how many each call had."""
    if isinstance(answer, torch.Tensor):
        return list(torch.split(answer, list(rows)))
    if isinstance(answer, dict):  # diffusers' outputs are dictionaries as well
        parts = {key: split(layout, value, rows) for key, value in answer.items()}
        return [
            type(answer)(**{key: value[index] for key, value in parts.items()}) for index in range(len(rows))
        ]
    if isinstance(answer, list) and layout.by_row:
        return _slices(answer, rows)
    return [
        type(answer)(of_one) for of_one in zip(*(split(layout, part, rows) for part in answer), strict=True)
    ]


def _slices(answer: list[Any], rows: Sequence[int]) -> list[Any]:
    parts, start = [], 0
    for count in rows:
        parts.append(answer[start : start + count])
        start += count
    return parts
