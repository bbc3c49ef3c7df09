"""The pool of the examples, with models to move to."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.fleet import Fleet
from tests.e2e.images import wait_ready
from tests.e2e.rollouts.pools import NAME, Pool, shapes_model
from tests.plugins.cluster import Kubectl

BAD_MODELS = ("shapes-slow", "shapes-broken", "shapes-unsafe", "shapes-unloadable")


@pytest.fixture(scope="package")
def pictures(fleet: Fleet) -> Iterator[Pool]:
    """One worker that serves shapes-1; two versions fit on it."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    fleet.cluster.kubectl("create", "namespace", name)
    pool = Pool(fleet, Kubectl(fleet.cluster, name))
    pool.apply_example("canary/1-models.yaml")
    pool.apply_example("canary/2-pool.yaml")
    pool.apply(*(shapes_model(model) for model in BAD_MODELS))
    wait_ready(pool.kubectl, NAME)
    yield pool
    fleet.cluster.kubectl("delete", "namespace", name, "--wait=false")
