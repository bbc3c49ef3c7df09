"""The processes of the control plane, and the flags that make them fit one small machine."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import yaml

from . import processes
from .pki import Authority, Pair

ADMIN_USER = "imagefleet:admin"
NODE_USER = "imagefleet:node"
MASTERS = ("system:masters",)

# No proxy and no DNS run here, and EndpointSlices refuse loopback addresses: clients watch Pods instead.
# The rest of the list needs a cloud, or would hand out pod networks.
CONTROLLERS_OFF = (
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "node-ipam-controller",
    "node-route-controller",
    "cloud-node-lifecycle-controller",
    "service-lb-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
)

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [{"level": "Metadata"}],
}


class StartError(RuntimeError):
    """A program of the control plane ended while the cluster was starting; the message ends with its log."""


@dataclass(frozen=True)
class Layout:
    """Where everything of one cluster lies."""

    root: Path

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def records(self) -> Path:
        return self.root / "pids"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def audit_log(self) -> Path:
        return self.root / "audit.log"

    @property
    def nodes(self) -> Path:
        return self.root / "nodes"

    @property
    def node_kubeconfig(self) -> Path:
        return self.pki / "node.kubeconfig"


def start(layout: Layout, *, owned: bool, attempts: int = 3) -> str:
    """Start etcd, the API server, the controller manager and the scheduler; return the server's address.

    A port that was free may be taken before its program listens on it: then all of it is tried again.
    """
    try:
        return _start_all(layout, owned)
    except StartError:
        if attempts == 1:
            raise
    _undo(layout)
    return start(layout, owned=owned, attempts=attempts - 1)


def _undo(layout: Layout) -> None:
    processes.stop(processes.read(layout.records), grace=0)
    for folder in (layout.records, layout.root / "etcd"):
        shutil.rmtree(folder, ignore_errors=True)


def _start_all(layout: Layout, owned: bool) -> str:
    etcd_port, peer_port, api_port = free_ports(3)
    server = f"https://127.0.0.1:{api_port}"
    _start(layout, "etcd", _etcd_flags(layout, etcd_port, peer_port), owned)
    authority = Authority(layout.pki)
    flags = _api_server_flags(layout, authority, etcd_port, api_port)
    _start(layout, "kube-apiserver", flags, owned)
    write_credentials(layout, authority, server)
    _wait_ready(layout, server, authority.certificate)
    _start(layout, "kube-controller-manager", _controller_manager_flags(layout, authority), owned)
    _start(layout, "kube-scheduler", _scheduler_flags(layout), owned)
    return server


def write_credentials(layout: Layout, authority: Authority, server: str) -> None:
    """One identity each, so that the audit log tells who did what."""
    users = {
        layout.kubeconfig: ("admin", ADMIN_USER),
        layout.node_kubeconfig: ("node", NODE_USER),
        layout.pki / "scheduler.kubeconfig": ("scheduler", "system:kube-scheduler"),
        layout.pki / "controller-manager.kubeconfig": (
            "controller-manager",
            "system:kube-controller-manager",
        ),
    }
    for path, (name, user) in users.items():
        authority.kubeconfig(path, server, authority.client(name, user, MASTERS))
    authority.server("node-server", ["127.0.0.1"])


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on. They are taken together, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _start(layout: Layout, name: str, flags: dict[str, str], owned: bool) -> None:
    command = [str(layout.bin / name), *(f"--{flag}={value}" for flag, value in flags.items())]
    processes.start(name, command, log=layout.logs / f"{name}.log", records=layout.records, owned=owned)


def _etcd_flags(layout: Layout, port: int, peer_port: int) -> dict[str, str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return {
        "name": "local",
        "data-dir": str(layout.root / "etcd"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"local={peer}",
        "unsafe-no-fsync": "true",  # the data does not outlive the cluster
        "log-level": "warn",
    }


def _api_server_flags(layout: Layout, authority: Authority, etcd_port: int, port: int) -> dict[str, str]:
    hosts = ["127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc", "kubernetes.default"]
    serving = authority.server("apiserver", hosts)
    kubelet = authority.client("apiserver-kubelet", "kube-apiserver", MASTERS)
    account_key = str(authority.service_account_key())
    policy = layout.root / "audit-policy.yaml"
    policy.write_text(yaml.safe_dump(AUDIT_POLICY))
    return {
        "etcd-servers": f"http://127.0.0.1:{etcd_port}",
        "bind-address": "127.0.0.1",
        "advertise-address": "127.0.0.1",
        "secure-port": str(port),
        "endpoint-reconciler-type": "none",
        "tls-cert-file": str(serving.certificate),
        "tls-private-key-file": str(serving.key),
        "client-ca-file": str(authority.certificate),
        **_kubelet_flags(authority, kubelet),
        "authorization-mode": "RBAC",
        "enable-admission-plugins": "PodSecurity",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": account_key,
        "service-account-signing-key-file": account_key,
        "service-cluster-ip-range": "10.96.0.0/16",
        "allow-privileged": "true",
        "audit-policy-file": str(policy),
        "audit-log-path": str(layout.audit_log),
        "audit-log-maxsize": "10000",  # MB: readers keep offsets, so it must not rotate
        "audit-log-mode": "blocking",  # an event is in the file when the caller has its answer
        # Tests measure their own controllers, not the server's fairness between them.
        "enable-priority-and-fairness": "false",
        "max-requests-inflight": "3000",
        "max-mutating-requests-inflight": "1500",
        "profiling": "false",
    }


def _kubelet_flags(authority: Authority, client: Pair) -> dict[str, str]:
    return {
        "kubelet-certificate-authority": str(authority.certificate),
        "kubelet-client-certificate": str(client.certificate),
        "kubelet-client-key": str(client.key),
        "kubelet-preferred-address-types": "InternalIP",
    }


def _controller_manager_flags(layout: Layout, authority: Authority) -> dict[str, str]:
    return {
        "kubeconfig": str(layout.pki / "controller-manager.kubeconfig"),
        "controllers": ",".join(["*", *(f"-{name}" for name in CONTROLLERS_OFF)]),
        "service-account-private-key-file": str(layout.pki / "service-account.key"),
        "root-ca-file": str(authority.certificate),
        "leader-elect": "false",
        "secure-port": "0",
        "kube-api-qps": "500",
        "kube-api-burst": "1000",
        "concurrent-deployment-syncs": "20",
        "concurrent-replicaset-syncs": "20",
        "concurrent-namespace-syncs": "20",
        "concurrent-gc-syncs": "20",
        "concurrent-job-syncs": "20",
        "pvclaimbinder-sync-period": "5s",
        "horizontal-pod-autoscaler-sync-period": "15s",
    }


def _scheduler_flags(layout: Layout) -> dict[str, str]:
    config = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {
            "kubeconfig": str(layout.pki / "scheduler.kubeconfig"),
            "qps": 500,
            "burst": 1000,
        },
        "leaderElection": {"leaderElect": False},
        # A pod that did not fit is looked at again soon: tests wait for it.
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 2,
    }
    path = layout.root / "scheduler.yaml"
    path.write_text(yaml.safe_dump(config))
    return {"config": str(path), "secure-port": "0"}


def _wait_ready(layout: Layout, server: str, ca: Path, seconds: float = 60) -> None:
    context = ssl.create_default_context(cafile=str(ca))
    deadline = time.monotonic() + seconds
    while not _answers(f"{server}/readyz", context):
        _check_running(layout)
        if time.monotonic() > deadline:
            raise TimeoutError(f"the API server is not ready after {seconds:.0f} s, see {layout.logs}")
        time.sleep(0.05)


def _answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, context=context, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _check_running(layout: Layout) -> None:
    for record in processes.read(layout.records):
        processes.wait_gone([record], 0.001)
        if not record.alive():
            tail = (layout.logs / f"{record.name}.log").read_text().splitlines()[-15:]
            raise StartError(f"{record.name} ended at start:\n" + "\n".join(tail))
