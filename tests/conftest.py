"""What all tests share."""

from __future__ import annotations

import pytest

from tests.cluster.fleet import IMAGE_MOUNTS


@pytest.fixture(scope="session")
def image_mounts() -> dict[str, str]:
    """The worker's image holds the demo models."""
    return IMAGE_MOUNTS
