"""What an engine makes of the folders of several pipeline families."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from imagefleet_runtime.worker.images import NotFiniteError


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The builders; imported here because they import torch, which takes ten seconds."""
    from tests.integration import worker_pipelines

    return worker_pipelines


@pytest.mark.parametrize(
    ("family", "class_name", "multiple", "negative_prompt"),
    [
        ("stable_diffusion", "StableDiffusionPipeline", 8, True),
        ("inpainting", "StableDiffusionPipeline", 8, True),
        ("flux", "FluxPipeline", 16, False),
    ],
)
def test_a_family_is_loaded_described_and_drawn(
    tiny: ModuleType, tmp_path: Path, family: str, class_name: str, multiple: int, negative_prompt: bool
) -> None:
    getattr(tiny, f"write_{family}")(tmp_path / family)
    pipeline = tiny.load(tmp_path / family)
    found = pipeline.capabilities
    assert (found.class_name, found.size_multiple) == (class_name, multiple)
    assert found.negative_prompt == negative_prompt
    first, again, other = (tiny.draw(pipeline, seed, width=96, height=64) for seed in (1, 1, 2))
    assert first.shape == (64, 96, 3)
    assert (first == again).all()
    assert (first != other).any()


def test_a_pipeline_that_draws_nan_fails_instead_of_giving_a_black_picture(
    tiny: ModuleType, tmp_path: Path
) -> None:
    tiny.write_broken(tmp_path / "broken")
    with pytest.raises(NotFiniteError):
        tiny.draw(tiny.load(tmp_path / "broken"), seed=1)


def test_a_failure_says_nothing_of_the_prompts(tiny: ModuleType) -> None:
    from imagefleet_runtime.worker.engine import failure

    prompt = "a secret\ncastle " * 50
    found = failure(ValueError(f"no token for {prompt!s} and blue; try others"), prompt, "blue")
    assert (found.code, found.message) == (
        "generation_failed",
        "ValueError: no token for ... and ...; try others",
    )


@pytest.mark.parametrize(
    "class_name", ["NoSuchPipeline", "AutoencoderKL", "logging", "DanceDiffusionPipeline"]
)
def test_a_class_that_draws_no_picture_from_a_text_is_refused(
    tiny: ModuleType, tmp_path: Path, class_name: str
) -> None:
    tiny.write_stable_diffusion(tmp_path / "model")
    with pytest.raises(Exception, match=r"has no pipeline|takes no prompt|expected"):
        tiny.load(tmp_path / "model", class_name)
