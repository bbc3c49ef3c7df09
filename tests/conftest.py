"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.cluster.fleet import MODELS
from tests.models import make_models

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("imagefleet", deadline=None)
settings.load_profile("imagefleet")


@pytest.fixture(scope="session")
def image_mounts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The worker's image holds the demo models, and some that nobody should serve."""
    return {"/models": str(make_models(MODELS, tmp_path_factory.mktemp("image") / "models"))}
