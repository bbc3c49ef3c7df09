"""How large a batch is measured before a model serves, over a pipeline of which only the times are real."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from imagefleet_runtime.worker.engine import warm as module
from imagefleet_runtime.worker.engine.hub import Round
from imagefleet_runtime.worker.images import NotFiniteError
from imagefleet_runtime.worker.messages import Draw, SizeProfile, Warmth

GREY = np.full((2, 2, 3), 0.5, dtype=np.float32)


class Device:
    """A pipeline and its meter: a step of ``batch`` takes ``seconds(batch)`` and holds ``memory(batch)`` bytes."""

    def __init__(
        self, seconds: Callable[[int], float], memory: Callable[[int], int], largest: int = 99
    ) -> None:
        self.seconds, self.memory, self.largest = seconds, memory, largest
        self.capabilities = SimpleNamespace(batches=True, size_multiple=16)
        self.now = 0.0
        self.left: dict[int, int] = {}  # steps of each drawing
        self.held = 0
        self.drawn = GREY
        self.hub = self

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
