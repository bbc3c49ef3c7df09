"""The pool on which rollouts are tried: what it is told, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from tests.cluster.cluster import PATIENCE_SECONDS, REPOSITORY, wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.callers import Callers
from tests.e2e.images import conditions
from tests.plugins.cluster import Kubectl

Json = dict[str, Any]
NAME = "pictures"
RESOURCE = f"inferencepools.imagefleet.dev/{NAME}"
# Less often than elsewhere: each look is a process, and here the rest of the machine draws.
LOOK_SECONDS = 0.25


def shapes_model(name: str, folder: str = "", **spec: Any) -> Json:
    """An ImageModel of one of the shapes models in build/models; `folder`: of which, where it is not its name."""
    return {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": "ImageModel",
        "metadata": {"name": name},
        "spec": {
            "source": {"uri": f"file:///models/{folder or name}"},
            "defaults": {"steps": 6, "guidanceScale": 3.0, "size": "64x64"},
            **spec,
        },
    }


@dataclass(frozen=True)
class Pool:
    """One worker that offers a model as "shapes", and checks its pictures: the one of the examples.

    All journeys go one after the other on the same worker, since starting one takes most of the time.
    """

    fleet: Fleet
    kubectl: Kubectl

    @property
    def route(self) -> str:
        """What callers name."""
        return f"{self.kubectl.namespace}/shapes"

    def callers(self) -> Callers:
        """Constant load on both gateways."""
        return Callers(self.fleet.gateways(), self.route)

    def apply(self, *manifests: Json) -> None:
        """`kubectl apply` of all of them."""
        self.kubectl.apply("\n---\n".join(json.dumps(manifest) for manifest in manifests))

    def apply_example(self, path: str) -> None:
        """`kubectl apply -f examples/PATH`."""
        self.kubectl("apply", "-f", str(REPOSITORY / "examples" / path))

    def serve(self, model: str, *, suspend: bool = False, **entry: Any) -> None:
        """Name that model in the spec, with these further fields of its entry and no others."""
        path = REPOSITORY / "examples" / "canary" / "2-pool.yaml"
        manifest = yaml.safe_load(path.read_text())
        manifest["spec"] |= {"suspend": suspend, "models": [{"name": "shapes", "model": model, **entry}]}
        self.apply(manifest)

    def begin(self, model: str) -> None:
        """Serve a model alone, without steps, so that a journey can begin at it."""
        self.serve(model)
        self.wait_served(model)

    def roll(self, model: str, *steps: Json, **rollout: Any) -> None:
        """Move to a model by these steps."""
        self.serve(model, rollout={"steps": list(steps), **rollout})

    def command(self, words: str) -> None:
        """Give a command as a person would."""
        self.kubectl("annotate", RESOURCE, "--overwrite", f"imagefleet.dev/rollout={words}")

    def get(self) -> Json:
        """The pool as it is."""
        return self.kubectl.get(RESOURCE)

    def status(self) -> Json:
        """Its status; empty before there is one."""
        return dict(self.get().get("status", {}))

    def entry(self) -> Json:
        """status.models[0]; empty before there is one."""
        return dict((self.status().get("models") or [{}])[0])

    def traffic(self) -> dict[str, int]:
        """The shares of its name, by model."""
        return {share["model"]: share["percent"] for share in self.entry().get("traffic", ())}

    def rollout(self) -> Json:
        """Its rollout; empty where none is."""
        return dict(self.entry().get("rollout", {}))

    def history(self) -> list[Json]:
        """status.history, the oldest first."""
        return list(self.status().get("history", ()))

    def suspensions(self, model: str) -> list[Json]:
        """The records of a model's suspensions, the oldest first."""
        return [one for one in self.status().get("suspensions", ()) if one["model"] == model]

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition; empty where it is absent."""
        found = conditions(self.get()).get(kind, {})
        return found.get("status", ""), found.get("reason", "")

    def events(self) -> set[str]:
        """The reasons of all Events about it."""
        found = self.kubectl.get("events.events.k8s.io", f"--field-selector=regarding.name={NAME}")["items"]
        return {event["reason"] for event in found}

    def wait_served(self, model: str, seconds: float = 120.0) -> None:
        """Until the rollout has ended with all requests at `model`."""

        def done() -> bool:
            entry = self.entry()
            shares = [(share["model"], share["percent"]) for share in entry.get("traffic", ())]
            return entry.get("stable") == model and "rollout" not in entry and shares == [(model, 100)]

        self.wait(done, seconds)

    def wait_phase(self, phase: str, seconds: float = 120.0) -> Json:
        """Until the rollout is in that phase; the rollout then."""
        self.wait(lambda: self.rollout().get("phase") == phase, seconds)
        return self.rollout()

    def wait_traffic(self, shares: dict[str, int], seconds: float = PATIENCE_SECONDS) -> None:
        """Until the requests are divided so."""
        self.wait(lambda: self.traffic() == shares, seconds)

    def wait(self, done: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """Until `done`; else a TimeoutError that tells the pool's status."""
        try:
            wait_for(done, seconds=seconds, every=LOOK_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the pool says {json.dumps(self.status(), indent=1)}") from None
