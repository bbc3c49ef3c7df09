"""What all tests share."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.cluster.fleet import MODELS
from tests.models import make_models

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("imagefleet", deadline=None)
settings.load_profile("imagefleet")


SHARING = (
    "tests/e2e/",
    "tests/integration/controller/",
    "tests/integration/engine/",
    "tests/integration/test_worker",
)
"""Of modules that share what takes long to make: a fleet, an operator, tiny pipelines (and torch), a worker."""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Where tests run in several processes, a module's stay in one, and so do those that share a fleet or a worker.

    A wrapper, since xdist reads the marks in a hook of its own that comes before all others.
    """
    for item in items:
        module = item.nodeid.partition("::")[0]
        shared = (prefix for prefix in SHARING if module.startswith(prefix))
        item.add_marker(pytest.mark.xdist_group(next(shared, module)))
    return (yield)


@pytest.fixture(scope="session")
def image_mounts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The worker's image holds the demo models, and some that nobody should serve."""
    return {"/models": str(make_models(MODELS, tmp_path_factory.mktemp("image") / "models"))}
