"""What all tests share."""

from __future__ import annotations

import pytest

from tests.cluster.fleet import MODELS
from tests.models import make_models


@pytest.fixture(scope="session")
def image_mounts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The worker's image holds the demo models, and some that nobody should serve."""
    return {"/models": str(make_models(MODELS, tmp_path_factory.mktemp("image") / "models"))}
