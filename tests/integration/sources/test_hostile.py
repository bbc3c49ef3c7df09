"""A hub that lies: nothing is written where it must not be, and no fetch lasts for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources import NodeCache, Place, remote

from tests.integration.sources.conftest import Model, ignore, never, write_secret
from tests.integration.sources.model import LARGE, LARGE_BYTES
from tests.servers.hub import Hub, HubHandler, entry_of, files_of
from tests.servers.proxy import Proxy


@pytest.fixture
def hub(model: Model) -> Iterator[Hub]:
    hub = Hub(files_of(model.published))
    with hub.running():
        yield hub


def place_of(hub: Hub, folder: Path, digest: str | None = None) -> Place:
    return Place(None, hub.uri, str(write_secret(folder, {"endpoint": hub.endpoint})), digest)


def refusal(hub: Hub, cache: NodeCache, folder: Path) -> SourceError:
    with pytest.raises(SourceError) as refused:
        cache.fetch(place_of(hub, folder), ignore, never())
    return refused.value


def entry(hub: Hub, name: str) -> dict[str, object]:
    return next(one for one in hub.listing if one["path"] == name)


@pytest.mark.parametrize(
    "name",
    [
        "unet/../../../escaped.json",
        "unet/a\\b.json",
    ],
)
def test_a_name_that_is_no_plain_file_name_is_refused(
    name: str, hub: Hub, cache: NodeCache, tmp_path: Path
) -> None:
    hub.listing.append(entry_of(name, b"{}"))
    assert refusal(hub, cache, tmp_path).reason == "UnsafePath"
    assert not [file for file in tmp_path.rglob("*.json") if file.name != "model_index.json"]


@pytest.mark.parametrize("name", ["/etc/cron.d/job.json", "../outside.json"])
def test_what_lies_in_no_component_is_not_even_looked_at(
    name: str, hub: Hub, model: Model, cache: NodeCache, tmp_path: Path
) -> None:
    hub.listing.append(entry_of(name, b"{}"))
    folder = cache.fetch(place_of(hub, tmp_path, model.digest), ignore, never())
    assert files_of(folder) == files_of(model.folder)


def test_a_file_that_is_listed_twice_is_refused(hub: Hub, cache: NodeCache, tmp_path: Path) -> None:
    hub.listing.append(entry_of("unet/config.json", b"other"))
    assert refusal(hub, cache, tmp_path).reason == "UnsafePath"


def test_an_index_that_names_folders_outside_is_refused(hub: Hub, cache: NodeCache, tmp_path: Path) -> None:
    index = b'{"_class_name": "StableDiffusionPipeline", "..": ["diffusers", "UNet2DConditionModel"]}'
    hub.files["model_index.json"] = index
    hub.listing = [entry_of("model_index.json", index)]
    assert refusal(hub, cache, tmp_path).reason == "UnsafePath"


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES + 1, 10**15, -1])
def test_a_listing_that_lies_about_a_size_is_found_out(
    size: int, hub: Hub, cache: NodeCache, tmp_path: Path
) -> None:
    one = entry(hub, LARGE)
    one["lfs"] = {"oid": "0" * 64, "size": size}
    assert refusal(hub, cache, tmp_path).reason == ("TooLarge" if size == 10**15 else "FetchFailed")


def test_other_bytes_than_the_listing_says_are_refused_and_forgotten(
    hub: Hub, model: Model, cache: NodeCache, tmp_path: Path
) -> None:
    good = hub.files[LARGE]
    hub.files[LARGE] = bytes(LARGE_BYTES)
    refused = refusal(hub, cache, tmp_path)
    assert refused.reason == "DigestMismatch"
    assert LARGE in refused.message
    hub.files[LARGE] = good
    folder = cache.fetch(place_of(hub, tmp_path, model.digest), ignore, never())
    assert files_of(folder) == files_of(model.folder)


class EndlessFiles(HubHandler):
    """Sends more than it announces, without an end."""

    def send_file(self, content: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            self.wfile.write(content)
            while True:
                self.wfile.write(bytes(65536))
        except OSError:
            return


class EndlessListing(HubHandler):
    """Has always one more page."""

    def _list(self, folder: str) -> None:
        url = f"{self.server.endpoint}/api/models/tests/model/tree/{self.path[-1]}"
        self.reply(200, b"[]", Link=f'<{url}>; rel="next"')

    def answer(self, path: str) -> None:
        self._list("")


class ListingElsewhere(HubHandler):
    def _list(self, folder: str) -> None:
        self.reply(200, b"[]", Link='<http://127.0.0.1:9/more>; rel="next"')


class Nonsense(HubHandler):
    def _list(self, folder: str) -> None:
        self.reply(200, b'{"error": ' + b"[" * 100_000)


class HugeListing(HubHandler):
    def _list(self, folder: str) -> None:
        self.reply(200, b" " * (17 * 1024 * 1024))


class OddEntries(HubHandler):
    def _list(self, folder: str) -> None:
        self.reply(200, b'[{"type": "file", "path": "model_index.json"}]')


@pytest.mark.parametrize("handler", [EndlessListing, ListingElsewhere, Nonsense, HugeListing, OddEntries])
def test_a_listing_without_end_or_sense_is_cut_off(
    handler: type[HubHandler], hub: Hub, cache: NodeCache, tmp_path: Path
) -> None:
    hub.RequestHandlerClass = handler
    assert refusal(hub, cache, tmp_path).reason == "FetchFailed"


def test_a_body_without_end_is_cut_at_its_size(
    hub: Hub, model: Model, cache: NodeCache, tmp_path: Path
) -> None:
    hub.RequestHandlerClass = EndlessFiles
    with Proxy(hub.port).running() as proxy:
        secret = write_secret(tmp_path, {"endpoint": proxy.endpoint})
        folder = cache.fetch(Place(None, hub.uri, str(secret), model.digest), ignore, never())
    assert files_of(folder) == files_of(model.folder)


def test_a_server_without_ranges_is_read_from_the_start(
    hub: Hub, model: Model, cache: NodeCache, tmp_path: Path
) -> None:
    hub.ranges = False
    with Proxy(hub.port, cut_after=2_000_000).running() as proxy:
        secret = write_secret(tmp_path, {"endpoint": proxy.endpoint})
        place = Place(None, hub.uri, str(secret), model.digest)
        folder = cache.fetch(place, ignore, never())
        assert proxy.cuts_left == 0
    assert files_of(folder) == files_of(model.folder)


def test_a_server_that_is_not_there_is_told_after_some_attempts(
    cache: NodeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_DELAY_SECONDS", 0.001)
    secret = write_secret(tmp_path, {"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(SourceError, match=r"127.0.0.1:9: ConnectError .* \(6 attempts\)") as refused:
        cache.fetch(Place(None, f"hf://a/b@{'0' * 40}", str(secret)), ignore, never())
    assert refused.value.reason == "FetchFailed"
