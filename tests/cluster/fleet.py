"""The whole fleet on a local cluster: the chart installed with Helm, as a user would."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .cluster import PATIENCE, REPOSITORY, Cluster, wait_for

CHART = REPOSITORY / "charts" / "imagefleet"
# What the worker's image holds: `make demo-model` made them.
MODELS = REPOSITORY / "build" / "models"
IMAGE_MOUNTS = {"/models": str(MODELS)}
GATEWAY_PORT = 8080


@dataclass(frozen=True)
class Fleet:
    """A release of the chart in `namespace` of `cluster`."""

    cluster: Cluster
    namespace: str = "imagefleet-system"
    release: str = "imagefleet"

    def install(self, values: Mapping[str, str] | None = None, timeout: str = "240s") -> str:
        """`helm upgrade --install`, until every pod of the release is ready; returns what Helm prints."""
        settings = [f"--set={name}={value}" for name, value in (values or {}).items()]
        flags = ["--create-namespace", "--take-ownership", "--wait", f"--timeout={timeout}"]
        return self.helm("upgrade", "--install", self.release, str(CHART), *flags, *settings)

    def helm(self, *args: str) -> str:
        """Run the real helm in the release's namespace; raises CalledProcessError with its output."""
        command = ["helm", "--namespace", self.namespace, *args]
        env = self.cluster.env()
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def pods(self, component: str) -> list[dict[str, Any]]:
        """The release's pods of the operator or the gateway that are not on their way out."""
        selector = f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component={component}"
        found: list[dict[str, Any]] = self.cluster.get("pods", "-l", selector, namespace=self.namespace)[
            "items"
        ]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def scale(self, component: str, replicas: int) -> None:
        """Have so many pods of the operator or the gateway, and wait until they are there and the others gone."""
        deployment = f"deployment/{self.release}-{component}"
        self.cluster.kubectl("scale", deployment, f"--replicas={replicas}", namespace=self.namespace)
        self.cluster.kubectl("rollout", "status", deployment, PATIENCE, namespace=self.namespace)
        wait_for(lambda: len(self.pods(component)) == replicas)

    def gateways(self) -> list[str]:
        """Base addresses of the gateway's pods. The local cluster has no service proxy."""
        return [f"http://{pod['status']['podIP']}:{GATEWAY_PORT}" for pod in self.pods("gateway")]
