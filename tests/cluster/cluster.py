"""A local cluster as a folder: start it, use it, end it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import build, controlplane, processes
from .controlplane import Layout
from .node.config import NodeConfig, NodeSpec
from .node.host import needed_paths

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_FOLDER = REPOSITORY / ".cluster"
# Reached only where something is broken: how long a thing takes says as much of the machine, and of its neighbours.
PATIENCE_SECONDS = 120.0
PATIENCE = f"--timeout={PATIENCE_SECONDS:.0f}s"
"""The same, as kubectl takes it."""


class KubectlError(RuntimeError):
    """kubectl failed; the message is what it wrote to standard error."""


@dataclass(frozen=True)
class ContainerProcess:
    """The main process of a running container."""

    record: processes.Record
    restarts: int

    @property
    def pid(self) -> int:
        return self.record.pid


class Cluster:
    """A running cluster. Everything it consists of lies in, or is recorded in, one folder."""

    def __init__(self, folder: Path, *, owned: bool = False) -> None:
        self.layout = Layout(folder.resolve())
        self._owned = owned

    @classmethod
    def start(
        cls,
        folder: Path = DEFAULT_FOLDER,
        *,
        nodes: Sequence[NodeSpec] = (NodeSpec("node-1", gpus=8),),
        image_mounts: Mapping[str, str] | None = None,
        owned: bool = False,
    ) -> Cluster:
        """Start one, or return the one that runs there already. `owned`: it dies with the calling thread."""
        cluster = cls(folder, owned=owned)
        if cluster.control_plane_alive():
            cluster._check_mounts(image_mounts or {})
            cluster._revive_nodes()
        else:
            cluster.stop()
            cluster._create(nodes, dict(image_mounts or {}))
        cluster.wait_ready()
        return cluster

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def server(self) -> str:
        return str(self._facts()["server"])

    def env(self) -> dict[str, str]:
        """For programs that talk to the cluster: their own environment with KUBECONFIG and PATH set."""
        path = f"{self.layout.bin}:{Path(sys.prefix, 'bin')}:{os.environ.get('PATH', '')}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def kubectl(self, *args: str, namespace: str | None = None, stdin: str | None = None) -> str:
        chosen = ["--namespace", namespace] if namespace else []
        command = [str(self.layout.bin / "kubectl"), *chosen, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=self.env())
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *args: str, namespace: str | None = None) -> dict[str, Any]:
        """`kubectl get ... -o json`, read."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *args, "-o", "json", namespace=namespace))
        return found

    def add_node(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        gpus: int = 0,
        resource: str = "nvidia.com/gpu",
        extended: Mapping[str, str] | None = None,
        taints: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Another Node, run by a process of its own; returns when it is Ready."""
        spec = NodeSpec(
            name, gpus, resource, dict(labels or {}), dict(extended or {}), [dict(taint) for taint in taints]
        )
        self._start_nodes(name, self._node_config([spec], self._facts()["image_mounts"]))
        self.kubectl("wait", "--for=create", f"node/{name}", PATIENCE)
        self.kubectl("wait", "--for=condition=Ready", f"node/{name}", PATIENCE)

    def remove_node(self, name: str) -> None:
        """End the process and delete the Node; its pods go the way of a lost node."""
        processes.stop([r for r in processes.read(self.layout.records) if r.name == f"node-{name}"])
        (self.layout.records / f"node-{name}.json").unlink(missing_ok=True)
        (self.layout.nodes / f"{name}.json").unlink(missing_ok=True)
        self.kubectl("delete", "node", name, "--ignore-not-found")

    def node_processes(self) -> list[processes.Record]:
        return [r for r in processes.read(self.layout.records) if r.name.startswith("node-")]

    def processes_of(self, namespace: str, pod: str) -> dict[str, ContainerProcess]:
        """Running containers of a pod by name."""
        for state in self._pod_states():
            if (state["namespace"], state["name"]) == (namespace, pod):
                return {name: _container(name, entry) for name, entry in state["containers"].items()}
        return {}

    def pid(self, namespace: str, pod: str, container: str | None = None) -> int:
        """Of the main process of a container; of the pod's only one where none is named."""
        running = self.processes_of(namespace, pod)
        name = container or next(iter(running), "")
        if name not in running:
            raise LookupError(f"no running container {name!r} in pod {namespace}/{pod}")
        return running[name].pid

    def kill(
        self,
        namespace: str,
        pod: str,
        container: str | None = None,
        number: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Send a signal to a container's main process, as an out-of-memory killer or a crash would."""
        os.kill(self.pid(namespace, pod, container), number)

    def control_plane_alive(self) -> bool:
        records = [r for r in processes.read(self.layout.records) if not r.name.startswith("node-")]
        return (
            bool(records) and all(r.alive() for r in records) and (self.layout.root / "cluster.json").exists()
        )

    def wait_ready(self) -> None:
        """Until pods can be created and run."""
        names = [f"node/{spec.name}" for config in self._node_configs() for spec in config.nodes]
        for name in names:  # of several names, kubectl does not wait for those that are missing
            self.kubectl("wait", "--for=create", name, PATIENCE)
        self.kubectl("wait", "--for=condition=Ready", *names, PATIENCE)
        self.kubectl("wait", "--for=create", "serviceaccount/default", PATIENCE, namespace="default")

    def stop(self) -> None:
        """End every process of the cluster, however it was left, and remove its folder."""
        layout = self.layout
        if not layout.root.exists():
            return
        if not layout.records.exists() and any(layout.root.iterdir()):
            raise ValueError(f"{layout.root} is not the folder of a cluster")
        # Nodes first: they take their pods along, and nobody is left to start them again.
        processes.stop(self.node_processes(), grace=3)
        processes.stop(self._pod_records(), grace=0)
        processes.stop(processes.read(layout.records), grace=0)  # its data goes too
        shutil.rmtree(layout.root, ignore_errors=True)

    def _create(self, nodes: Sequence[NodeSpec], image_mounts: dict[str, str]) -> None:
        found = build.programs()
        layout = self.layout
        for folder in (layout.bin, layout.logs, layout.records, layout.root / "pods"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, path in found.items():
            (layout.bin / name).symlink_to(path)
        server = controlplane.start(layout, owned=self._owned)
        facts = {"server": server, "image_mounts": image_mounts}
        (layout.root / "cluster.json").write_text(json.dumps(facts))
        self._start_nodes("main", self._node_config(nodes, image_mounts))

    def _check_mounts(self, wanted: Mapping[str, str]) -> None:
        """Containers of a running cluster see what it was started with."""
        missing = dict(wanted.items() - self._facts()["image_mounts"].items())
        if missing:
            raise ValueError(f"the cluster in {self.layout.root} runs without {missing}: end it first")

    def _revive_nodes(self) -> None:
        alive = {record.name for record in self.node_processes() if record.alive()}
        for path in self.layout.nodes.glob("*.json"):
            if f"node-{path.stem}" not in alive:
                self._start_nodes(path.stem, NodeConfig.read(path))

    def _node_config(self, nodes: Sequence[NodeSpec], image_mounts: dict[str, str]) -> NodeConfig:
        return NodeConfig(
            root=str(self.layout.root),
            server=self.server,
            launcher=str((self.layout.bin / "launcher").resolve()),
            nodes=list(nodes),
            path=[str(Path(sys.prefix, "bin"))],
            needed=needed_paths(REPOSITORY),
            image_mounts=image_mounts,
        )

    def _start_nodes(self, name: str, config: NodeConfig) -> None:
        path = self.layout.nodes / f"{name}.json"
        config.write(path)
        processes.start(
            f"node-{name}",
            [sys.executable, "-m", f"{__package__}.node", str(path)],
            log=self.layout.logs / f"node-{name}.log",
            records=self.layout.records,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            owned=self._owned,
        )

    def _node_configs(self) -> list[NodeConfig]:
        return [NodeConfig.read(path) for path in self.layout.nodes.glob("*.json")]

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.layout.root / "cluster.json").read_text())
        return facts

    def _pod_states(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in (self.layout.root / "pods").glob("*/state.json")]

    def _pod_records(self) -> list[processes.Record]:
        entries = [entry for state in self._pod_states() for entry in state["containers"].items()]
        return [_container(name, entry).record for name, entry in entries]


def _container(name: str, entry: Mapping[str, int]) -> ContainerProcess:
    return ContainerProcess(processes.Record(name, entry["pid"], entry["started"]), entry["restarts"])


def wait_for(check: Callable[[], T], seconds: float = PATIENCE_SECONDS, every: float = 0.1) -> T:
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {answer!r} after {seconds:g} s")
        time.sleep(every)
