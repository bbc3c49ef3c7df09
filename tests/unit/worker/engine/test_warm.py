"""How large a batch is measured before a model serves, over a pipeline of which only the times are real."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from imagefleet_runtime.worker.engine import warm as module
from imagefleet_runtime.worker.engine.hub import Round
from imagefleet_runtime.worker.engine.lanes import Lanes, Split
from imagefleet_runtime.worker.images import NotFiniteError
from imagefleet_runtime.worker.messages import Draw, SizeProfile, Warmth

GREY = np.full((2, 2, 3), 0.5, dtype=np.float32)


class Device:
    """A pipeline and its meter: a step of ``batch`` takes ``seconds(batch)`` and holds ``memory(batch)`` bytes."""

    def __init__(
        self,
        seconds: Callable[[int], float],
        memory: Callable[[int], int],
        largest: int = 99,
        threads: int = 1,
    ) -> None:
        self.seconds, self.memory, self.largest = seconds, memory, largest
        self.capabilities = SimpleNamespace(batches=True, size_multiple=16)
        self.now = 0.0
        self.left: dict[int, int] = {}  # steps of each drawing
        self.held = 0
        self.drawn = GREY
        self.hub = self
        self.lanes = Lanes(threads, choice=True)

    def monotonic(self) -> float:
        return self.now

    def start(self, draw: Draw, _on_preview: Any) -> None:
        self.left[draw.id] = draw.steps

    def __len__(self) -> int:
        return len(self.left)

    def __iter__(self) -> Any:
        return iter([SimpleNamespace(id=number) for number in self.left])

    def round(self) -> Round:
        batch = len(self.left)
        if batch > self.largest:
            return Round(errors=[(self.left.popitem(), torch.OutOfMemoryError("no"))])  # type: ignore[list-item]
        self.now += self.seconds(batch)
        self.held = max(self.held, self.memory(batch))
        self.left = {number: steps - 1 for number, steps in self.left.items()}
        ended = [number for number, steps in self.left.items() if steps == 0]
        for number in ended:
            del self.left[number]
        return Round(results=[(number, self.drawn) for number in ended])  # type: ignore[misc]

    def cancel(self, number: int) -> None:
        self.left.pop(number, None)

    def synchronize(self) -> None:
        pass

    def forget_steps(self) -> None:
        pass

    def reset(self) -> None:
        self.held = 0

    def peak(self) -> int:
        return self.held


def profile(
    device: Device, monkeypatch: pytest.MonkeyPatch, *, max_batch: int = 16, memory_bytes: int | None = None
) -> SizeProfile:
    monkeypatch.setattr(module, "time", device)
    warmth = Warmth(
        ((64, 72), (64, 64)), steps=20, guidance_scale=1.0, max_batch=max_batch, memory_bytes=memory_bytes
    )
    (found,) = module.warm(device, device, warmth)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("seconds", "limits", "batches"),
    [
        (lambda batch: 0.1, {}, [1, 2, 4, 8, 16]),  # a batch costs nothing
        (lambda batch: 0.1, {"max_batch": 4}, [1, 2, 4]),
        (lambda batch: 0.1 * batch, {}, [1, 2, 4]),  # it gains nothing: believed after two tries
        (lambda batch: 0.3 if batch == 2 else 0.1, {}, [1, 2, 4, 8, 16]),  # two was held up by something else
        (lambda batch: 0.1 * max(batch / 4, 1), {}, [1, 2, 4, 8, 16]),  # no more from four on
        (lambda batch: 4.0 * batch, {}, [1]),  # two would be measured for longer than that is worth
        (lambda batch: 0.1, {"memory_bytes": 60}, [1, 2, 4]),  # 10 bytes for each: eight would need 80
    ],
)
def test_batches_double_while_they_gain_and_fit(
    monkeypatch: pytest.MonkeyPatch,
    seconds: Callable[[int], float],
    limits: dict[str, Any],
    batches: list[int],
) -> None:
    found = profile(Device(seconds, lambda batch: 10 * batch), monkeypatch, **limits)
    assert [batch for batch, _seconds in found.step_seconds] == batches
    assert dict(found.step_seconds) == pytest.approx({batch: seconds(batch) for batch in batches})
    assert dict(found.peak_bytes) == {batch: 10 * batch for batch in batches}


def test_a_small_model_is_measured_until_others_have_had_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each hundred steps, the first thirty fall into another process's turn."""
    steps = itertools.count()

    def seconds(batch: int) -> float:
        return 0.0001 * batch if next(steps) % 100 >= 30 else 0.002

    found = dict(profile(Device(seconds, lambda _batch: 1), monkeypatch, max_batch=2).step_seconds)
    assert found == pytest.approx({1: 0.0001, 2: 0.0002})


@pytest.mark.parametrize(
    ("whole", "lane", "single", "ways"),
    [
        # A large model: two threads are twice as fast as one, however they are used.
        (lambda batch: 0.5 * batch, lambda batch: 0.6 * batch, lambda batch: 1.0 * batch, [1, 1, 1]),
        # A small one: a second thread only pays where it has pictures of its own.
        (
            lambda batch: 0.03 + 0.005 * batch,
            lambda batch: 0.02 + 0.002 * batch,
            lambda batch: 0.01 * batch,
            [0, 0, 2],
        ),
    ],
)
def test_each_batch_is_drawn_in_the_way_that_was_fastest(
    monkeypatch: pytest.MonkeyPatch,
    whole: Callable[[int], float],
    lane: Callable[[int], float],
    single: Callable[[int], float],
    ways: list[int],
) -> None:
    """``ways``: 1 for both threads in one call, 2 for two lanes, 0 for a single thread; of batches of 1, 2 and 4."""
    splits = {1: Split(1, 2), 2: Split(2, 1), 0: Split(1, 1)}
    takes = {splits[1]: whole, splits[2]: lane, splits[0]: single}
    device = Device(
        lambda batch: takes[device.lanes.choose(64 * 64 * batch)](batch), lambda batch: 1, threads=2
    )
    found = profile(device, monkeypatch, max_batch=4)
    assert [device.lanes.choose(64 * 64 * batch) for batch in (1, 2, 4)] == [splits[way] for way in ways]
    expected = {batch: takes[splits[way]](batch) for batch, way in zip((1, 2, 4), ways, strict=True)}
    assert dict(found.step_seconds) == pytest.approx(expected)


def test_sizes_are_rounded_down_to_what_the_pipeline_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    found = profile(Device(lambda batch: 0.1, lambda batch: batch), monkeypatch)
    assert (found.width, found.height) == (64, 64), (
        "64x72 and 64x64 are one size where sides are multiples of 16"
    )


def test_a_batch_that_is_out_of_memory_ends_the_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(lambda batch: 0.1, lambda batch: batch, largest=3)
    found = profile(device, monkeypatch)
    assert [batch for batch, _seconds in found.step_seconds] == [1, 2]
    assert len(device) == 0


def test_a_model_that_cannot_draw_one_picture_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        profile(Device(lambda batch: 0.1, lambda batch: batch, largest=0), monkeypatch)
    broken = Device(lambda batch: 0.1, lambda batch: batch)
    broken.drawn = GREY * np.nan
    with pytest.raises(NotFiniteError):
        profile(broken, monkeypatch)


def test_a_model_that_does_not_batch_is_measured_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(lambda batch: 0.1, lambda batch: batch)
    device.capabilities.batches = False
    assert [batch for batch, _seconds in profile(device, monkeypatch).step_seconds] == [1]
