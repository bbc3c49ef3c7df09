"""What remote sources have in common: URIs, credentials, waits, and the limits of their HTTP requests."""

import json
from pathlib import Path

import httpx
import pytest
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.buckets import AWS_IDENTITY, gcs_store, s3_store
from imagefleet_runtime.worker.sources.credentials import Credentials, read_credentials
from imagefleet_runtime.worker.sources.place import Place
from imagefleet_runtime.worker.sources.registry import default_endpoint, login, read_manifest
from imagefleet_runtime.worker.sources.remote import TransientError, delay_seconds
from imagefleet_runtime.worker.sources.schemes import open_remote, place_of
from imagefleet_runtime.worker.sources.web import Web, check_endpoint

from tests.servers.hub import Handler, WebServer

REVISION = "0" * 40
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("failures", "retry_after", "jitter", "want"),
    [
        (3, None, 0.5, 1.5),  # the documented example
        (1, None, 0.0, 0.25),
        (1, None, 1.0, 0.5),
        (1, 7.0, 1.0, 7.0),
        (50, None, 1.0, 30.0),
        (1, 86400.0, 0.0, 30.0),
    ],
)
def test_waits_grow_and_end(failures: int, retry_after: float | None, jitter: float, want: float) -> None:
    assert delay_seconds(failures, retry_after, jitter) == want


@pytest.mark.parametrize(
    "uri",
    [
        f"hf://owner/name@{REVISION}",
        f"hf://owner/name@{REVISION}/a+b/c,d/",
        "s3://bucket/prefix/of/it",
        "gs://bucket.with.dots/prefix",
        f"oci://registry.example:5000/a/b@{DIGEST}",
        "oci://docker.io/a/b:v1.0",
    ],
)
def test_uris_of_remote_sources_are_understood(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    open_remote(uri, Credentials()).close()
    assert place_of(uri, "/secrets/a", DIGEST) == Place(None, uri, "/secrets/a", DIGEST)


@pytest.mark.parametrize(
    "uri",
    [
        "hf://owner/name",
        "hf://owner/name@main",
        f"hf://name@{REVISION}",
        f"hf://owner/name@{REVISION}/../other",
        f"hf://owner/name@{REVISION}?x=1",
        f"hf://user:password@owner/name@{REVISION}",
        "s3://UPPER/prefix",
        "s3://bucket/../prefix",
        "oci://registry/a",
        "oci://user@registry/a:v1",
        "oci://registry/a@sha256:abc",
        "oci://registry/../a:v1",
        "ftp://server/a",
        "https://server/a",
        "",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(SourceError) as refused:
        open_remote(uri, Credentials())
    assert refused.value.reason == "UnsafePath"


def test_local_uris_are_folders_of_the_pod() -> None:
    assert place_of("file:///models/a", "/secrets/a", DIGEST) == Place("/models/a", None, None, DIGEST)
    assert place_of("pvc://weights/a", None, None, adapter=True).path == "/pvc/weights/a"


def test_credentials_are_the_files_of_the_secret_and_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "token").write_text("hf_abcdefgh\n")
    (tmp_path / "token").symlink_to("..data/token")
    (tmp_path / "region").write_text("eu-west-1")
    found = read_credentials(str(tmp_path))
    assert (found.get("token"), found.get("region"), found.get("absent")) == (
        "hf_abcdefgh",
        "eu-west-1",
        None,
    )
    assert found.redact("token hf_abcdefgh in eu-west-1") == "token *** in eu-west-1"
    assert "hf_abcdefgh" not in repr(found)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": "1"}, {"a": "1"}, True),
        ({"a": "1"}, {"a": "2"}, False),
        ({"a": "1"}, {"b": "1"}, False),
        ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}, True),
        ({}, {"a": "1"}, False),
    ],
)
def test_fingerprints_tell_credentials_apart(one: dict[str, str], other: dict[str, str], equal: bool) -> None:
    assert (Credentials(one).fingerprint() == Credentials(other).fingerprint()) is equal
    assert Credentials().fingerprint() == ""


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_credentials_that_cannot_be_read_are_told(content: bytes | None, tmp_path: Path) -> None:
    folder = tmp_path / "secret"
    if content is not None:
        folder.mkdir()
        (folder / "token").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read") as refused:
        read_credentials(str(folder))
    assert refused.value.reason == "AccessDenied"


def web(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response) -> Web:
    """A client whose requests are all answered so."""
    transport = httpx.MockTransport(lambda request: answer)
    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: client(transport=transport, **options))
    return Web("https://hub.example")


def test_a_redirect_away_from_https_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    redirect = httpx.Response(302, headers={"Location": "http://hub.example/a"})
    with pytest.raises(SourceError, match="redirects to http://, not https://"):
        web(monkeypatch, redirect).json("https://hub.example/a", {})


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "AccessDenied"),
        (403, "AccessDenied"),
        (404, "SourceNotFound"),
        (410, "SourceNotFound"),
        (418, "FetchFailed"),
    ],
)
def test_an_error_is_told_by_its_status_and_without_the_query(
    status: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match=rf"https://hub.example/a answers {status}") as refused:
        web(monkeypatch, httpx.Response(status)).json("https://hub.example/a?signature=of-it", {})
    assert refused.value.reason == reason
    assert "of-it" not in refused.value.message


@pytest.mark.parametrize(
    ("headers", "want"),
    [({}, None), ({"Retry-After": "7"}, 7.0), ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None)],
)
def test_a_busy_server_is_asked_again_when_it_says(
    headers: dict[str, str], want: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TransientError) as busy:
        web(monkeypatch, httpx.Response(503, headers=headers)).json("https://hub.example/a", {})
    assert busy.value.retry_after == want


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "hub.example",
        "ftp://hub.example",
        "https://",
        "https://user:word@hub.example",
        "https://host\nname",
    ],
)
def test_an_endpoint_is_a_plain_url(endpoint: str) -> None:
    with pytest.raises(SourceError, match="the endpoint must be"):
        check_endpoint(endpoint)
    assert check_endpoint("http://minio.storage.svc:9000/") == "http://minio.storage.svc:9000"


@pytest.mark.parametrize(
    ("registry", "want"),
    [
        ("ghcr.io", "https://ghcr.io"),
        ("registry.example:5000", "https://registry.example:5000"),
        ("docker.io", "https://registry-1.docker.io"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("localhost", "http://localhost"),
        ("localhost.example", "https://localhost.example"),
    ],
)
def test_registries_are_asked_over_https_but_on_loopback(registry: str, want: str) -> None:
    assert default_endpoint(registry) == want


def docker(auths: object) -> dict[str, str]:
    return {".dockerconfigjson": json.dumps({"auths": auths})}


@pytest.mark.parametrize(
    ("registry", "secret", "want"),
    [
        ("ghcr.io", {}, None),
        ("ghcr.io", {"username": "a"}, None),
        ("ghcr.io", {"username": "a", "password": "b"}, "YTpi"),
        ("ghcr.io", docker({"ghcr.io": {"auth": "YTpi"}}), "YTpi"),
        ("ghcr.io", docker({"https://ghcr.io/v2/": {"username": "a", "password": "b"}}), "YTpi"),
        ("docker.io", docker({"https://index.docker.io/v1/": {"auth": "YTpi"}}), "YTpi"),
        ("ghcr.io", docker({"quay.io": {"auth": "YTpi"}}), None),
    ],
)
def test_logins_come_from_either_form_of_secret(
    registry: str, secret: dict[str, str], want: str | None
) -> None:
    assert login(registry, Credentials(secret)) == want


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"auths": []}', '{"auths": {"ghcr.io": {}}}'])
def test_nonsense_is_no_docker_config(text: str) -> None:
    with pytest.raises(SourceError, match="dockerconfigjson"):
        login("ghcr.io", Credentials({".dockerconfigjson": text or " x"}))


TITLE = "org.opencontainers.image.title"


def manifest(**layer: object) -> bytes:
    whole = {"digest": DIGEST, "size": 5, "annotations": {TITLE: "unet/config.json"}, **layer}
    return json.dumps({"layers": [whole, {"digest": DIGEST, "size": 5}]}).encode()


def test_the_layers_with_a_title_are_the_files() -> None:
    (found,) = read_manifest(manifest())
    assert (found.name, found.size, found.sha256) == ("unet/config.json", 5, "a" * 64)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "FetchFailed"),
        (b"[]", "FetchFailed"),
        (b"{}", "FetchFailed"),
        (b'{"layers": 5}', "FetchFailed"),
        (b'{"manifests": []}', "NotAPipeline"),
        (manifest(digest="sha512:" + "a" * 128), "FetchFailed"),
        (manifest(size="many"), "FetchFailed"),
        (manifest(annotations={TITLE: "unet", "io.deis.oras.content.unpack": "true"}), "NotAPipeline"),
    ],
)
def test_other_manifests_are_refused(text: bytes, reason: str) -> None:
    with pytest.raises(SourceError) as refused:
        read_manifest(text)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("secret", "env", "signs"),
    [
        ({}, {}, False),
        ({"accessKeyId": "a", "secretAccessKey": "b"}, {}, True),
        ({"region": "eu-west-1"}, {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}, True),
        ({}, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1"}, True),
    ],
)
def test_a_bucket_is_read_with_the_secret_else_the_pods_identity_else_none(
    secret: dict[str, str], env: dict[str, str], signs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in AWS_IDENTITY:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    store = s3_store("bucket", None, Credentials(secret))
    assert store.config.get("skip_signature", False) is not signs


class Metadata(Handler):
    """The link-local server of a cloud. ``/google`` before its path: Google's."""

    def answer(self, path: str) -> None:
        self.reply(
            200, b"pod@project", **({"Metadata_Flavor": "Google"} if path.startswith("/google") else {})
        )


@pytest.mark.parametrize(("cloud", "signs"), [("google", True), ("another", False)])
def test_a_pod_with_an_identity_of_google_uses_it(
    cloud: str, signs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    server = WebServer(Metadata)
    with server.running():
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.port}/{cloud}")
        store = gcs_store("bucket", None, Credentials())
    assert store.config.get("skip_signature", False) is not signs


def test_half_a_key_is_refused() -> None:
    with pytest.raises(SourceError, match="both accessKeyId and secretAccessKey"):
        s3_store("bucket", None, Credentials({"accessKeyId": "a"}))
