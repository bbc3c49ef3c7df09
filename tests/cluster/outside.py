"""The operator as a process outside the cluster, under its own account: to kill it and to count its writes."""

from __future__ import annotations

import base64
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .cluster import Cluster, wait_for
from .controlplane import free_ports

ACCOUNT = "outside-operator"
USER = f"system:serviceaccount:default:{ACCOUNT}"


def make_account(cluster: Cluster) -> str:
    """A service account that may do everything; returns a token of it."""
    cluster.kubectl("create", "serviceaccount", ACCOUNT, namespace="default")
    cluster.kubectl(
        "create",
        "clusterrolebinding",
        ACCOUNT,
        "--clusterrole=cluster-admin",
        f"--serviceaccount=default:{ACCOUNT}",
    )
    return cluster.kubectl("create", "token", ACCOUNT, "--duration=6h", namespace="default").strip()


def write_kubeconfig(cluster: Cluster, path: Path, token: str, server: str = "") -> Path:
    """For the account whose `token` it is. `server`: another address, such as that of a proxy in front."""
    facts = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    if server:
        facts = {"server": server}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": facts}],
        "users": [{"name": "local", "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
        "current-context": "local",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def certificate_authority(cluster: Cluster) -> str:
    """The cluster's CA, as PEM text."""
    facts = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    return base64.b64decode(facts["certificate-authority-data"]).decode()


def write_caller_key(path: Path) -> Path:
    """The key with which the operator and the gateway prove to workers who they are."""
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(*encoding))
    return path


class OutsideOperator:
    """`imagefleet-operator` run by us. It elects itself under a fixed identity, so that a successor need not wait.

    `namespace` is that of its Lease and of the gateways that it finds, `settings` are further ones by their environment
    variables.
    """

    def __init__(
        self,
        cluster: Cluster,
        kubeconfig: Path,
        key: Path,
        log: Path,
        *,
        identity: str = "outside",
        namespace: str = "default",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._cluster, self._kubeconfig, self._key, self._log = cluster, kubeconfig, key, log
        self._identity, self._namespace = identity, namespace
        self._settings = {"IMAGEFLEET_WORKER_IMAGE": "imagefleet-worker", **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        """Where it serves its probes and metrics, once it was started."""

    def __enter__(self) -> OutsideOperator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether it ended, by itself or because somebody killed it."""
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        """Start it, and wait until it serves its probes."""
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        command = [
            str(Path(sys.prefix, "bin", "imagefleet-operator")),
            f"--caller-key-file={self._key}",
            f"--lease-namespace={self._namespace}",
            f"--identity={self._identity}",
            "--host=127.0.0.1",
            f"--port={port}",
        ]
        env = {**self._cluster.env(), **self._settings, "KUBECONFIG": str(self._kubeconfig)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: self.dead or _answers(f"{self.address}/livez"))
        if self.dead:
            raise RuntimeError(f"the operator ended at once, see {self._log}")

    def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def resident_bytes(self) -> int:
        """VmRSS of the process, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
