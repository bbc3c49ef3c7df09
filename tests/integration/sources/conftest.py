"""One model in each kind of source, each on a real server of loopback (the hub on a stand-in)."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from imagefleet_runtime.worker.sources import NodeCache, Place

from tests.integration.sources.model import add_unwanted, write_model
from tests.servers import start
from tests.servers.hub import Hub, files_of
from tests.unit.worker.test_source import shell_digest

KINDS = ("hf", "s3", "gs", "oci")
PIECE_BYTES = 1024 * 1024
S3_KEY = {"accessKeyId": start.ACCESS_KEY, "secretAccessKey": start.SECRET_KEY}


@dataclass(frozen=True)
class Model:
    folder: Path  # the files that a worker needs
    published: Path  # all that is in the source
    digest: str


@dataclass(frozen=True)
class Kept:
    """``model`` in a source. ``port``: of its server. ``secret``: what it takes to read it."""

    kind: str
    uri: str
    port: int
    model: Model
    secret: dict[str, str] = field(default_factory=dict)

    def place(self, folder: Path, *, endpoint: str | None = None, digest: str | None = None) -> Place:
        """The place, with its Secret as a folder below ``folder``. ``endpoint``: instead of the server's own."""
        secret = {**self.secret, "endpoint": endpoint or f"http://127.0.0.1:{self.port}"}
        return Place(None, self.uri, str(write_secret(folder, secret)), digest)


def write_secret(folder: Path, values: dict[str, str]) -> Path:
    """As a Secret is mounted: each key is a link into a folder that can be replaced as a whole."""
    secret = folder / "secret"
    shutil.rmtree(secret, ignore_errors=True)
    (secret / "..2026_11_22").mkdir(parents=True)
    (secret / "..data").symlink_to("..2026_11_22")
    for key, value in values.items():
        (secret / "..data" / key).write_text(value)
        (secret / key).symlink_to(f"..data/{key}")
    return secret


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("model")
    folder = write_model(root / "wanted")
    published = add_unwanted(shutil.copytree(folder, root / "published"))
    return Model(folder, published, shell_digest(folder))


@pytest.fixture(scope="session")
def hub(model: Model) -> Iterator[Hub]:
    """For those who hold a token."""
    hub = Hub(files_of(model.published), token="hf_secret_of_the_tests")
    with hub.running():
        yield hub


@pytest.fixture(scope="session")
def s3(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[start.Running]:
    with start.s3(tmp_path_factory.mktemp("s3")) as server:
        start.upload_s3(server, "team-a/model", model.published)
        yield server


@pytest.fixture(scope="session")
def gcs(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[start.Running]:
    with start.gcs(tmp_path_factory.mktemp("gcs")) as server:
        start.upload_gcs(server, "team-a/model", model.published)
        yield server


@pytest.fixture(scope="session")
def registry(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[start.Running]:
    with start.registry(tmp_path_factory.mktemp("registry")) as server:
        start.push(server, "team-a/model", "v1", model.published)
        yield server


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, model: Model) -> Kept:
    """The model in each kind of source in turn."""
    return keep(request.param, request, model)


@pytest.fixture
def in_s3(request: pytest.FixtureRequest, model: Model) -> Kept:
    """For what does not depend on the kind."""
    return keep("s3", request, model)


def keep(kind: str, request: pytest.FixtureRequest, model: Model) -> Kept:
    if kind == "hf":
        hub: Hub = request.getfixturevalue("hub")
        return Kept(kind, hub.uri, hub.port, model, {"token": str(hub.token)})
    server: start.Running = request.getfixturevalue({"oci": "registry", "gs": "gcs"}.get(kind, kind))
    if kind == "oci":
        return Kept(kind, f"oci://127.0.0.1:{server.port}/team-a/model:v1", server.port, model)
    uri = f"{kind}://{start.BUCKET}/team-a/model"
    return Kept(kind, uri, server.port, model, S3_KEY if kind == "s3" else {})


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return make_cache(tmp_path / "cache")


def make_cache(folder: Path, limit_bytes: int = 10**9, source_limit_bytes: int = 10**9) -> NodeCache:
    return NodeCache(folder, limit_bytes, source_limit_bytes, piece_bytes=PIECE_BYTES)


def ignore(done: int, total: int) -> None:
    """For fetches whose progress nobody looks at."""


def never() -> threading.Event:
    """What stops no fetch."""
    return threading.Event()
