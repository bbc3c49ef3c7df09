"""Continuous batching at step level: drawings that run side by side and share each call of the denoiser.

Each drawing is a greenlet that runs diffusers' own, unmodified pipeline. Where the pipeline calls a shared module (the
UNet or transformer, a ControlNet), the greenlet hands the call to the hub and sleeps. The hub merges the calls that fit
together into one, and wakes each drawing with its part of the answer. So drawings join and leave between any two
steps, in whatever mode, and none of them knows.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import greenlet  # type: ignore[import-untyped]
import torch

from imagefleet_runtime.worker.checkpoint import CheckpointError
from imagefleet_runtime.worker.engine import merge, tiles
from imagefleet_runtime.worker.engine.failures import is_out_of_memory
from imagefleet_runtime.worker.engine.lanes import Lanes
from imagefleet_runtime.worker.engine.tape import Tape

# Calls in one merged call. Only the windows of very large pictures are more: the supervisor keeps batches of drawings
# as small as they gain.
MAX_MERGED = 16


class CancelledError(Exception):
    """The caller went away; raised in a drawing where it waits for its next step."""


@dataclass(eq=False)
class Drawing:
    """One picture in the making. ``work`` runs in a greenlet of its own and returns the result.

    ``key``: drawings share calls only where it is equal (size, adapters). ``pixels``: its size. ``windows``: where the
    picture is larger than the model can draw at once, the tiles of its latents. ``tape``: what it was told so far.
    """

    id: int
    key: Hashable
    work: Callable[[], Any]
    pixels: int
    adapters: tuple[tuple[str, float], ...] = ()
    windows: tiles.Windows | None = None
    tape: Tape = field(default_factory=Tape)
    paused: bool = False  # it waits, with all that it has, until it may go on
    work_seconds: float = 0.0  # its own share of the device's time
    shared_seconds: float = 0.0  # of these, its share of calls that others may take part in
    call: _Call | None = None  # what it waits for; None: it has not begun, or has ended
    thread: greenlet.greenlet | None = None


@dataclass(eq=False)
class _Call:
    module: SharedModule
    arguments: dict[str, Any]


@dataclass
class Round:
    """Drawings that ended, with their results or errors."""

    results: list[tuple[Drawing, Any]] = field(default_factory=list)
    errors: list[tuple[Drawing, Exception]] = field(default_factory=list)


class SharedModule:
    """A module of the pipeline whose calls the hub answers. Its own ``forward`` is kept aside.

    ``guides``: it is a ControlNet.
    """

    def __init__(self, module: torch.nn.Module, batches: bool, guides: bool = False) -> None:
        self.module = module
        self.guides = guides
        self.forward = module.forward
        self._signature = inspect.signature(module.forward)
        self.layout = merge.LAYOUTS.get(type(module).__name__) if batches else None
        module.forward = self._ask_hub

    def _ask_hub(self, *arguments: Any, **keywords: Any) -> Any:
        current = greenlet.getcurrent()
        if not isinstance(current, _Thread):  # nobody to share with
            return self.forward(*arguments, **keywords)
        bound = dict(self._signature.bind(*arguments, **keywords).arguments)
        return current.parent.switch(_Call(self, bound))


class _Thread(greenlet.greenlet):  # type: ignore[misc]
    """A drawing's greenlet."""


class Hub:
    """``activate(module, adapters)`` is called before each call of a shared module.

    Raises nothing of a drawing's: errors are in the Round.
    """

    def __init__(
        self, activate: Callable[[torch.nn.Module, tuple[tuple[str, float], ...]], None], lanes: Lanes
    ) -> None:
        self._activate = activate
        self._lanes = lanes
        self._drawings: dict[int, Drawing] = {}
        self._ended = Round()
        # Batches that failed though each of their drawings succeeded alone (mostly: out of memory) are kept smaller.
        self._largest: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._drawings)

    def __iter__(self) -> Iterator[Drawing]:
        return iter(self._drawings.values())

    def start(self, drawing: Drawing) -> None:
        """Run ``drawing`` up to its first call of a shared module."""
        self._drawings[drawing.id] = drawing
        drawing.thread = _Thread(drawing.work)
        self._resume(drawing, drawing.thread.switch)

    def cancel(self, identifier: int) -> None:
        """End a drawing where it waits. Without effect on one that has ended."""
        drawing = self._drawings.get(identifier)
        if drawing is not None and drawing.thread is not None:
            self._resume(drawing, drawing.thread.throw, CancelledError)

    def pause(self, identifier: int, paused: bool) -> None:
        """Leave a drawing where it waits, in all further rounds, or go on with it."""
        if identifier in self._drawings:
            self._drawings[identifier].paused = paused

    def is_paused(self, identifier: int) -> bool:
        return identifier in self._drawings and self._drawings[identifier].paused

    def round(self) -> Round:
        """Answer every call that waits, each as part of the largest batch that fits it."""
        waiting = [each for each in self._drawings.values() if each.call is not None and not each.paused]
        for kind, group in _groups(waiting).items():
            size = self._largest.get(kind, len(group))
            for start in range(0, len(group), size):
                self._answer(kind, group[start : start + size])
        return self.take_ended()

    def take_ended(self) -> Round:
        """What has ended since this was last asked."""
        ended, self._ended = self._ended, Round()
        return ended

    def _answer(self, kind: Hashable, group: list[Drawing]) -> None:
        started = time.monotonic()
        answers = self._try_forward(group)
        share = (time.monotonic() - started) / len(group)
        if isinstance(answers, Exception):
            self._answer_alone(kind, group, answers)
            return
        for drawing, answer in zip(group, answers, strict=True):
            drawing.work_seconds += share
            drawing.shared_seconds += share
            self._hand(drawing, answer)

    def _hand(self, drawing: Drawing, answer: Any) -> None:
        assert drawing.thread is not None
        assert drawing.call is not None
        try:
            drawing.tape.add(answer, guide=drawing.call.module.guides)
        except CheckpointError as error:
            self._resume(drawing, drawing.thread.throw, error)
        else:
            self._resume(drawing, drawing.thread.switch, answer)

    def _try_forward(self, group: list[Drawing]) -> list[Any] | Exception:
        try:
            return self._forward(group)
        except Exception as error:
            # A traceback holds the frames it went through, and so the tensors that there was too little memory for.
            return error.with_traceback(None) if is_out_of_memory(error) else error

    def _answer_alone(self, kind: Hashable, group: list[Drawing], error: Exception) -> None:
        """A batch failed: draw its members one by one, so that only the culprit fails."""
        if is_out_of_memory(error) and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(group) == 1:
            thread = group[0].thread
            assert thread is not None
            # In the drawing itself, which ends as it would have had the pipeline called the module.
            self._resume(group[0], thread.throw, error)
            return
        failed_before = len(self._ended.errors)
        for drawing in group:
            self._answer(kind, [drawing])
        if len(self._ended.errors) == failed_before:
            self._largest[kind] = len(group) // 2

    def _forward(self, group: list[Drawing]) -> list[Any]:
        calls = [drawing.call for drawing in group if drawing.call is not None]
        shared = calls[0].module
        self._activate(shared.module, group[0].adapters)
        layout, windows = shared.layout, group[0].windows
        split = self._lanes.choose(sum(drawing.pixels for drawing in group))
        draw = functools.partial(self._batched, shared, layout)
        if layout is not None and layout.tileable and windows is not None:
            cut = [tiles.cut(windows, layout, call.arguments) for call in calls]
            answers = iter(self._lanes.run(split, draw, [window for of_one in cut for window in of_one]))
            return [tiles.join(windows, [next(answers) for _window in of_one]) for of_one in cut]
        return self._lanes.run(split, draw, [call.arguments for call in calls])

    @staticmethod
    def _batched(
        shared: SharedModule, layout: merge.Layout | None, calls: Sequence[dict[str, Any]]
    ) -> list[Any]:
        """The answer to each of ``calls``, at most MAX_MERGED of them at a time."""
        if layout is None or len(calls) == 1:
            return [shared.forward(**call) for call in calls]
        answers: list[Any] = []
        for start in range(0, len(calls), MAX_MERGED):
            part = calls[start : start + MAX_MERGED]
            rows = [merge.rows_of(layout, call) for call in part]
            answer = shared.forward(**merge.merge(layout, part))
            answers.extend(merge.split(layout, answer, rows))
        return answers

    def _resume(self, drawing: Drawing, switch: Callable[..., Any], *value: Any) -> None:
        """Let ``drawing`` run until it calls a shared module whose answer its tape does not know, or ends."""
        assert drawing.thread is not None
        switch_on = drawing.thread.switch
        drawing.call = None
        self._lanes.alone(drawing.pixels)
        started = time.monotonic()
        try:
            answer = switch(*value)
            while isinstance(answer, _Call) and drawing.tape.knows(guide=answer.module.guides):
                answer = switch_on(drawing.tape.recall(guide=answer.module.guides))
            if not isinstance(answer, _Call) and drawing.tape.catching_up:
                raise CheckpointError("the checkpoint holds more answers than the picture has steps")
        except Exception as error:
            self._ended.errors.append((drawing, _blamed(drawing, error)))
            del self._drawings[drawing.id]
            return
        finally:
            drawing.work_seconds += time.monotonic() - started
        if isinstance(answer, _Call):
            drawing.call = answer
        else:
            self._ended.results.append((drawing, answer))
            del self._drawings[drawing.id]


def _blamed(drawing: Drawing, error: Exception) -> Exception:
    """``error``, or that the drawing was given a checkpoint with which it cannot get as far as that has it."""
    if (
        not drawing.tape.catching_up
        or isinstance(error, CancelledError | CheckpointError)
        or is_out_of_memory(error)
    ):
        return error
    return CheckpointError(f"the pipeline cannot go on from the checkpoint: {type(error).__name__}")


def _groups(drawings: list[Drawing]) -> dict[Hashable, list[Drawing]]:
    """Drawings whose calls can be merged, together; in the order in which they came."""
    groups: dict[Hashable, list[Drawing]] = {}
    for drawing in drawings:
        groups.setdefault(_kind(drawing), []).append(drawing)
    return groups


def _kind(drawing: Drawing) -> Hashable:
    """Equal for drawings whose calls can be merged."""
    call = drawing.call
    assert call is not None
    layout = call.module.layout
    if layout is None:
        return (call.module, drawing.id)
    return (
        call.module,
        drawing.key,
        drawing.adapters,
        drawing.windows,
        merge.signature(layout, call.arguments),
    )
