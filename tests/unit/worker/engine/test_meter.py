"""The most memory that a process held."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from imagefleet_runtime.worker.engine import meter as module
from imagefleet_runtime.worker.engine.meter import Meter

MEGABYTES = 64


def test_the_peak_is_seen_after_it_has_passed() -> None:
    meter = Meter("cpu")
    meter.reset()
    before = meter.peak()
    if before is None:
        pytest.fail("this kernel tells no peak")
    # From the kernel, not from the allocator, which may have as much left over from what was freed before.
    with mmap.mmap(-1, MEGABYTES * 2**20) as held:
        for _ in range(MEGABYTES):
            held.write(b"1" * 2**20)
    after = meter.peak()
    assert after is not None
    assert after - before > 0.9 * MEGABYTES * 2**20
    meter.reset()
    forgotten = meter.peak()
    assert forgotten is not None
    assert forgotten < after - 0.5 * MEGABYTES * 2**20


def test_to_forget_the_peak_need_not_cost_a_walk_through_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter("cpu")
    meter.reset()
    walks: list[object] = []
    monkeypatch.setattr(module, "private_bytes", lambda: walks.append(None))
    meter.reset(exact=False)
    assert not walks
    assert meter.peak() is not None


def test_a_peak_that_the_kernel_does_not_let_reset_is_not_known(tmp_path: Path) -> None:
    meter = Meter("cpu", process=tmp_path / "absent")
    assert meter.peak() is None
    meter.reset()
    assert meter.peak() is None
    assert meter.now() is not None
