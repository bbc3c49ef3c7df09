"""A pool whose number of workers changes: what it is told, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from tests.cluster.cluster import REPOSITORY, wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.callers import Callers
from tests.e2e.images import conditions
from tests.plugins.cluster import Kubectl

Json = dict[str, Any]
NAME = "pictures"
RESOURCE = f"inferencepools.imagefleet.dev/{NAME}"
LOOK_SECONDS = 0.25
PLACEMENT = "imagefleet.dev/placement"


def current(pool: Json) -> Json:
    """The pool, without a status that follows from an earlier spec."""
    told = pool.get("status", {}).get("observedGeneration")
    return pool if told == pool["metadata"]["generation"] else {**pool, "status": {}}


@dataclass(frozen=True)
class Pool:
    """The pool of an example, in a namespace of its own."""

    fleet: Fleet
    kubectl: Kubectl

    def callers(self, callers: int) -> Callers:
        """So many callers, at both gateways."""
        return Callers(self.fleet.gateways(), f"{self.kubectl.namespace}/shapes", callers=callers)

    def apply(self, example: str, **spec: Any) -> None:
        """The model and the pool of an example, the pool with these fields of its spec instead of its own; a field that
        is None is left out."""
        folder = REPOSITORY / "examples" / example
        self.kubectl("apply", "-f", str(folder / "1-model.yaml"))
        manifest = yaml.safe_load((folder / "2-pool.yaml").read_text())
        manifest["spec"] = {k: v for k, v in (manifest["spec"] | spec).items() if v is not None}
        self.apply_manifest(manifest)

    def apply_manifest(self, manifest: Json) -> None:
        """`kubectl apply` of it."""
        self.kubectl.apply(json.dumps(manifest))

    def status(self) -> Json:
        """Its status; empty before there is one that follows from the spec as it is now."""
        return dict(current(self.kubectl.get(RESOURCE)).get("status", {}))

    def scaling(self) -> Json:
        """status.scaling; empty before there is one."""
        return dict(self.status().get("scaling", {}))

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition; empty where it is absent."""
        found = conditions(current(self.kubectl.get(RESOURCE))).get(kind, {})
        return found.get("status", ""), found.get("reason", "")

    def pods(self) -> list[Json]:
        """The pods of its workers that are not on their way out."""
        found: list[Json] = self.kubectl.get("pods", "-l", f"imagefleet.dev/pool={NAME}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def serving(self) -> int:
        """Workers that gateways send requests to."""
        return sum(PLACEMENT in pod["metadata"].get("annotations", {}) for pod in self.pods())

    def events(self) -> set[str]:
        """The reasons of all Events about it."""
        found = self.kubectl.get("events.events.k8s.io", f"--field-selector=regarding.name={NAME}")["items"]
        return {event["reason"] for event in found}

    def wait(self, done: Callable[[], object], seconds: float = 150.0) -> None:
        """Until `done`, for longer than a worker takes to start on a busy machine; else a TimeoutError that tells the
        pool's status."""
        try:
            wait_for(done, seconds=seconds, every=LOOK_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the pool says {json.dumps(self.status(), indent=1)}") from None
