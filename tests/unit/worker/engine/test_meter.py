"""The most memory that a process held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imagefleet_runtime.worker.engine.meter import Meter

MEGABYTES = 64


def test_the_peak_is_seen_after_it_has_passed() -> None:
    meter = Meter("cpu")
    meter.reset()
    before = meter.peak()
    if before is None:
        pytest.fail("this kernel tells no peak")
    held = np.ones(MEGABYTES * 2**20, dtype=np.uint8)
    assert held.sum() == held.size
    del held
    after = meter.peak()
    assert after is not None
    assert after - before > 0.9 * MEGABYTES * 2**20
    meter.reset()
    forgotten = meter.peak()
    assert forgotten is not None
    assert forgotten < after - 0.5 * MEGABYTES * 2**20


def test_a_peak_that_the_kernel_does_not_let_reset_is_not_known(tmp_path: Path) -> None:
    meter = Meter("cpu", process=tmp_path / "absent")
    assert meter.peak() is None
    meter.reset()
    assert meter.peak() is None
    assert meter.now() is not None
