"""The folders that the worker's image holds in tests: the demo models, and broken ones."""

from __future__ import annotations

import shutil
from pathlib import Path

DEMO = (
    *("tiny-1", "tiny-2", "shapes-1", "shapes-2"),
    # All of these can be verified; what is wrong with them shows later (docs/models.md).
    *("shapes-degraded", "shapes-slow", "shapes-unsafe", "shapes-broken", "shapes-unloadable"),
)


def make_models(source: Path, target: Path) -> Path:
    """Fill `target` with the demo models of `source` and one folder for each way to be wrong; return it.

    Raises FileNotFoundError where the demo models have not been made.
    """
    for name in DEMO:
        if not (source / name / "model_index.json").exists():
            raise FileNotFoundError(f"{source / name} is missing: make demo-model")
        shutil.copytree(source / name, target / name)
    shutil.copytree(source / "tiny-1", target / "of-pickles")
    weights = next((target / "of-pickles" / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    shutil.copytree(
        source / "tiny-1", target / "without-weights", ignore=shutil.ignore_patterns("*.safetensors")
    )
    shutil.copytree(source / "tiny-1", target / "link-outside")
    (target / "link-outside" / "unet" / "notes.txt").symlink_to("/etc/hostname")
    shutil.copytree(source / "tiny-1", target / "unreadable")
    (target / "unreadable" / "unet" / "config.json").chmod(0o600)
    (target / "not-a-pipeline").mkdir()
    (target / "not-a-pipeline" / "README.md").write_text("No pipeline here.\n")
    return target
