"""Real servers on loopback, for as long as a test needs them, and the uploads that a user would make to them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import obstore
from obstore.store import S3Store

from tests.cluster import processes
from tests.cluster.controlplane import free_ports
from tests.servers.build import GCS, REGISTRY, S3, ensure

BUCKET = "models"
ACCESS_KEY, SECRET_KEY = "tester-key-id", "tester-secret-key"
USER, PASSWORD = "puller", "correct horse battery"
# What `htpasswd -nbB puller 'correct horse battery'` prints, with few rounds.
HTPASSWD = "puller:$2b$05$abcdefghijklmnopqrstuuD3mHdCr44zlIZ.VZCaYRpfQhXMYnEo.\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
READY_SECONDS = 30.0


@dataclass(frozen=True)
class Running:
    """A server at ``http://127.0.0.1:PORT``."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[Running]:
    """An S3 gateway over ``folder``, for ACCESS_KEY and SECRET_KEY alone."""
    (port,) = free_ports(1)
    (folder / "objects" / BUCKET).mkdir(parents=True)  # each folder there is a bucket
    (folder / "meta").mkdir()
    command = [str(ensure(S3)), "--port", f"127.0.0.1:{port}", "--keep-alive", "--quiet", "posix"]
    env = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    with _serving([*command, "--sidecar", str(folder / "meta"), str(folder / "objects")], folder, port, env):
        yield Running(port)


@contextlib.contextmanager
def gcs(folder: Path) -> Iterator[Running]:
    """A fake of Google Cloud Storage that lets everybody in."""
    (port,) = free_ports(1)
    options = [
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-public-host",
        "127.0.0.1",
    ]
    command = [
        str(ensure(GCS)),
        *options,
        "-backend",
        "filesystem",
        "-filesystem-root",
        str(folder / "objects"),
    ]
    with _serving(command, folder, port):
        yield Running(port)


@contextlib.contextmanager
def registry(folder: Path, auth: Mapping[str, object] | None = None) -> Iterator[Running]:
    """An OCI registry; ``auth``: as in its configuration, absent: for everybody."""
    (port,) = free_ports(1)
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "of the tests"},
    }
    file = folder / "config.yml"
    file.write_text(json.dumps(config | ({"auth": auth} if auth else {})))  # JSON is YAML
    with _serving([str(ensure(REGISTRY)), "serve", str(file)], folder, port):
        yield Running(port)


def htpasswd(folder: Path) -> dict[str, object]:
    """``auth`` of a registry for USER and PASSWORD."""
    (folder / "htpasswd").write_text(HTPASSWD)
    return {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}


@contextlib.contextmanager
def _serving(
    command: Sequence[str], folder: Path, port: int, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    log = folder / "log"
    record = processes.start(
        "server", command, log=log, records=folder / "records", env={**os.environ, **(env or {})}, owned=True
    )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _listens(port):
            if time.monotonic() > deadline or not record.alive():
                raise RuntimeError(f"{command[0]} does not listen:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        record.send(signal.SIGKILL)
        processes.wait_gone([record], READY_SECONDS)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def upload_s3(server: Running, prefix: str, folder: Path) -> None:
    store = S3Store(
        BUCKET,
        prefix=prefix,
        endpoint=server.endpoint,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)},
    )
    for name, file in _files(folder):
        obstore.put(store, name, file)


def upload_gcs(server: Running, prefix: str, folder: Path) -> None:
    httpx.post(f"{server.endpoint}/storage/v1/b?project=tests", json={"name": BUCKET})
    for name, file in _files(folder):
        query = {"uploadType": "media", "name": f"{prefix}/{name}"}
        url = f"{server.endpoint}/upload/storage/v1/b/{BUCKET}/o"
        httpx.post(url, params=query, content=file.read_bytes()).raise_for_status()


def push(
    server: Running, repository: str, tag: str, folder: Path, headers: Mapping[str, str] | None = None
) -> str:
    """Push the files of ``folder`` as ``oras push`` does, each request with ``headers``; the manifest's digest."""
    with httpx.Client(base_url=f"{server.endpoint}/v2/{repository}", headers=headers) as client:
        layers = [
            {**_push_blob(client, file.read_bytes()), "annotations": {"org.opencontainers.image.title": name}}
            for name, file in _files(folder)
        ]
        empty = {**_push_blob(client, b"{}"), "mediaType": "application/vnd.oci.empty.v1+json"}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": layers}
        text = json.dumps(manifest).encode()
        answer = client.put(f"/manifests/{tag}", content=text, headers={"Content-Type": MANIFEST})
        answer.raise_for_status()
        return f"sha256:{hashlib.sha256(text).hexdigest()}"


def _push_blob(client: httpx.Client, content: bytes) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    place = client.post("/blobs/uploads/").raise_for_status().headers["location"]
    client.put(
        place, params={**dict(httpx.URL(place).params), "digest": digest}, content=content
    ).raise_for_status()
    return {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file
