"""`make demo`, as a stranger runs it after `make demo-model` and `make cluster-build`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.cluster.cluster import REPOSITORY


def test_the_demo_ends_with_a_picture_and_leaves_nothing_running(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "DEMO_ONCE": "1",
        "DEMO_FOLDER": str(tmp_path / "demo"),
        "DEMO_OUT": str(tmp_path / "out"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo"],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(tmp_path / "out" / "picture.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (64, 64))
    stages = [line for line in done.stdout.splitlines() if line.endswith(" s")]
    assert len(stages) == 6, "five stages and their sum, each with its time"
    assert not (tmp_path / "demo").exists(), "the cluster is gone"
