"""Models and adapters that are elsewhere, behind a Secret: fetched, verified, drawn, and told of where that fails."""

from __future__ import annotations

import base64
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.cluster.cluster import PATIENCE, wait_for
from tests.cluster.fleet import MODELS, Fleet
from tests.e2e.images import conditions, draw, tiny_model, wait_ready
from tests.integration.engine import loras
from tests.pictures import same
from tests.plugins.cluster import Kubectl
from tests.servers import start
from tests.servers.hub import Hub, files_of
from tests.servers.start import ACCESS_KEY, BUCKET, PASSWORD, SECRET_KEY, USER

SECRET = "bucket"
POOL = "inferencepools.imagefleet.dev/fetching"


@pytest.fixture(scope="module")
def bucket() -> Iterator[start.Running]:
    """An S3 server with the demo model tiny-2 and an adapter for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loras.write(MODELS / "tiny-2", folder / "pixel", "denoiser", seed=1)
        with start.s3(folder) as server:
            start.upload_s3(server, "tiny-2", MODELS / "tiny-2")
            start.upload_s3(server, "loras/pixel", folder / "pixel")
            yield server


@pytest.fixture(scope="module")
def elsewhere(bucket: start.Running) -> Iterator[dict[str, tuple[str, dict[str, str]]]]:
    """The demo model tiny-2 in each kind of place: its URI there, and the keys of a Secret for it."""
    source = MODELS / "tiny-2"
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        hub = Hub(files_of(source), token="of-the-tests")
        stack.enter_context(hub.running())
        google = stack.enter_context(start.gcs(folders[0]))
        start.upload_gcs(google, "tiny-2", source)
        registry = stack.enter_context(start.registry(folders[1], start.htpasswd(folders[1])))
        start.push(registry, "models/tiny", "v2", source, {"Authorization": f"Basic {basic}"})
        yield {
            "hf": (hub.uri, {"token": "of-the-tests", "endpoint": hub.endpoint}),
            "s3": (f"s3://{BUCKET}/tiny-2", keys_of(bucket)),
            "gs": (f"gs://{BUCKET}/tiny-2", {"endpoint": google.endpoint}),
            "oci": (
                f"oci://127.0.0.1:{registry.port}/models/tiny:v2",
                {"username": USER, "password": PASSWORD, "endpoint": registry.endpoint},
            ),
        }


def keys_of(server: start.Running) -> dict[str, str]:
    return {"accessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY, "endpoint": server.endpoint}


def secret(name: str, keys: dict[str, str]) -> str:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})


def manifest(kind: str, name: str, spec: dict[str, Any]) -> str:
    document = {
        "apiVersion": "imagefleet.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    return yaml.safe_dump(document)


def from_bucket(name: str, *, secret_name: str = SECRET, **spec: Any) -> str:
    source = {"uri": f"s3://{BUCKET}/tiny-2", "secretRef": {"name": secret_name}}
    return manifest("ImageModel", name, {"source": source, "defaults": {"steps": 4, "size": "64x64"}, **spec})


def pool(*models: str) -> str:
    entries = [{"name": model, "model": model} for model in models]
    worker = {"accelerator": {"count": 0}}
    return manifest("InferencePool", "fetching", {"models": entries, "worker": worker, "replicas": 1})


def workers(kubectl: Kubectl) -> set[str]:
    pods = kubectl.get("pods", "-l", "imagefleet.dev/pool=fetching")["items"]
    return {pod["metadata"]["uid"] for pod in pods}


@pytest.fixture(scope="module")
def served(fleet: Fleet, shared_kubectl: Kubectl, bucket: start.Running) -> Kubectl:
    """A namespace with a pool that serves tiny-2 from the image and from the bucket."""
    keys = secret(SECRET, keys_of(bucket))
    parts = [keys, tiny_model("tiny-2"), from_bucket("tiny-s3"), pool("tiny-2", "tiny-s3")]
    shared_kubectl.apply("---\n".join(parts))
    wait_ready(shared_kubectl, "fetching", "240s")
    return shared_kubectl


def drawn(fleet: Fleet, kubectl: Kubectl, model: str, **more: Any) -> Image.Image:
    return draw(fleet.gateways()[0], f"{kubectl.namespace}/{model}", seed=3, **more).convert("RGB")


def test_a_model_of_a_bucket_is_what_its_folder_is_and_draws_the_same(fleet: Fleet, served: Kubectl) -> None:
    served("wait", "--for=condition=Cached", "imagemodels.imagefleet.dev/tiny-s3", PATIENCE)
    fetched = served.get("imagemodels.imagefleet.dev/tiny-s3")["status"]
    local = served.get("imagemodels.imagefleet.dev/tiny-2")["status"]
    assert fetched["digest"] == local["digest"]
    assert fetched["copies"] == {"available": 1, "total": 1, "failed": 0}
    assert same(drawn(fleet, served, "tiny-s3"), drawn(fleet, served, "tiny-2"))


@pytest.mark.parametrize("scheme", ["hf", "s3", "gs", "oci"])
def test_each_kind_of_place_gives_the_files_that_were_put_there(
    scheme: str, served: Kubectl, elsewhere: dict[str, tuple[str, dict[str, str]]]
) -> None:
    uri, keys = elsewhere[scheme]
    name = f"from-{scheme}"
    source = {"uri": uri, "secretRef": {"name": name}}
    served.apply(secret(name, keys) + "---\n" + manifest("ImageModel", name, {"source": source}))
    served("wait", "--for=condition=Ready", f"imagemodels.imagefleet.dev/{name}", PATIENCE)
    found = served.get(f"imagemodels.imagefleet.dev/{name}")["status"]
    local = served.get("imagemodels.imagefleet.dev/tiny-2")["status"]
    assert (found["digest"], found["bytes"]) == (local["digest"], local["bytes"])


def test_what_a_worker_measured_of_its_sizes_is_told(served: Kubectl) -> None:
    def sizes() -> list[str]:
        status = served.get("imagemodels.imagefleet.dev/tiny-s3")["status"]
        return [size["size"] for entry in status.get("performance", []) for size in entry.get("sizes", [])]

    wait_for(lambda: "64x64" in sizes())


def test_an_adapter_from_the_bucket_is_drawn_with_where_it_is_asked_for_and_restarts_nobody(
    fleet: Fleet, served: Kubectl
) -> None:
    before = workers(served)
    source = {"uri": f"s3://{BUCKET}/loras/pixel", "secretRef": {"name": SECRET}}
    adapters = [{"name": "pixel", "source": source}]
    served.apply(
        from_bucket("tiny-styled", adapters=adapters) + "---\n" + pool("tiny-2", "tiny-s3", "tiny-styled")
    )
    served("wait", "--for=condition=Ready", "imagemodels.imagefleet.dev/tiny-styled", PATIENCE)
    served("wait", "--for=condition=Cached", "imagemodels.imagefleet.dev/tiny-styled", PATIENCE)
    (adapter,) = served.get("imagemodels.imagefleet.dev/tiny-styled")["status"]["adapters"]
    assert (adapter["name"], adapter["digest"][:7]) == ("pixel", "sha256:")
    plain = drawn(fleet, served, "tiny-styled")
    styled = drawn(fleet, served, "tiny-styled", adapters=[{"name": "pixel", "scale": 1.0}])
    assert not same(plain, styled)
    assert same(plain, drawn(fleet, served, "tiny-s3"))
    assert workers(served) == before, "its Secret is mounted already"


def test_a_secret_that_is_missing_is_named_and_hurts_no_other_model(fleet: Fleet, served: Kubectl) -> None:
    served.apply(
        from_bucket("tiny-denied", secret_name="nowhere") + "---\n" + pool("tiny-2", "tiny-s3", "tiny-denied")
    )

    def stalled() -> dict[str, Any]:
        found = conditions(served.get("imagemodels.imagefleet.dev/tiny-denied"))
        return found.get("Stalled", {})

    wait_for(lambda: stalled().get("reason") == "AccessDenied")
    assert f"Secret nowhere of namespace {served.namespace}" in stalled()["message"]
    # The Secret's volume replaces the worker; while it is missing the other models come back all the same.
    wait_for(
        lambda: ready_models(served) == {"tiny-2": True, "tiny-s3": True, "tiny-denied": False}, seconds=180
    )
    assert same(drawn(fleet, served, "tiny-s3"), drawn(fleet, served, "tiny-2"))


def ready_models(kubectl: Kubectl) -> dict[str, bool]:
    return {model["name"]: model["ready"] for model in kubectl.get(POOL)["status"]["models"]}
