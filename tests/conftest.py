"""What all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.cluster.fleet import MODELS
from tests.models import make_models

# How long an example takes says more about the machine's other work than about the code. The examples of a test are the
# same each time, so that it fails for whoever broke it; HYPOTHESIS_PROFILE=search looks for others, and for more.
settings.register_profile("imagefleet", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "imagefleet"))


@pytest.fixture(scope="session")
def image_mounts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The worker's image holds the demo models, and some that nobody should serve."""
    return {"/models": str(make_models(MODELS, tmp_path_factory.mktemp("image") / "models"))}
