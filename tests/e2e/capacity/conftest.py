"""A namespace for the pools whose number of workers changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.fleet import Fleet
from tests.e2e.capacity.pools import Pool
from tests.plugins.cluster import Kubectl


@pytest.fixture(scope="package")
def pictures(fleet: Fleet) -> Iterator[Pool]:
    """One pool for all journeys, which go one after the other: each applies what it needs."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    fleet.cluster.kubectl("create", "namespace", name)
    yield Pool(fleet, Kubectl(fleet.cluster, name))
    fleet.cluster.kubectl("delete", "namespace", name, "--wait=false")
