"""What a node process is told at its start: one JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class NodeSpec:
    """One Node object. `resource` is the accelerator it offers, `gpus` how many of it."""

    name: str
    gpus: int = 0
    resource: str = "nvidia.com/gpu"
    labels: dict[str, str] = field(default_factory=dict)
    extended: dict[str, str] = field(default_factory=dict)
    taints: list[dict[str, str]] = field(default_factory=list)
    # Plenty: requests sized for real machines must fit on a small one.
    cpu: str = "64"
    memory: str = "512Gi"
    pods: int = 250

    def capacity(self) -> dict[str, str]:
        accelerators = {self.resource: str(self.gpus)} if self.gpus else {}
        basic = {"cpu": self.cpu, "memory": self.memory, "pods": str(self.pods), "ephemeral-storage": "100Gi"}
        return basic | accelerators | self.extended


@dataclass(frozen=True)
class NodeConfig:
    """`image_mounts` maps a path inside every container to a folder of the host: what an image would hold."""

    root: str
    server: str
    launcher: str
    nodes: list[NodeSpec]
    path: list[str]
    needed: list[str]
    image_mounts: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    backoff_seconds: float = 1.0
    backoff_limit_seconds: float = 10.0

    @property
    def pki(self) -> Path:
        return Path(self.root, "pki")

    @property
    def pod_folders(self) -> Path:
        return Path(self.root, "pods")

    @property
    def pod_logs(self) -> Path:
        return Path(self.root, "logs", "pods")

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> NodeConfig:
        data: dict[str, Any] = json.loads(path.read_text())
        data["nodes"] = [NodeSpec(**node) for node in data["nodes"]]
        return cls(**data)
