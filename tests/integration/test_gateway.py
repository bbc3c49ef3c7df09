"""The gateway against a real API server: what it learns, what it forgets, and that a request arrives."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from imagefleet_runtime.gateway.fleet import Fleet
from imagefleet_runtime.gateway.resources import PoolView
from imagefleet_runtime.gateway.watch import SOURCES, Watch
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from tests.cluster.cluster import PATIENCE, PATIENCE_SECONDS, Cluster, wait_for
from tests.cluster.node.config import NodeSpec
from tests.plugins.cluster import Kubectl

CRDS = "crds"
MODEL = """
apiVersion: imagefleet.dev/v1alpha1
kind: ImageModel
metadata: {name: shapes-1}
spec: {source: {uri: file:///models/shapes-1}, license: {spdx: MIT}}
"""
POOL = """
apiVersion: imagefleet.dev/v1alpha1
kind: InferencePool
metadata: {name: %s}
spec: {models: [{name: %s, model: shapes-1}], replicas: 1}
"""
# Answers as a worker does, and shows the token that it got.
WORKER = """
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer({"workSeconds": 0, "models": [{"model": "shapes-1", "state": "Resident"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked["prompt"] == "without end":
            print("began", flush=True)
            self.rfile.read(1)
            print("called off", flush=True)
            return
        self.answer({"asked": asked, "authorization": self.headers["authorization"]})

http.server.ThreadingHTTPServer((os.environ["IMAGEFLEET_HOST"], 8000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own: no operator changes what the tests write."""
    folder = tmp_path_factory.mktemp("gateway") / "it"
    running = Cluster.start(folder, nodes=[NodeSpec("node-1", gpus=0)], owned=True)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def crds(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", CRDS)
    cluster.kubectl("wait", "--for=condition=Established", "-f", CRDS, PATIENCE)


def worker_pod(name: str, pool: str) -> str:
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "imagefleet-worker", "imagefleet.dev/pool": pool},
            "annotations": {"imagefleet.dev/placement": '{"shapes-1": {"pinned": true}}'},
        },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "worker",
                    "image": "worker",
                    "command": ["python", "-c", textwrap.dedent(WORKER)],
                    "ports": [{"name": "http", "containerPort": 8000}],
                    "readinessProbe": {
                        "httpGet": {"path": "/v1/worker", "port": 8000},
                        "periodSeconds": 1,
                        "failureThreshold": 1,
                    },
                }
            ],
        },
    }
    return yaml.safe_dump(pod)


class Gateway:
    """The gateway's own process."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        self.key = Ed25519PrivateKey.generate()
        key_file = folder / "caller.pem"
        key_file.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        env = {
            "KUBECONFIG": str(kubeconfig),
            "IMAGEFLEET_HOST": "127.0.0.1",
            "IMAGEFLEET_PORT": str(self.port),
            "IMAGEFLEET_CALLER_KEY_FILE": str(key_file),
            "IMAGEFLEET_LAME_DUCK_SECONDS": "0",
        }
        self.log = folder / "gateway.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(Path(sys.prefix, "bin", "imagefleet-gateway"))],
                env=os.environ | env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers (lower case); status 0 where nobody listens."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as reply:
                text, status, headers = reply.read(), reply.status, reply.headers
        except urllib.error.HTTPError as error:
            text, status, headers = error.read(), error.code, error.headers
        except OSError:
            return 0, None, {}
        with suppress(ValueError):
            text = json.loads(text)
        return status, text, {name.lower(): value for name, value in headers.items()}

    def generate(self, model: str, **fields: Any) -> tuple[int, Any, dict[str, str]]:
        return self.ask("/v1/images/generations", {"prompt": "a red circle", "model": model} | fields)


@pytest.fixture
def gateway(cluster: Cluster, tmp_path: Path) -> Iterator[Gateway]:
    running = Gateway(tmp_path, cluster.kubeconfig)
    yield running
    running.process.kill()
    running.process.wait()


def test_waits_for_crds_then_serves_from_manifest_to_picture(
    cluster: Cluster, gateway: Gateway, kubectl: Kubectl, request: pytest.FixtureRequest
) -> None:
    # First in this file: the only test that sees the cluster without the CRDs.
    missing = (503, b"not listed yet: inferencepools, imagemodels\n")
    wait_for(lambda: gateway.ask("/readyz")[:2] == missing)
    request.getfixturevalue("crds")
    wait_for(lambda: gateway.ask("/readyz")[0] == 200)

    kubectl.apply(MODEL)
    kubectl.apply(POOL % ("thumbs", "shapes"))
    kubectl.apply(worker_pod("w1", "thumbs"))
    name = f"{kubectl.namespace}/shapes"
    wait_for(lambda: gateway.ask(f"/v1/models/{name}")[0] == 200)

    # The request is held until the pod is ready.
    status, body, headers = gateway.generate(name, seed=42)
    assert status == 200
    assert (body["asked"]["model"], body["asked"]["width"], body["asked"]["seed"]) == ("shapes-1", 512, 42)
    assert (headers["x-imagefleet-model"], headers["x-imagefleet-pool"]) == ("shapes-1", "thumbs")
    token = body["authorization"].removeprefix("Bearer ")
    audience = f"{kubectl.namespace}/thumbs"
    claims = jwt.decode(token, gateway.key.public_key(), algorithms=["EdDSA"], audience=audience)
    assert claims["iss"] == "imagefleet-gateway"

    kubectl("delete", "inferencepool", "thumbs")
    wait_for(lambda: gateway.generate(name)[0] == 404)
    assert gateway.generate(name)[1]["error"]["code"] == "model_not_found"

    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(timeout=PATIENCE_SECONDS) == 0
    assert "a red circle" not in gateway.log.read_text()


@pytest.mark.usefixtures("crds")
def test_suspending_a_pool_ends_what_runs_and_lifting_it_serves_again(
    gateway: Gateway, kubectl: Kubectl
) -> None:
    kubectl.apply(MODEL)
    kubectl.apply(POOL % ("thumbs", "shapes"))
    kubectl.apply(worker_pod("w1", "thumbs"))
    name = f"{kubectl.namespace}/shapes"
    kubectl("wait", "--for=condition=Ready", "pod/w1", PATIENCE)
    wait_for(lambda: gateway.ask(f"/v1/models/{name}")[0] == 200)

    with ThreadPoolExecutor() as callers:
        running = callers.submit(gateway.generate, name, prompt="without end")
        wait_for(lambda: "began" in kubectl("logs", "w1"))
        kubectl("patch", "inferencepool", "thumbs", "--type=merge", '-p={"spec": {"suspend": true}}')
        status, body, headers = running.result(timeout=PATIENCE_SECONDS)
    assert (status, body["error"]["code"]) == (503, "model_suspended")
    assert headers["x-should-retry"] == "false"
    wait_for(lambda: "called off" in kubectl("logs", "w1"))
    assert gateway.generate(name)[0] == 503

    kubectl("patch", "inferencepool", "thumbs", "--type=merge", '-p={"spec": {"suspend": false}}')
    wait_for(lambda: gateway.generate(name)[0] == 200)


IN_CLUSTER = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: gateway}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: test-gateway}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [imagefleet.dev], resources: [inferencepools, imagemodels], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: test-gateway}
subjects: [{kind: ServiceAccount, name: gateway, namespace: %s}]
---
apiVersion: v1
kind: Pod
metadata: {name: gateway}
spec:
  serviceAccountName: gateway
  terminationGracePeriodSeconds: 30
  restartPolicy: Never
  volumes: [{name: key, secret: {secretName: caller-key}}]
  containers:
  - name: gateway
    image: gateway
    command: [imagefleet-gateway]
    env:
    - {name: IMAGEFLEET_CALLER_KEY_FILE, value: /etc/caller/caller.pem}
    - {name: IMAGEFLEET_LAME_DUCK_SECONDS, value: "0"}
    volumeMounts: [{name: key, mountPath: /etc/caller, readOnly: true}]
    readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
"""


@pytest.mark.usefixtures("crds")
def test_as_a_pod_it_needs_only_to_read_three_kinds(kubectl: Kubectl, tmp_path: Path) -> None:
    key = tmp_path / "caller.pem"
    key.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    kubectl("create", "secret", "generic", "caller-key", f"--from-file=caller.pem={key}")
    kubectl.apply(IN_CLUSTER % kubectl.namespace)
    kubectl("wait", "--for=condition=Ready", "pod/gateway", PATIENCE)
    log = kubectl("logs", "gateway")
    kubectl("delete", "pod", "gateway", "--wait=true", PATIENCE)
    assert "watch of" not in log


class Cut:
    """The way to the API server, which can be cut and mended."""

    def __init__(self, server: str) -> None:
        target = urlsplit(server)
        self._host, self._port = target.hostname, target.port
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def mend(self) -> None:
        self._listener = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def cut(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for writer in self._open:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        self._open |= {writer, back}
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        self._open -= {writer, back}

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def client_of(kubeconfig: Path) -> AsyncIterator[ApiClient]:
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        yield client


@asynccontextmanager
async def watching(fleet: Fleet, client: ApiClient, version: str | None = None) -> AsyncIterator[list[str]]:
    """Runs all watches; yields the reasons for which they were restarted."""
    restarts: list[str] = []
    watches = [
        Watch(source, client, fleet, lambda _, reason: restarts.append(reason), version=version)
        for source in SOURCES
    ]
    tasks = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        yield restarts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_known(fleet: Fleet, namespace: str, *names: str) -> None:
    """Returns when the fleet's routes of a namespace are these."""
    want = {f"{namespace}/{name}" for name in names}
    changed = asyncio.Event()
    fleet.on_change.append(changed.set)
    async with asyncio.timeout(60):
        while {name for name in fleet.snapshot.routes if name.startswith(f"{namespace}/")} != want:
            await changed.wait()
            changed.clear()


@pytest.mark.usefixtures("crds")
async def test_what_changes_while_the_api_server_is_away_is_known_afterwards(
    cluster: Cluster, kubectl: Kubectl, tmp_path: Path
) -> None:
    kubectl.apply(POOL % ("one", "one"))
    kubectl.apply(POOL % ("two", "two"))
    way = Cut(cluster.server)
    await way.mend()
    through = tmp_path / "kubeconfig"
    text = cluster.kubeconfig.read_text().replace(cluster.server, f"https://127.0.0.1:{way.port}")
    through.write_text(text)
    fleet = Fleet()
    async with client_of(through) as client, watching(fleet, client) as restarts:
        await until_known(fleet, kubectl.namespace, "one", "two")
        way.cut()
        await asyncio.to_thread(kubectl, "delete", "inferencepool", "one")
        await asyncio.to_thread(kubectl.apply, POOL % ("three", "three"))
        known = fleet.snapshot.routes
        assert f"{kubectl.namespace}/one" in known
        await way.mend()
        await until_known(fleet, kubectl.namespace, "two", "three")
    way.cut()
    assert "failed" in restarts
    assert "expired" not in restarts


@pytest.mark.usefixtures("crds")
async def test_after_real_expiry_what_is_gone_is_forgotten(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(POOL % ("stays", "stays"))
    fleet = Fleet()
    ghost = PoolView(kubectl.namespace, "ghost", 0, ())
    fleet.put("inferencepools", (kubectl.namespace, "ghost"), ghost)
    # Version 1 is older than anything the API server remembers: it answers 410.
    async with client_of(cluster.kubeconfig) as client, watching(fleet, client, version="1") as restarts:
        await until_known(fleet, kubectl.namespace, "stays")
    assert "expired" in restarts


@pytest.mark.usefixtures("crds")
async def test_a_placement_of_the_operator_reaches_the_routes(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(MODEL)
    kubectl.apply(POOL % ("thumbs", "shapes"))
    kubectl.apply(worker_pod("w1", "thumbs"))
    fleet = Fleet()

    def candidates() -> tuple[str, ...]:
        route = fleet.snapshot.routes.get(f"{kubectl.namespace}/shapes")
        return tuple(w.pod for share in (route.shares if route else ()) for w in share.workers)

    async def until_candidates(*want: str) -> None:
        changed = asyncio.Event()
        fleet.on_change.append(changed.set)
        async with asyncio.timeout(60):
            while candidates() != want:
                await changed.wait()
                changed.clear()

    async with client_of(cluster.kubeconfig) as client, watching(fleet, client):
        await until_candidates("w1")
        placement = "imagefleet.dev/placement={}"
        await asyncio.to_thread(kubectl, "annotate", "pod", "w1", "--overwrite", placement)
        await until_candidates()
        placed = 'imagefleet.dev/placement={"shapes-1": {"pinned": false}}'
        await asyncio.to_thread(kubectl, "annotate", "pod", "w1", "--overwrite", placed)
        await until_candidates("w1")
        await asyncio.to_thread(kubectl, "delete", "pod", "w1")
        await until_candidates()
