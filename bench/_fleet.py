"""The whole fleet to measure, on a local cluster of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.fleet import IMAGE_MOUNTS, Fleet
from tests.plugins.cluster import Kubectl

NAMESPACE = "bench"


@contextmanager
def fleet() -> Iterator[tuple[Fleet, Kubectl]]:
    """The chart with its defaults, and kubectl in a namespace for what is measured. All of it ends with the context."""
    with tempfile.TemporaryDirectory(prefix="imagefleet-bench-") as folder:
        cluster = Cluster.start(Path(folder, "cluster"), image_mounts=IMAGE_MOUNTS, owned=True)
        try:
            installed = Fleet(cluster)
            installed.install()
            cluster.kubectl("create", "namespace", NAMESPACE)
            yield installed, Kubectl(cluster, NAMESPACE)
        finally:
            cluster.stop()
