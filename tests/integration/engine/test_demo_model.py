"""The tiny models of the demo: made anew, they are the same to the last byte."""

from __future__ import annotations

from pathlib import Path

from imagefleet_runtime.worker.source import DigestCache, inspect

from tests.cluster.fleet import MODELS


def test_the_demo_model_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    from scripts import demo_model

    demo_model.write(tmp_path / "again", seed=1)
    again = inspect(tmp_path / "again", DigestCache())
    assert again == inspect(MODELS / "tiny-1", DigestCache())
    assert again.digest != inspect(MODELS / "tiny-2", DigestCache()).digest
    assert again.bytes < 10_000_000
