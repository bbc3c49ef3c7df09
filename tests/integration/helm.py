"""Helm as the tests call it: render the chart, or act on a release of the local cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.build import HELM, ensure
from tests.cluster.fleet import CHART

# helm template knows no cluster; this is the version of the local one.
KUBE_VERSION = "1.36.0"

Object = dict[str, Any]

VALUE_SETS = {
    path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text())
    for path in sorted((CHART / "ci").glob("*-values.yaml"))
}
"""The chart's own sets of values: default, minimal, full."""


class HelmError(RuntimeError):
    """Helm ended with an error; the message is what it wrote."""


@dataclass(frozen=True)
class Helm:
    program: Path = field(default_factory=lambda: ensure(HELM) / "helm")
    kubeconfig: Path | None = None

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """What Helm writes to standard output. Raises HelmError where it fails."""
        environment = dict(os.environ)
        if self.kubeconfig is not None:
            environment["KUBECONFIG"] = str(self.kubeconfig)
        command = [str(self.program), *arguments]
        if values is not None:
            command += ["--values", "-"]
        text = None if values is None else yaml.safe_dump(dict(values))
        done = subprocess.run(
            command, env=environment, input=text, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise HelmError(done.stderr)
        return done.stdout

    def template(self, values: Mapping[str, Any] | None = None, *arguments: str) -> list[Object]:
        """The objects of a release named fleet in namespace fleet-system."""
        text = self.run(
            "template", "fleet", str(CHART), "--namespace=fleet-system", f"--kube-version={KUBE_VERSION}",
            *arguments, values=values or {},
        )  # fmt: skip
        return [document for document in yaml.safe_load_all(text) if document]


def of_kind(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    """The objects of one kind by name."""
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def pod_specs(objects: Sequence[Object]) -> dict[str, Object]:
    """The pod spec of each Deployment, by its name."""
    return {name: found["spec"]["template"]["spec"] for name, found in of_kind(objects, "Deployment").items()}
