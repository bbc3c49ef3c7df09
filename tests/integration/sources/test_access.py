"""Who may read a source, and what is told to whom."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources import NodeCache, Place

from tests.integration.sources.conftest import Kept, Model, ignore, keep, never, write_secret
from tests.servers import start
from tests.servers.hub import Cdn, Hub, files_of
from tests.servers.tokens import TokenServer

WRONG = {
    "hf": {"token": "hf_of_somebody_else"},
    "s3": {"accessKeyId": start.ACCESS_KEY, "secretAccessKey": "not-the-secret-key"},
}
LOGIN = {"username": start.USER, "password": start.PASSWORD}


@pytest.mark.parametrize("kind", ["hf", "s3"])
@pytest.mark.parametrize("secret", ["none", "wrong"])
def test_who_may_not_read_is_refused_at_once_and_no_secret_is_told(
    kind: str, secret: str, request: pytest.FixtureRequest, model: Model, cache: NodeCache, tmp_path: Path
) -> None:
    kept = keep(kind, request, model)
    given = WRONG[kind] if secret == "wrong" else {}
    with pytest.raises(SourceError, match="check the Secret") as refused:
        cache.fetch(Kept(kind, kept.uri, kept.port, model, given).place(tmp_path), ignore, never())
    assert refused.value.reason == "AccessDenied"
    assert not [value for value in given.values() if value in refused.value.message]


@pytest.mark.parametrize(
    ("kind", "found", "wanted"),
    [
        ("hf", "tests/model", "tests/absent"),
        ("s3", "team-a/model", "team-a/absent"),
        ("s3", "s3://models", "s3://no-such-bucket"),
        ("gs", "team-a/model", "team-a/absent"),
        ("oci", "team-a/model", "team-a/absent"),
        ("oci", ":v1", ":v2"),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(
    kind: str,
    found: str,
    wanted: str,
    request: pytest.FixtureRequest,
    model: Model,
    cache: NodeCache,
    tmp_path: Path,
) -> None:
    kept = keep(kind, request, model)
    absent = Kept(kind, kept.uri.replace(found, wanted), kept.port, model, kept.secret)
    with pytest.raises(SourceError) as refused:
        cache.fetch(absent.place(tmp_path), ignore, never())
    assert refused.value.reason == "SourceNotFound"


def test_a_token_is_not_sent_to_the_host_that_holds_the_files_nor_logged(
    model: Model, cache: NodeCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    files = files_of(model.published)
    cdn = Cdn(files)
    hub = Hub(files, token="hf_secret_of_the_tests", cdn=cdn)
    with cdn.running(), hub.running():
        kept = Kept("hf", hub.uri, hub.port, model, {"token": "hf_secret_of_the_tests"})
        folder = cache.fetch(kept.place(tmp_path, digest=model.digest), ignore, never())
    assert files_of(folder) == files_of(model.folder)
    assert {authorization for _, authorization in hub.asked} == {"Bearer hf_secret_of_the_tests"}
    assert cdn.asked
    assert {authorization for _, authorization in cdn.asked} == {None}
    assert "hf_secret" not in caplog.text
    assert "X-Amz-Signature" not in caplog.text


@pytest.fixture(scope="module")
def guarded(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of the model in a registry that asks for a password."""
    folder = tmp_path_factory.mktemp("guarded")
    basic = base64.b64encode(f"{start.USER}:{start.PASSWORD}".encode()).decode()
    with start.registry(folder, start.htpasswd(folder)) as server:
        start.push(server, "team-a/model", "v1", model.published, {"Authorization": f"Basic {basic}"})
        yield f"oci://127.0.0.1:{server.port}/team-a/model:v1"


def docker_config(uri: str) -> dict[str, str]:
    registry = uri.removeprefix("oci://").partition("/")[0]
    auth = base64.b64encode(f"{start.USER}:{start.PASSWORD}".encode()).decode()
    return {".dockerconfigjson": json.dumps({"auths": {registry: {"auth": auth}}})}


@pytest.mark.parametrize("form", ["password", "docker"])
def test_a_registry_takes_a_password_in_either_form(
    guarded: str, form: str, model: Model, cache: NodeCache, tmp_path: Path
) -> None:
    secret = LOGIN if form == "password" else docker_config(guarded)
    place = Place(None, guarded, str(write_secret(tmp_path, secret)), model.digest)
    assert files_of(cache.fetch(place, ignore, never())) == files_of(model.folder)


@pytest.mark.parametrize("secret", [None, {**LOGIN, "password": "not the password"}])
def test_a_registry_refuses_others(
    guarded: str, secret: dict[str, str] | None, cache: NodeCache, tmp_path: Path
) -> None:
    credentials = None if secret is None else str(write_secret(tmp_path, secret))
    with pytest.raises(SourceError, match="check the Secret") as refused:
        cache.fetch(Place(None, guarded, credentials), ignore, never())
    assert refused.value.reason == "AccessDenied"
    assert "not the password" not in refused.value.message


def test_a_registry_with_a_token_server_is_read_with_a_token(
    model: Model, cache: NodeCache, tmp_path: Path
) -> None:
    tokens = TokenServer()
    with tokens.running(), start.registry(tmp_path, tokens.auth(tmp_path)) as server:
        push = {"Authorization": f"Bearer {tokens.token('repository:team-a/model:pull,push')}"}
        digest = start.push(server, "team-a/model", "v1", model.published, push)
        uri = f"oci://127.0.0.1:{server.port}/team-a/model@{digest}"
        place = Place(None, uri, str(write_secret(tmp_path / "pull", LOGIN)), model.digest)
        assert files_of(cache.fetch(place, ignore, never())) == files_of(model.folder)
        assert len(tokens.asked) == 1
        place = Place(None, uri, str(write_secret(tmp_path / "wrong", {**LOGIN, "password": "guess"})), None)
        with pytest.raises(SourceError) as refused:
            cache.fetch(place, ignore, never())
        assert refused.value.reason == "AccessDenied"
