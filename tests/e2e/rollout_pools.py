"""Manifests of models and pools that roll out, and what their status says."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.cluster import wait_for
from tests.plugins.cluster import Kubectl

Json = dict[str, Any]
STEPS: list[Json] = [{"setWeight": 50}, {"analysis": {}}]


def shapes_model(name: str, **spec: Any) -> Json:
    """An ImageModel of one of the shapes models in build/models."""
    return {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": "ImageModel",
        "metadata": {"name": name},
        "spec": {
            "source": {"uri": f"file:///models/{name}"},
            "defaults": {"steps": 12, "guidanceScale": 3.0, "size": "64x64"},
            **spec,
        },
    }


def pool(name: str, model: str, *, replicas: int = 1, worker: Json | None = None, **entry: Any) -> Json:
    """A pool on CPUs that offers `model` as "shapes"; `entry` is what spec.models[] has besides."""
    return {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "worker": {"accelerator": {"count": 0}, **(worker or {})},
            "models": [{"name": "shapes", "model": model, **entry}],
        },
    }


def apply(kubectl: Kubectl, *manifests: Json) -> None:
    """`kubectl apply` of all of them."""
    kubectl.apply("\n---\n".join(json.dumps(manifest) for manifest in manifests))


def entry_of(kubectl: Kubectl, name: str) -> Json:
    """status.models[0] of a pool; empty before there is one."""
    models = kubectl.get(f"inferencepools.imagefleet.dev/{name}").get("status", {}).get("models") or [{}]
    return dict(models[0])


def traffic_of(kubectl: Kubectl, name: str) -> dict[str, int]:
    """The shares of a pool's name, by model."""
    return {share["model"]: share["percent"] for share in entry_of(kubectl, name).get("traffic", ())}


def phase_of(kubectl: Kubectl, name: str) -> str:
    """The phase of a pool's rollout; empty where none is."""
    return str(entry_of(kubectl, name).get("rollout", {}).get("phase", ""))


def wait_served(kubectl: Kubectl, name: str, model: str, seconds: float = 90.0) -> None:
    """Until the rollout has ended with all requests at `model`."""

    def done() -> bool:
        entry = entry_of(kubectl, name)
        shares = [(share["model"], share["percent"]) for share in entry.get("traffic", ())]
        return entry.get("stable") == model and "canary" not in entry and shares == [(model, 100)]

    _wait(kubectl, name, done, seconds)


def wait_phase(kubectl: Kubectl, name: str, phase: str, seconds: float = 90.0) -> Json:
    """Until the rollout is in that phase; the entry then."""
    _wait(kubectl, name, lambda: phase_of(kubectl, name) == phase, seconds)
    return entry_of(kubectl, name)


def _wait(kubectl: Kubectl, name: str, done: Any, seconds: float) -> None:
    try:
        wait_for(done, seconds=seconds)
    except TimeoutError as error:
        found = json.dumps(entry_of(kubectl, name), indent=1)
        raise TimeoutError(f"{error}; the pool's entry is {found}") from None


def history_of(kubectl: Kubectl, name: str) -> list[Json]:
    """status.history of a pool, the oldest first."""
    return list(kubectl.get(f"inferencepools.imagefleet.dev/{name}")["status"].get("history", ()))


def events_of(kubectl: Kubectl, name: str) -> set[str]:
    """The reasons of all Events about a pool."""
    found = kubectl.get("events.events.k8s.io", f"--field-selector=regarding.name={name}")["items"]
    return {event["reason"] for event in found}


def command(kubectl: Kubectl, name: str, words: str) -> None:
    """Give a command as a person would."""
    kubectl(
        "annotate", f"inferencepools.imagefleet.dev/{name}", "--overwrite", f"imagefleet.dev/rollout={words}"
    )
